"""The acceptance test that every proposal goes through, whoever made it.

1. Form: ``{slots}`` and JSON types are kept, or the proposal is refused unseen; never repaired.
2. Minibatch: on the examples that it was made from, the child is compared with what it would replace. Cheap, and no
   proof.
3. Validation: on examples that no proposer has seen, better than the seed by a paired test, and better than the
   incumbent.

Validation examples are looked at a few at a time, in an order drawn beforehand, and no more of them are paid for once
the verdict is certain. Half of a test's level l goes to a wealth process (:class:`Wealth`), which may be looked at as
often as one likes; the other half to the exact permutation test on all of them, at the end. Both hold for scores that
are exchangeable between seed and child under "no difference", and for a validation set that was not used to write the
proposals. Where parents are drawn by their validation scores (the Pareto search), validation has chosen what is
rewritten, though never what the model sees; there the bound is approximate.

With ``false_accept_rate`` r the k-th validation of a run is made at level r / (k (k + 1)), or at r / K where the most
validations K are known: a run in which no proposal is better than the seed accepts one with probability at most r.
(Against the incumbent the rule is weaker: a late small step may be luck, but what is shipped is better than the seed.)

Knows nothing of how programs are run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hyperfunc.errors import ConfigurationError
from hyperfunc.evaluation.statistics import Comparison, compare
from hyperfunc.parameters.text import slots_of
from hyperfunc.parameters.theta import JSONValue
from hyperfunc_prompts.errors import ProposalRefusedError

__all__ = ["AcceptanceTest", "Wealth", "check_form", "passes_minibatch"]


def check_form(name: str, before: JSONValue, after: JSONValue) -> None:
    """Refuse a text that may not take ``before``'s place.

    Raises:
        ProposalRefusedError: empty, another JSON type (at any depth of objects), or slots added or lost.
    """
    if type(before) is not type(after):
        raise ProposalRefusedError(
            f"{name}: expected {_kind(before)}, got {_kind(after)}; keep the type", parameter_name=name
        )
    if isinstance(before, dict) and isinstance(after, dict):
        if before.keys() != after.keys():
            raise ProposalRefusedError(
                f"{name}: expected the members {sorted(before)}, got {sorted(after)}", parameter_name=name
            )
        for key in before:
            check_form(f"{name}.{key}", before[key], after[key])
    if isinstance(before, list) and isinstance(after, list) and before:
        kinds = {type(item) for item in before}
        wrong = next((item for item in after if type(item) not in kinds), None)
        if wrong is not None:
            raise ProposalRefusedError(f"{name}: an item is {_kind(wrong)}, as none was before", parameter_name=name)
    if isinstance(before, str) and isinstance(after, str):
        if before.strip() and not after.strip():
            raise ProposalRefusedError(f"{name}: the new text is empty", parameter_name=name)
        old, new = slots_of(before), slots_of(after)
        if old != new:
            lost, added = sorted(old - new), sorted(new - old)
            told = [f"lost {', '.join(f'{{{s}}}' for s in lost)}"] if lost else []
            told += [f"added {', '.join(f'{{{s}}}' for s in added)}"] if added else []
            raise ProposalRefusedError(f"{name}: the new text has {' and '.join(told)}", parameter_name=name)


def passes_minibatch(parent: Sequence[float], child: Sequence[float]) -> bool:
    """Whether the child's sum is above the parent's, on the same examples."""
    return sum(child) > sum(parent)


@dataclass(frozen=True)
class AcceptanceTest:
    """Levels and statistics of the validation half.

    Args:
        false_accept_rate: r, in (0, 1): chance that a run of useless proposals accepts any.
        validations: K ≥ 1, the most proposals that one run validates; ``None``: any number, at falling levels.
        seed: of the permutations, where they are too many to go through.
    """

    false_accept_rate: float = 0.05
    validations: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.false_accept_rate < 1:
            raise ConfigurationError(f"false_accept_rate must lie between 0 and 1, got {self.false_accept_rate}")
        if self.validations is not None and self.validations < 1:
            raise ConfigurationError(f"validations must be at least 1, got {self.validations}")

    def level_of(self, number: int) -> float:
        """Level of the ``number``-th validation of a run, from 1 on."""
        return self.false_accept_rate / (number * (number + 1) if self.validations is None else self.validations)

    def compare(
        self, parent: Mapping[str, float], child: Mapping[str, float], examples: Sequence[str], level: float
    ) -> Comparison:
        """Both sides' scores on these validation examples; better at ``level`` where :meth:`accepts` says so."""
        return compare(
            [parent[name] for name in examples],
            [child[name] for name in examples],
            alternative="greater",
            confidence=1 - level,
            seed=self.seed,
            # The level must be reachable: 1 / (resamples + 1) is the smallest p-value of a drawn test.
            resamples=max(10_000, int(20 / level)),
        )

    @staticmethod
    def accepts(comparison: Comparison, level: float) -> bool:
        """Whether the child is better, at this level."""
        # Not `comparison.significant`: 1 - (1 - level) differs from level in the last digits.
        return comparison.difference > 0 and comparison.p_value <= level


class Wealth:
    """Evidence that differences are above zero, which may be looked at after each of them.

    A gambler who cannot win stakes a share of what he has on the sign of each difference. Where signs are even, given
    the past and all absolute values, his wealth is a martingale that begins at 1, and reaches w at any time with
    probability at most 1 / w (Ville). The stake is ``share`` of the wealth, times the difference's size relative to the
    largest until then; several shares are averaged, since the best one depends on an unknown.
    """

    SHARES = (0.3, 0.6, 0.9)

    def __init__(self) -> None:
        self._each = [1.0] * len(self.SHARES)
        self._largest = 0.0

    @property
    def value(self) -> float:
        return sum(self._each) / len(self._each)

    def add(self, difference: float) -> None:
        """The next difference; zeros change nothing."""
        self._largest = max(self._largest, abs(difference))
        if self._largest:
            stake = difference / self._largest
            self._each = [wealth * (1 + share * stake) for wealth, share in zip(self._each, self.SHARES, strict=True)]


def _kind(value: JSONValue) -> str:
    names = {str: "a string", bool: "a boolean", int: "a whole number", float: "a number", list: "a list"}
    return "null" if value is None else names.get(type(value), "an object")
