"""A pico model with random weights, a small tokenizer and a chat template, written in a second."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from pedigree.model.decoder import Decoder
from pedigree.model.hf_checkpoint import export_checkpoint
from pedigree.model.members import member
from pedigree.tokenizers.companions import written
from pedigree.tokenizers.texts import Text
from pedigree.tokenizers.training import TrainingOptions, train

CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' and loop.first %}{{ raise_exception('the user begins') }}{% endif %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT = 256


def write_speaker(
    folder: Path, *, template: str | None = TEMPLATE, name: str = "qwen2.5-14b-pico", context: int = CONTEXT
) -> Path:
    """A model directory that `pedigree chat` and `pedigree serve` can open; no template where `template` is None."""
    text = Text("verse", ("the moon is bright, the river flows, the night is long\n",) * 50, "line", "verse")
    encoder = train([text], TrainingOptions(size=300, specials=CONTROLS))
    config = member(name).replace(vocab_size=320, n_positions=context)
    model = Decoder(config, seed=0)
    with torch.no_grad():
        # Large logits, so that an answer does not hang on the last digit; controls and empty rows are never said.
        model.head_weight.mul_(20.0)
        if model.head is not None:
            model.head_weight[: len(CONTROLS)] = 0
            model.head_weight[encoder.size :] = 0
    export_checkpoint(model, folder)
    (folder / "tokenizer.json").write_text(written(encoder.definition), encoding="utf-8")
    said = {"eos_token": "<|im_end|>", "bos_token": None, "chat_template": template}
    kept = {key: value for key, value in said.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(kept), encoding="utf-8")
    return folder
