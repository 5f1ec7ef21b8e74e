"""What every proposer works with: the pool, the trials that were paid for, and the acceptance of a child.

A trial is run once per (candidate, example) and kept; a parent is never run again. Knows nothing of how texts are
proposed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hyperfunc.errors import ConfigurationError, EvaluationError
from hyperfunc.evaluation.example import Example
from hyperfunc.parameters.theta import JSONValue
from hyperfunc.plugins import current_plugins
from hyperfunc.registry import TextEntry
from hyperfunc.scope import current_scope
from hyperfunc.selection import as_examples
from hyperfunc.usage import Usage
from hyperfunc_prompts.acceptance import AcceptanceTest, passes_minibatch
from hyperfunc_prompts.pool import Candidate, CandidatePool
from hyperfunc_prompts.trials import Trial, TrialRunner, example_keys

__all__ = ["PromptSearchResult", "Search", "split_validation", "trainable_texts"]


@dataclass(frozen=True)
class PromptSearchResult:
    """What a prompt optimizer found.

    Attributes:
        pool: every candidate, with its verdict.
        best: the candidate whose texts the system now has; the seed when nothing was accepted.
        finish_reason: ``completed``, ``no failures``, ``nothing to optimize`` or ``budget:…``.
        evaluations: program runs that were made.
        usage: what proposals and runs used together.
    """

    pool: CandidatePool
    best: Candidate
    finish_reason: str
    evaluations: int
    usage: Usage

    @property
    def improved(self) -> bool:
        """Whether the texts changed."""
        return self.best.id != 0

    def diff(self) -> str:
        """What changed from the seed, as a unified diff."""
        return self.pool.diff(self.best, self.pool.seed)

    def export(self) -> dict[str, JSONValue]:
        """The accepted texts by dotted name, JSON values that need no hyperfunc to be read."""
        return dict(self.best.texts)


def trainable_texts(system: Any) -> list[TextEntry]:
    """The texts that may be learned, in component order."""
    return [entry for entry in system.registry.text_entries() if entry.text.trainable]


def split_validation(
    train: Sequence[Example], validation: Sequence[Example] | float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Examples to learn from, and examples that no proposer sees.

    Args:
        validation: the second kind itself, or the share of ``train`` to hold out, drawn by ``seed``. Equal examples go
            to the same side.

    Raises:
        EvaluationError: either side would be empty, or an example is on both.
    """
    examples = as_examples(train)
    if not isinstance(validation, (int, float)):
        held = as_examples(validation)
        both = {e.id for e in examples} & {e.id for e in held}
        if both:
            raise EvaluationError(
                f"{len(both)} examples are in train_data and in validation, first {sorted(both)[0]!r}; a proposal is "
                "accepted on examples that its proposer has not seen"
            )
        return examples, held
    if not 0 < validation < 1:
        raise ConfigurationError(f"validation: expected examples, or a share between 0 and 1, got {validation}")
    ids = sorted({e.id for e in examples})
    if len(ids) < 2:
        raise EvaluationError("one example cannot be split; give at least two, or validation=[Example(...), …]")
    random.Random(f"validation/{seed}").shuffle(ids)
    count = min(len(ids) - 1, max(1, round(validation * len(ids))))
    held_ids = set(ids[:count])
    return [e for e in examples if e.id not in held_ids], [e for e in examples if e.id in held_ids]


class Search:
    """The state of one run.

    Args:
        system: the system whose texts are learned.
        entries: the texts.
        runner: runs examples under texts.
        train, validation: disjoint examples.
        test: the validation half of the acceptance test.
        run: the run's name, for events.

    Attributes:
        incumbent: the candidate whose texts the system has.
        last_gain: by how much the last accepted one was above its predecessor, on validation.
        usage: what the search used until now.
    """

    def __init__(
        self,
        system: Any,
        entries: Sequence[TextEntry],
        runner: TrialRunner,
        train: Sequence[Example],
        validation: Sequence[Example],
        test: AcceptanceTest,
        run: str,
    ) -> None:
        texts = system.theta.texts
        self.system = system
        self.entries = {entry.name: entry for entry in entries}
        self.pool = CandidatePool({name: texts[name] for name in self.entries})
        self.incumbent = self.pool.seed
        self.last_gain = 0.0
        self.test = test
        self._run = run
        self._runner = runner
        keys = example_keys([*train, *validation])
        self._examples = dict(zip(keys, [*train, *validation], strict=True))
        self.train, self.validation = keys[: len(train)], keys[len(train) :]
        self._trials: dict[tuple[int, str], Trial] = {}
        self.usage = Usage()

    def account(self, usage: Usage) -> None:
        """Count what a request for a text used; runs are counted by :meth:`trials`."""
        self.usage += usage

    def forget_scores(self) -> None:
        """Every score is of another program: other parameters of the system have changed."""
        self._trials.clear()
        for candidate in self.pool:
            candidate.scores.clear()
        self.pool.reopen()

    def examples(self, keys: Sequence[str]) -> list[Example]:
        """The examples of these keys."""
        return [self._examples[key] for key in keys]

    def mean(self, candidate: Candidate) -> float:
        """The candidate's mean score on the validation examples; NaN where it was not run on all of them."""
        if any(key not in candidate.scores for key in self.validation):
            return math.nan
        return candidate.mean(self.validation)

    async def trials(self, candidate: Candidate, keys: Sequence[str]) -> list[Trial]:
        """The candidate's trials on these examples; only those that are missing are run."""
        missing = [key for key in keys if (candidate.id, key) not in self._trials]
        if missing:
            trials = await self._runner.run(candidate.texts, [self._examples[key] for key in missing])
            cost = Usage(evaluations=len(missing))
            for key, trial in zip(missing, trials, strict=True):
                self._trials[candidate.id, key] = trial
                candidate.scores[key] = trial.score
                cost += trial.tape.usage
                candidate.note_run(trial.tape.worth)
            candidate.cost += cost
            self.usage += cost
        return [self._trials[candidate.id, key] for key in keys]

    async def beats_on_minibatch(self, child: Candidate, parent: Candidate, keys: Sequence[str]) -> bool:
        """The cheap half of the test; a child that fails it is rejected."""
        before = [trial.score for trial in await self.trials(parent, keys)]
        after = [trial.score for trial in await self.trials(child, keys)]
        child.evidence["minibatch"] = {"before": sum(before), "after": sum(after), "examples": len(keys)}
        if passes_minibatch(before, after):
            return True
        child.verdict = "rejected"
        child.reason = f"minibatch: {sum(before):g} -> {sum(after):g} on {len(keys)} examples"
        return False

    async def decide(self, child: Candidate) -> bool:
        """The validation half: a higher mean than the incumbent's, and better than the seed by the test. An accepted
        child's texts become the system's."""
        await self.trials(self.incumbent, self.validation)
        await self.trials(self.pool.seed, self.validation)
        await self.trials(child, self.validation)
        comparison = self.test.compare(self.pool.seed.scores, child.scores, self.validation)
        incumbent = self.incumbent.mean(self.validation)
        for judged in (self.pool.seed, self.incumbent, child):
            judged.fitness = judged.mean(self.validation)
        child.evidence["validation"] = {**comparison.to_dict(), "level": self.test.level, "incumbent": incumbent}
        child.reason = f"validation, seed to child: {comparison}; incumbent {incumbent:.4g}"
        if comparison.mean_b <= incumbent or not self.test.accepts(comparison):
            child.verdict = "rejected"
            return False
        child.verdict = "accepted"
        self.last_gain = comparison.mean_b - incumbent
        before, self.incumbent = self.incumbent, child
        self.system.set_theta(child.texts)
        if current_scope().replaying:
            return True
        for name, value in child.texts.items():
            if value != before.texts[name]:
                current_plugins().emit(
                    "candidate_accepted",
                    run=self._run,
                    name=name,
                    before=before.texts[name],
                    after=value,
                    evidence=dict(child.evidence),
                )
        return True

    def result(self, finish_reason: str) -> PromptSearchResult:
        """The end of the run."""
        for candidate in self.pool:
            if candidate.verdict == "pending":
                candidate.reason = f"not judged: the run ended ({finish_reason})"
        return PromptSearchResult(self.pool, self.incumbent, finish_reason, self._runner.evaluations, self.usage)
