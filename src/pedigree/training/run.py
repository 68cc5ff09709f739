"""A run: steps from the first or from the newest checkpoint to the token budget, under the eyes of the guard.

    window of data --> forward, backward --> signals --> guard --> update | skip | roll back | stop
                                                            \\--> metrics, recorder, checkpoint, evaluation

Laws
1. Step k and the data it reads depend on settings, seed and the decisions before it, on nothing else.
2. What is interrupted, killed or rolled back goes on from the newest whole checkpoint.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from pedigree.errors import MissingInput, OutputExists, UsageError
from pedigree.records.recorder import Recorder
from pedigree.training.annealing import Annealing
from pedigree.training.batches import open_batches
from pedigree.training.carried_state import carry_into
from pedigree.training.checkpoint import Checkpoints, Saved, check_same
from pedigree.training.config import TrainingConfig
from pedigree.training.device import matmul_rate
from pedigree.training.evaluation import Score, arithmetic_accuracy, bits_per_byte, held_out_texts
from pedigree.training.fit import ModelFacts, check_disk, check_fit, check_mesh
from pedigree.training.freezing import check_still, freeze, frozen_digests, frozen_facts
from pedigree.training.guard import Decision, Signals, Verdict
from pedigree.training.guard_rules import make_guard
from pedigree.training.interface import Trainable
from pedigree.training.interruption import Interruption, noticed
from pedigree.training.metrics import Metrics
from pedigree.training.optimizer import Optimizers
from pedigree.training.parallel import prepare
from pedigree.training.progress import Beat, Clock, Outcome, Place, Summary
from pedigree.training.ranks import join_ranks
from pedigree.training.schedule import rate_share
from pedigree.training.shards import Vocabulary
from pedigree.training.step import Stepper
from pedigree.weights.allocator import keep_pages

Start = Literal["auto", "resume", "fresh"]


SECONDS_BETWEEN_BEATS = 10.0  # each is forced to disk


class Run:
    """One run in one process.

    Args:
        model: a fresh or loaded model with whole weights.
        facts: what the run must know of it.
        config: settings.
        vocabulary: its tokenizer.
        output: directory of the run: checkpoints, metrics.
        cache: directory of tokenized corpora.
        recorder: who is told.
        device: where to train.
        progress: called with each sign of life.
        origin: what the recorder is told beside the settings: recipe, step, overrides.

    Raises:
        UsageError, InputError: something does not fit, is missing or malformed; before any step is taken.
    """

    def __init__(
        self,
        model: nn.Module,
        facts: ModelFacts,
        config: TrainingConfig,
        vocabulary: Vocabulary,
        *,
        output: Path,
        cache: Path,
        recorder: Recorder,
        device: torch.device,
        progress: Callable[[Beat], None] | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        check_fit(config, facts, vocabulary)
        check_mesh(config, model)
        check_disk(model, config, output)
        self.config, self.facts, self.vocabulary, self.output = config, facts, vocabulary, output
        self.guard = make_guard(config.guard)
        self.ranks = join_ranks(config, device)
        if self.ranks.is_first:
            open_batches(config, vocabulary, cache)
        self.ranks.wait()  # the others find the tokens in the cache
        self.batches = open_batches(config, vocabulary, cache)
        self.texts = held_out_texts(config, self.batches.corpora, vocabulary, cache)
        self._frozen = freeze(model, config.freeze)
        self._annealing = Annealing(model, config.anneal)
        if device.type == "cpu":
            keep_pages()
        self._forward = prepare(model, config, device, self.ranks)
        self._held = frozen_digests(model, self._frozen)
        self.model, self._module = cast(Trainable, model), model
        self.optimizers = Optimizers(self.model, config.optimizer)
        self.stepper = Stepper(self.model, self.optimizers, config, device, self.ranks, self._forward)
        self.checkpoints = Checkpoints(output / "checkpoints", self.ranks, config.checkpoint.keep)
        self._device, self._recorder = device, recorder
        self._progress, self._origin = progress, dict(origin or {})
        self._last_beat = 0.0
        self._data = hashlib.sha256()  # every token that was read since this process began, in order
        self._resumed_from: Path | None = None
        self._place = Place()
        self._decisions: list[Decision] = []
        self._recent: list[float] = []
        self._rate = 0.0
        self._update_ratio: float | None = None

    # -- from start to end --------------------------------------------------------------------------------------------

    def start(self, how: Start = "auto") -> int:
        """Go to the newest whole checkpoint, or to step 0; the step where the run will begin.

        Args:
            how: `auto` goes on where there is a checkpoint, `resume` demands one, `fresh` removes what is there.

        Raises:
            MissingInput: nothing to resume from.
            OtherSettings: the checkpoint belongs to another model or other settings.
            OutputExists: checkpoints are there and none is whole.
        """
        if how == "fresh":
            self.checkpoints.clear()
        saved = self.checkpoints.whole()
        if how == "resume" and not saved:
            raise MissingInput("there is no whole checkpoint to resume from", where=str(self.checkpoints.directory))
        if not saved and any(self.checkpoints.directory.glob("step-*")):
            raise OutputExists(
                "checkpoints are there, and none is whole", where=str(self.checkpoints.directory),
                fix="--fresh to begin anew",
            )  # fmt: skip
        if saved:
            check_same(saved[-1].state["settings"], self._settings(), where=saved[-1].path)
            self._go_to(saved[-1])
            self._resumed_from = saved[-1].path
        return self._place.step

    def begin_with(self, state: Mapping[str, Tensor]) -> int:
        """Begin with the state of an optimizer; how many of its tensors were taken over.

        Raises:
            MalformedFile: a tensor has another shape.
            UsageError: the weights are spread over several processes, which it is not.
        """
        if self.ranks.world > 1:
            raise UsageError(
                "the state of an optimizer is carried into one process", got=f"{self.ranks.world} processes",
                fix="moments: drop, or one process",
            )  # fmt: skip
        return carry_into(self.optimizers, state)

    def work(self) -> Summary:
        """Take the steps that are left; ends early when interrupted or stopped by the guard."""
        begin, first = time.monotonic(), self._place.step
        self._rate = matmul_rate(self._device, self.config.precision) if self.facts.operations_per_token else 0.0
        self._recorder.run_start(self._start_facts())
        metrics = Metrics(self.output, first, tensorboard=self.config.tensorboard) if self.ranks.is_first else None
        outcome: Outcome = "finished"
        clock = Clock(self.config.tokens_per_step)
        with noticed() as interruption, closing(metrics) if metrics else nullcontext():
            if first == 0:
                self._save()
            while self._place.step < self.config.steps:
                if self._is_asked(interruption):
                    outcome = "interrupted"
                    break
                if not self._step(metrics, clock):
                    outcome = "stopped"
                    break
            last = self._save() if outcome != "stopped" else None
            self.checkpoints.finish()
        check_still(self._held, frozen_digests(self._module, self._frozen))
        scores, sums = self.evaluate() if outcome == "finished" else ([], {})
        summary = Summary(
            outcome=outcome, step=self._place.step, tokens=self._place.step * self.config.tokens_per_step,
            loss=sum(self._recent) / max(1, len(self._recent)), first_step=first, seconds=time.monotonic() - begin,
            tokens_per_second=clock.rate(), utilization=self._utilization(clock.rate()), scores=scores, arithmetic=sums,
            decisions=self._decisions, checkpoint=last,
        )  # fmt: skip
        self._recorder.run_end({**summary.to_dict(), "data": self._data.hexdigest()})
        return summary

    def _is_asked(self, interruption: Interruption) -> bool:
        """Whether any rank was interrupted; all ranks agree."""
        if self.ranks.world == 1:
            return interruption.asked
        return bool(self.ranks.largest(torch.tensor(float(interruption.asked), device=self._device)))

    # -- one step -----------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Take one step, checkpoints included, without a line of metrics; False when the guard stops the run."""
        return self._step(None, Clock(self.config.tokens_per_step))

    def _step(self, metrics: Metrics | None, clock: Clock) -> bool:
        """Take one step; False when the guard stops the run."""
        config, place = self.config, self._place
        clock.start()
        step, window = place.step, place.past_dropped()
        whole = self.batches.window(window)
        if self.ranks.is_first:
            self._data.update(window.to_bytes(8, "big") + np.ascontiguousarray(whole.tokens_BT).tobytes())
        batch = whole.dealt(self.ranks.data_rank, self.ranks.data_world, config.accumulation)
        self._annealing.at(step * config.tokens_per_step)
        signals = self.stepper.measure(batch, step, window, self._update_ratio)
        self._update_ratio = None
        verdict = self.guard.judge(signals)
        share = rate_share(config, (step + 1) * config.tokens_per_step) * self.guard.rate_factor(step)
        if verdict.action in ("apply", "clip", "lower-rate"):
            measured = step % config.guard.update_every == 0
            before = self.stepper.copy_weights() if measured else None
            self.stepper.apply(signals, share, verdict.clip_to)
            if before is not None:
                self._update_ratio = self.stepper.update_ratio(before)
            self._recent = [*self._recent[-19:], signals.cross_entropy]
        else:
            self.stepper.skip(signals)
        clock.stop()
        place.step, place.window = step + 1, window + 1
        self._note(verdict, signals)
        if verdict.action == "stop":
            return False
        self._write(metrics, clock, signals, verdict, share)
        if verdict.action == "roll-back":
            self._roll_back(verdict, metrics)
        else:
            self._after(metrics)
        return True

    def _write(self, metrics: Metrics | None, clock: Clock, signals: Signals, verdict: Verdict, share: float) -> None:
        step, config = self._place.step, self.config
        if step % config.log_every and step != config.steps and verdict.action == "apply":
            return
        rate = clock.rate()
        tokens = step * config.tokens_per_step
        beat = Beat(
            step, config.steps, tokens, signals.cross_entropy, signals.grad_norm, rate, self._utilization(rate),
            (config.steps - step) * config.tokens_per_step / rate if rate else 0.0,
        )  # fmt: skip
        if metrics is not None:
            metrics.write(
                signals.step,
                {
                    "window": signals.window, "tokens": tokens, "loss": signals.loss,
                    "cross_entropy": signals.cross_entropy, "grad_norm": signals.grad_norm, "rate": share,
                    "scale": signals.scale, "action": verdict.action, "tokens_per_second": round(rate, 1),
                    "utilization": beat.utilization,
                },
            )  # fmt: skip
        if time.monotonic() - self._last_beat > SECONDS_BETWEEN_BEATS:
            self._last_beat = time.monotonic()
            self._recorder.beat(
                {"step": step, "tokens": tokens, "loss": signals.cross_entropy, "data": self._data.hexdigest()}
            )
        if self._progress is not None:
            self._progress(beat)

    def _after(self, metrics: Metrics | None) -> None:
        """Checkpoint and evaluation, where they are due."""
        step, config = self._place.step, self.config
        if config.checkpoint.every and step % config.checkpoint.every == 0 and step < config.steps:
            self._save()
        if config.evaluation.every and step % config.evaluation.every == 0 and step < config.steps:
            scores, sums = self.evaluate()
            if metrics is not None:
                numbers = {f"bits_per_byte/{score.domain}": score.bits_per_byte for score in scores}
                metrics.write(step - 1, {**numbers, **{f"arithmetic/{name}": v for name, v in sums.items()}})

    def _utilization(self, tokens_per_second: float) -> float | None:
        if not self._rate or not tokens_per_second:
            return None
        return self.facts.operations_per_token * tokens_per_second / (self._rate * self.ranks.world)

    # -- the guard's decisions ----------------------------------------------------------------------------------------

    def _note(self, verdict: Verdict, signals: Signals) -> None:
        """Keep and tell every decision; a skipped step names the data that it read."""
        for decision in verdict.decisions:
            if decision.action == "skip-step" and verdict.action == "skip-step":
                named = self.batches.named(signals.window)
                decision.dropped.update({"windows": [signals.window, signals.window], "named": named})
            self._decisions.append(decision)
            if decision.action != "roll-back":
                self._recorder.decision(decision.to_dict())

    def _roll_back(self, verdict: Verdict, metrics: Metrics | None) -> None:
        """Return to the newest checkpoint well before the first anomaly, and drop the data around it."""
        decision = verdict.deciding
        if decision is None or decision.first is None:
            return
        margin = self.config.guard.rewind_margin
        first_step, first_window = decision.first
        self.checkpoints.finish()
        whole = self.checkpoints.whole()
        healthy = [saved for saved in whole if saved.step <= max(0, first_step - margin)]
        back_to = healthy[-1] if healthy else whole[0]
        # The bad stretch may go on behind the step that gave it away: look further ahead every time.
        ahead = margin * (2 ** (self.guard.rollbacks - 1))
        span = (max(0, first_window - margin), decision.window + ahead)
        dropped = [*self._place.dropped, span]
        # By text, since a record knows no other keys.
        named = {str(n): self.batches.named(n) for n in range(first_window, decision.window + 1)}
        decision.dropped.update({"windows": list(span), "back_to_step": back_to.step, "named": named})
        self._go_to(back_to, after_rollback=True)
        self._place.dropped = dropped
        self.checkpoints.forget_after(back_to.step)
        if metrics is not None:
            metrics.rewind(back_to.step)
        self._recorder.decision(decision.to_dict())
        self._save()  # so that a crash does not forget what was dropped

    # -- state --------------------------------------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        """What a checkpoint must agree with."""
        sources = [corpus.digest for corpus in self.batches.corpora]
        decisive = self.config.decisive()
        for source in decisive["sources"]:
            source.pop("path")  # the digest of the tokens says what it was; where it lies may change
        return {
            "training": decisive, "model": self.facts.config, "tokenizer": self.vocabulary.digest, "corpora": sources
        }  # fmt: skip

    def _tensors(self) -> dict[str, Tensor]:
        """Everything in the state that is a tensor, not copied."""
        model = {f"model.{name}": value.detach() for name, value in self.model.state_dict().items()}
        return model | {f"optimizer.{name}": value for name, value in self.optimizers.tensors().items()}

    def _save(self) -> Path:
        place = self._place
        state = {
            "step": place.step, "window": place.window, "dropped": [list(span) for span in place.dropped],
            "tokens": place.step * self.config.tokens_per_step, "guard": self.guard.state(),
            "scaler": self.stepper.scaler.state(), "update_ratio": self._update_ratio, "recent": self._recent,
            "settings": self._settings(),
        }  # fmt: skip
        path = self.checkpoints.save(self._tensors(), state)
        # The loss of the last step is what a replay up to this state is held against.
        last = {"loss": self._recent[-1]} if self._recent else {}
        self._recorder.checkpoint({"step": place.step, "tokens": state["tokens"], "path": str(path), **last})
        return path

    def _go_to(self, saved: Saved, *, after_rollback: bool = False) -> None:
        self.checkpoints.load(saved, self._tensors())
        state = saved.state
        self._place = Place(saved.step, int(state["window"]), [(int(a), int(b)) for a, b in state["dropped"]])
        self.guard.load(state["guard"], keep_count=after_rollback)
        self.stepper.scaler.load(state["scaler"])
        self._update_ratio, self._recent = state["update_ratio"], list(state["recent"])

    def _start_facts(self) -> dict[str, Any]:
        return {
            **self._origin,
            "resumed_from": None if self._resumed_from is None else str(self._resumed_from),
            "name": self.config.name, "step": self._place.step, "steps": self.config.steps,
            "digest": self.config.digest(), "settings": self._settings(), "device": str(self._device),
            **({"frozen": frozen_facts(self._held)} if self._held else {}),
            "ranks": self.ranks.world, "torch": torch.__version__, "threads": torch.get_num_threads(),
            "corpora": [
                {"source": c.source.model_dump(mode="json"), "digest": c.digest, "tokens": len(c.train.ids)}
                for c in self.batches.corpora
            ],
        }  # fmt: skip

    def evaluate(self) -> tuple[list[Score], dict[str, float]]:
        """Bits per byte of every domain that has held-out text, and the share of sums that are right."""
        self._annealing.at(self._place.step * self.config.tokens_per_step)
        self.model.train(False)
        scores = [bits_per_byte(self.model, t, self.config, self.vocabulary, self._device) for t in self.texts]
        sums: dict[str, float] = {}
        if self.config.evaluation.arithmetic:
            sums = arithmetic_accuracy(self.model, self.config, self.vocabulary, self._device)
        self.model.train()
        return scores, sums
