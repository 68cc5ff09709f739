"""Coefficients of a conversion, moved with the tokens that were seen.

Law  the value in a step depends on the rule and on the tokens before the step, on nothing else: a run that is resumed
     or rolled back has the values it had.
"""

from __future__ import annotations

from typing import Any

from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import Homotopy
from pedigree.training.config import AnnealRule

_LEAST = 1e-3


def value_of(rule: AnnealRule, tokens: int) -> float:
    """The coefficient in a step that so many tokens came before."""
    if tokens <= rule.start:
        return rule.begin
    if tokens >= rule.stop:
        return rule.end
    share = (tokens - rule.start) / (rule.stop - rule.start)
    if rule.shape == "linear":
        return rule.begin + (rule.end - rule.begin) * share
    least = max(rule.begin, min(_LEAST, rule.end))
    return float(least * (rule.end / least) ** share)


def annealed(model: ModelConfig, rules: tuple[AnnealRule, ...], tokens: int | None) -> ModelConfig:
    """The model as it is after so many tokens; None: when all rules have ended.

    Raises:
        UsageError: a rule moves something that the model does not have.
    """
    if not rules:
        return model
    moved = {rule.coefficient: rule.end if tokens is None else value_of(rule, tokens) for rule in rules}
    homotopy = (model.homotopy or Homotopy()).replace(**moved)
    return model.replace(homotopy=homotopy if homotopy.moved else None)


class Annealing:
    """Moves the coefficients of one model.

    Args:
        model: a decoder; its `config` is replaced, its weights are not touched.
        rules: none of them, and nothing is ever done.

    Raises:
        UsageError: a rule moves something that the model does not have.
    """

    def __init__(self, model: Any, rules: tuple[AnnealRule, ...]) -> None:
        self._model, self._rules = model, rules
        if rules:
            annealed(model.config, rules, None)  # a rule that moves nothing is refused now, not when it begins
        self.at(0)

    def at(self, tokens: int) -> None:
        """Set every coefficient to its value after so many tokens."""
        if self._rules:
            self._model.config = annealed(self._model.config, self._rules, tokens)
