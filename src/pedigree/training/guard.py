"""The guard: rules watch every step before it is applied; the harshest answer is taken, and every answer is kept.

    signals of a step --> rule, rule, rule --> decisions --> one action
    apply < clip < lower-rate < skip-step < roll-back < stop

Laws
1. A rule never sees the step that it judges among the steps that it judges by.
2. Steps that were skipped never enter the memory of a rule: a cluster of spikes cannot become the new normal.
3. The same signals give the same decisions; the state of a guard is plain JSON and lies in every checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Action = Literal["apply", "clip", "lower-rate", "skip-step", "roll-back", "stop"]
SEVERITY: tuple[Action, ...] = ("apply", "clip", "lower-rate", "skip-step", "roll-back", "stop")


@dataclass(frozen=True)
class Signals:
    """What is known about a step before its update is applied.

    Attributes:
        step: number of the step, from 0.
        window: number of the data window that it read.
        loss: what is minimized, nats.
        cross_entropy: nats per predicted token.
        grad_norm: global, before clipping.
        block_norms: gradient norm of each block, then of everything outside the blocks.
        scale: factor of the loss in fp16; 1 otherwise.
        overflow: whether a gradient is not finite.
        update_ratio: size of the last measured update relative to the weights; None where none was measured.
    """

    step: int
    window: int
    loss: float
    cross_entropy: float
    grad_norm: float
    block_norms: tuple[float, ...] = ()
    scale: float = 1.0
    overflow: bool = False
    update_ratio: float | None = None


@dataclass(frozen=True)
class Decision:
    """What one rule answered to one step, with the numbers it answered by.

    Attributes:
        first: step and window of the first anomaly, where the answer is to roll back.
        clip_to: gradient norm to clip to, where the answer is to clip.
        dropped: data windows that will not be read again, and what they are cut from.
    """

    rule: str
    source: str
    action: Action
    step: int
    window: int
    why: str
    numbers: dict[str, float | int | str]
    first: tuple[int, int] | None = None
    clip_to: float | None = None
    dropped: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The decision as JSON values; what is empty is left out."""
        values = {
            "rule": self.rule, "source": self.source, "action": self.action, "step": self.step, "window": self.window,
            "why": self.why, "numbers": self.numbers, "first": list(self.first) if self.first else None,
            "clip_to": self.clip_to, "dropped": self.dropped,
        }  # fmt: skip
        return {key: value for key, value in values.items() if value not in (None, {})}


class Rule(Protocol):
    """One rule of the guard."""

    name: str
    source: str

    def look(self, signals: Signals, so_far: Action) -> Decision | None:
        """Judge a step; `so_far` is the harshest answer of the rules before this one."""
        ...

    def took(self, signals: Signals, action: Action, clip_to: float | None) -> None:
        """Learn what was done with the step."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint remembers, as plain JSON."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a remembered state."""
        ...


@dataclass(frozen=True)
class Verdict:
    """What is done with a step, and every answer that led there."""

    action: Action
    clip_to: float | None
    decisions: tuple[Decision, ...]

    @property
    def deciding(self) -> Decision | None:
        """The answer that was taken; None where the step is simply applied."""
        return next((decision for decision in self.decisions if decision.action == self.action), None)


class Guard:
    """Rules in their order, and the rate that they have lowered.

    Args:
        rules: who watches.
        lower_by, lower_for: factor on the rate after a `lower-rate` or a repeated rollback, and for how many steps.
        rollbacks: more than this many rollbacks stop the run.
    """

    def __init__(
        self, rules: Sequence[Rule], *, lower_by: float = 0.5, lower_for: int = 200, rollbacks: int = 5
    ) -> None:
        self.rules = list(rules)
        self.rollbacks = 0
        self._allowed = rollbacks
        self._lower_by, self._lower_for = lower_by, lower_for
        self._lowered: list[tuple[int, int]] = []  # first and last step of each lowering

    def judge(self, signals: Signals) -> Verdict:
        """Ask every rule about a step, and tell every rule what was decided."""
        decisions: list[Decision] = []
        action: Action = "apply"
        for rule in self.rules:
            decision = rule.look(signals, action)
            if decision is not None:
                decisions.append(decision)
                action = max(action, decision.action, key=SEVERITY.index)
        if action == "roll-back":
            self.rollbacks += 1
            if self.rollbacks > self._allowed:
                decisions.append(self._stop(signals))
                action = "stop"
            elif self.rollbacks > 1:
                # The steps since the first anomaly are taken again, already at the lower rate.
                first = min(decision.first[0] for decision in decisions if decision.first is not None)
                self._lowered.append((first, signals.step + self._lower_for))
        if action == "lower-rate":
            self._lowered.append((signals.step, signals.step + self._lower_for))
        clips = [decision.clip_to for decision in decisions if decision.clip_to is not None]
        clip_to = min(clips) if clips else None
        for rule in self.rules:
            rule.took(signals, action, clip_to)
        return Verdict(action, clip_to, tuple(decisions))

    def rate_factor(self, step: int) -> float:
        """Factor on the learning rate at a step."""
        return float(self._lower_by ** sum(first <= step <= last for first, last in self._lowered))

    def _stop(self, signals: Signals) -> Decision:
        return Decision(
            rule="rollbacks", source="pedigree", action="stop", step=signals.step, window=signals.window,
            why=f"the run was rolled back {self._allowed} times already",
            numbers={"rollbacks": self.rollbacks, "allowed": self._allowed},
        )  # fmt: skip

    def state(self) -> dict[str, Any]:
        """What a checkpoint remembers."""
        rules = {rule.name: rule.state() for rule in self.rules}
        return {"rules": rules, "rollbacks": self.rollbacks, "lowered": [list(span) for span in self._lowered]}

    def load(self, state: dict[str, Any], *, keep_count: bool = False) -> None:
        """Go on from a remembered state.

        Args:
            state: what `state` gave.
            keep_count: keep our own count of rollbacks and lowered rates: a rollback does not undo itself.
        """
        for rule in self.rules:
            rule.load(state["rules"][rule.name])
        if not keep_count:
            self.rollbacks = int(state["rollbacks"])
            self._lowered = [(int(first), int(last)) for first, last in state["lowered"]]
