"""Train a model of 250 thousand weights on generated sums and let it write; a few seconds on one core.

python examples/train_and_sample.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from pedigree.model.decoder import Decoder
from pedigree.model.generation import stream
from pedigree.model.members import member
from pedigree.records.recorder import NullRecorder
from pedigree.tokenizers.companions import written
from pedigree.tokenizers.texts import Text
from pedigree.tokenizers.training import TrainingOptions
from pedigree.tokenizers.training import train as train_tokenizer
from pedigree.training.config import OptimizerConfig, SourceConfig, TrainingConfig
from pedigree.training.fit import ModelFacts
from pedigree.training.run import Run
from pedigree.training.shards import Vocabulary
from pedigree.training.sources import documents


def main(folder: Path) -> None:
    """Tokenizer, model, run, sample: everything that it makes lies in `folder`."""
    sums = SourceConfig(kind="arithmetic", max_documents=400, held_out=0.05)
    text = Text("sums", tuple(documents(sums)), "document", "generated")
    encoder = train_tokenizer([text], TrainingOptions("byte-level", 384))
    (folder / "tokenizer.json").write_text(written(encoder.definition), encoding="utf-8")
    vocabulary = Vocabulary.load(folder / "tokenizer.json")

    shape = member("llama-3-8b-pico").replace(vocab_size=vocabulary.size)
    model = Decoder(shape, seed=1)
    config = TrainingConfig(
        sources=(sums,), tokens=60 * 8 * 64, sequence_length=64, batch_sequences=8, seed=1,
        optimizer=OptimizerConfig(lr=5e-3),
    )  # fmt: skip
    facts = ModelFacts(shape.to_dict(), shape.vocab_size, shape.n_positions)
    run = Run(
        model, facts, config, vocabulary, output=folder / "run", cache=folder / "tokens", recorder=NullRecorder(),
        device=torch.device("cpu"),
    )  # fmt: skip
    run.start()  # goes on from the newest checkpoint, if one lies in the folder
    summary = run.work()
    scores = "".join(f", held-out text {score.bits_per_byte:.2f} bits per byte" for score in summary.scores)
    print(f"{summary.tokens:,} tokens, loss {summary.loss:.2f}{scores}")

    prompt = vocabulary.tokenizer.encode("3 plus 4 is", add_special_tokens=False).ids
    tokens = [int(token) for token in stream(model, torch.tensor([[vocabulary.separator, *prompt]]), 24)]
    print("3 plus 4 is" + vocabulary.tokenizer.decode(tokens))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
