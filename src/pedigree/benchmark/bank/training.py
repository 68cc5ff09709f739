"""Makes the models of the bank in a directory: resumable, and nothing is made twice.

A model whose note carries the key of what it is made of is left alone. Beside the models lies `.bank/`: tokenizers,
tokens, notes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pedigree.benchmark.bank.kinds import HEAVY, VOCABULARY, BankModel, Tokenizer
from pedigree.benchmark.text_file import write_text
from pedigree.errors import InternalError

if TYPE_CHECKING:
    from pedigree.training.config import SourceConfig, TrainingConfig

VERSION = 1
"""Raised by hand when the meaning of a bank model changes."""

SEQUENCE, BATCH = 64, 8
_TOKENIZER_TEXT = 1_500_000  # characters of each corpus


class BankShop:
    """A directory in which the bank is made.

    Args:
        directory: where the models go, one directory each.
        models: every model by name; parents must be among them.
        progress: called with the name of each model before it is made.
    """

    def __init__(
        self, directory: Path, models: Iterable[BankModel], progress: Callable[[str], None] | None = None
    ) -> None:
        self.directory = directory
        self.models: Mapping[str, BankModel] = {model.name: model for model in models}
        self._progress = progress or (lambda name: None)

    def make(self, names: Iterable[str] | None = None) -> list[Path]:
        """Make models (all by default) and, before them, their parents; their directories."""
        return [self._made(name) for name in (self.models if names is None else names)]

    def note(self, name: str) -> dict[str, Any] | None:
        """What was written down when the model was made: key, loss, steps, seconds; None where it was not."""
        path = self._desk / f"{name}.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def is_made(self, name: str) -> bool:
        """Whether the model lies in the directory, made of what it is made of now."""
        note = self.note(name)
        return note is not None and note["key"] == self.key(name) and (self.directory / name / "config.json").is_file()

    def key(self, name: str) -> str:
        """Content address: version, shape, start, training, tokenizer recipe, parent."""
        model = self.models[name]
        content = {
            "version": VERSION,
            "config": {k: v for k, v in model.config.to_dict().items() if k not in ("name", "assumed")},
            "start": model.start,
            "training": training_of(model).decisive(),
            "tokenizer": [model.tokenizer, VOCABULARY[model.tokenizer], _TOKENIZER_TEXT],
            "parent": self.key(model.parent) if model.parent else None,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def _desk(self) -> Path:
        desk = self.directory / ".bank"
        desk.mkdir(parents=True, exist_ok=True)
        return desk

    def _made(self, name: str) -> Path:
        target = self.directory / name
        if self.is_made(name):
            return target
        model = self.models[name]
        if model.parent:
            self._made(model.parent)
        self._progress(name)
        note = self._train(model, target)
        write_text(self._desk / f"{name}.json", json.dumps({"key": self.key(name), **note}, sort_keys=True))
        return target

    def _train(self, model: BankModel, target: Path) -> dict[str, Any]:
        import torch

        from pedigree.model.decoder import Decoder
        from pedigree.model.hf_checkpoint import export_checkpoint, import_checkpoint
        from pedigree.records.recorder import NullRecorder
        from pedigree.training.fit import ModelFacts
        from pedigree.training.run import Run
        from pedigree.training.shards import Vocabulary

        tokenizer = self._tokenizer(model.tokenizer)
        decoder = Decoder(model.config, seed=model.start)
        if model.parent:
            decoder.load_state_dict(import_checkpoint(self.directory / model.parent).state_dict())
        facts = ModelFacts(model.config.to_dict(), model.config.vocab_size, model.config.n_positions)
        scratch = self._desk / f"{model.name}.run"
        run = Run(
            decoder, facts, training_of(model), Vocabulary.load(tokenizer), output=scratch,
            cache=self._desk / "tokens", recorder=NullRecorder(), device=torch.device("cpu"),
        )  # fmt: skip
        run.start()
        summary = run.work()
        if summary.outcome != "finished":
            raise InternalError("a model of the bank was not finished", where=model.name, got=summary.outcome)
        decoder.train(False)
        ids = {"bos_token_id": run.vocabulary.separator, "eos_token_id": run.vocabulary.separator}
        export_checkpoint(decoder, target, extra_keys=ids, force=True)
        shutil.copyfile(tokenizer, target / "tokenizer.json")
        shutil.rmtree(scratch, ignore_errors=True)
        return {"steps": summary.step, "loss": summary.loss, "seconds": round(summary.seconds, 1)}

    def _tokenizer(self, name: Tokenizer) -> Path:
        from pedigree.tokenizers.companions import written
        from pedigree.tokenizers.texts import Text
        from pedigree.tokenizers.training import TrainingOptions, train
        from pedigree.training.sources import excerpt

        path = self._desk / f"{name}-{VOCABULARY[name]}" / "tokenizer.json"
        if not path.is_file():
            sources = sources_of()[:1] if name == "other" else sources_of()
            texts = [Text(s.domain, tuple(excerpt(s, _TOKENIZER_TEXT)), "document", s.domain) for s in sources]
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, written(train(texts, TrainingOptions(size=VOCABULARY[name])).definition))
        return path


def sources_of() -> tuple[SourceConfig, ...]:
    """The texts of the bank: sources of the standard library, and sums."""
    from pedigree.training.config import SourceConfig

    return (
        SourceConfig(kind="python-stdlib", domain="code", weight=3, max_documents=150, held_out=0.02),
        SourceConfig(kind="arithmetic", domain="sums", max_documents=8000, held_out=0.02),
    )


def training_of(model: BankModel) -> TrainingConfig:
    """How a model of the bank is trained: few hundred steps of AdamW with a cosine.

    One that is trained for long, at a rate that makes its gradients rough, may roll back as often as it must: six times
    on one processor was five on another, and the guard gave up.
    """
    from pedigree.training.config import (
        CheckpointConfig,
        EvaluationConfig,
        GuardConfig,
        OptimizerConfig,
        ScheduleConfig,
        TrainingConfig,
    )

    return TrainingConfig(
        name=model.name, sources=sources_of(), sequence_length=SEQUENCE, batch_sequences=BATCH, tokens=model.tokens,
        seed=model.order, optimizer=OptimizerConfig(lr=model.rate),
        schedule=ScheduleConfig(warmup_tokens=min(10_000, model.tokens // 4)),
        checkpoint=CheckpointConfig(every=0, keep=1), evaluation=EvaluationConfig(max_tokens=512), log_every=1000,
        guard=GuardConfig(rollbacks=1000) if model.tokens >= HEAVY else GuardConfig(),
    )  # fmt: skip
