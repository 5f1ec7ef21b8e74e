"""What every proposer works with: the pool, the trials that were paid for, and the acceptance of a child.

A trial is run once per (candidate, example) and kept; a parent is never run again. Knows nothing of how texts are
proposed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
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
from hyperfunc_prompts.acceptance import AcceptanceTest, Wealth, passes_minibatch
from hyperfunc_prompts.pool import Candidate, CandidatePool
from hyperfunc_prompts.trials import Trial, TrialRunner, example_keys

__all__ = ["PromptSearchResult", "Search", "split_validation", "trainable_texts"]

_LOOK = 4  # examples run before the next look at whether the verdict is certain; the same at any concurrency
_CLEAR = 4.0  # wealth at which one of two candidates leads clearly; were they alike, one in four would get there
_TINY = 1e-9  # sums of scores differ by rounding


@dataclass(frozen=True)
class PromptSearchResult:
    """What a prompt optimizer found.

    Attributes:
        pool: every candidate, with its verdict.
        best: the candidate whose texts the system now has; the seed when nothing was accepted.
        finish_reason: ``completed``, ``no failures``, ``nothing to optimize``, ``nothing to show`` (demos) or
            ``budget:…``; ``""`` on the way.
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
        runner: runs examples under texts.
        validated: how many candidates came to validation.
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
        self.runner = runner
        keys = example_keys([*train, *validation])
        self._examples = dict(zip(keys, [*train, *validation], strict=True))
        self.train, self.validation = keys[: len(train)], keys[len(train) :]
        self._trials: dict[tuple[int, str], Trial] = {}
        self.usage = Usage()
        self.validated = 0
        self._order = list(self.validation)
        random.Random(f"order/{test.seed}").shuffle(self._order)

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
        """The candidate's mean score on the validation examples that it was run on; NaN where there is none."""
        run = [key for key in self.validation if key in candidate.scores]
        return candidate.mean(run) if run else math.nan

    async def trials(self, candidate: Candidate, keys: Sequence[str]) -> list[Trial]:
        """The candidate's trials on these examples; only those that are missing are run."""
        missing = [key for key in keys if (candidate.id, key) not in self._trials]
        if missing:
            trials = await self.runner.run(candidate.texts, [self._examples[key] for key in missing])
            cost = Usage(evaluations=len(missing))
            for key, trial in zip(missing, trials, strict=True):
                self._trials[candidate.id, key] = trial
                candidate.scores[key] = trial.score
                cost += trial.tape.usage
                candidate.note_run(trial.tape.worth)
            candidate.cost += cost
            self.usage += cost
        return [self._trials[candidate.id, key] for key in keys]

    def known_trials(self, examples: Iterable[Example]) -> dict[int, list[Trial]]:
        """The trials on these examples that were made until now, by candidate id."""
        ids = {example.id for example in examples}
        found: dict[int, list[Trial]] = {}
        for (candidate, _), trial in self._trials.items():
            if trial.example.id in ids:
                found.setdefault(candidate, []).append(trial)
        return found

    def affordable_runs(self) -> float:
        """About how many more program runs the budget in force allows, at what each has used until now.

        ``inf`` without a budget. Follows what has been settled, never the clock.
        """
        budget = current_scope().budget
        if budget is None or not self.usage.evaluations:
            return math.inf
        used = {**self.usage.to_dict(), "tokens": self.usage.total_tokens}
        left = {kind: amount for kind, amount in budget.unspent.items() if used.get(kind)}
        return min((amount * self.usage.evaluations / used[kind] for kind, amount in left.items()), default=math.inf)

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

    async def holds_against(self, child: Candidate, parent: Candidate, keys: Sequence[str], best: float) -> bool:
        """Whether the child's sum is at least the parent's; where it is not, the child is rejected.

        The parent's failures come first, and no further example is run once the child could not make up for what it has
        lost, were it to reach ``best`` everywhere. So a child that forgets costs a few runs; the verdict is the same.
        """
        before = {key: trial.score for key, trial in zip(keys, await self.trials(parent, keys), strict=True)}
        order = sorted(keys, key=lambda key: before[key])
        best = max(best, *before.values())
        done = 0
        while done < len(order):
            await self.trials(child, order[done : done + _LOOK])
            done = min(done + _LOOK, len(order))
            lead = sum(child.scores[key] - before[key] for key in order[:done])
            if lead + sum(best - before[key] for key in order[done:]) < -_TINY:
                break
        lead = sum(child.scores[key] - before[key] for key in order[:done])
        child.evidence["minibatch"] = {"lead": lead, "examples": done, "of": len(order)}
        if done == len(order) and lead >= -_TINY:
            return True
        child.verdict = "rejected"
        child.reason = f"minibatch: {lead:+g} on {done} of {len(order)} examples"
        return False

    async def decide(self, child: Candidate) -> bool:
        """The validation half; an accepted child's texts become the system's.

        Better than the seed by the test, and better than the incumbent: by its mean on all validation examples, or
        earlier, where one side's lead is clear.
        """
        self.validated += 1
        level = self.test.level_of(self.validated)
        reason = await self._beats_seed(child, level)
        if not reason and self.incumbent is not self.pool.seed:
            reason = await self._beats_incumbent(child)
        for judged in (self.pool.seed, self.incumbent, child):
            judged.fitness = self.mean(judged)
        if reason:
            child.verdict, child.reason = "rejected", f"validation: {reason}"
            return False
        common = [key for key in self.validation if key in child.scores and key in self.incumbent.scores]
        self.last_gain = child.mean(common) - self.incumbent.mean(common)
        child.verdict = "accepted"
        child.reason = f"validation: {self.last_gain:+.4g} on {len(common)} examples"
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

    async def _beats_seed(self, child: Candidate, level: float) -> str:
        """Why not; ``""`` if it does."""
        seed, looked = self.pool.seed, 0
        gains, losses = Wealth(), Wealth()
        while looked < len(self._order) and gains.value < 2 / level:
            part = self._order[looked : looked + _LOOK]
            looked += len(part)
            for one, other in zip(await self.trials(child, part), await self.trials(seed, part), strict=True):
                gains.add(one.score - other.score)
                losses.add(other.score - one.score)
            if losses.value >= _CLEAR:
                break
        comparison = self.test.compare(seed.scores, child.scores, self._order[:looked], level)
        wealth = {"wealth": gains.value, "needed": 2 / level, "level": level}
        child.evidence["validation"] = {**comparison.to_dict(), **wealth}
        if gains.value >= 2 / level:
            return ""
        if looked == len(self._order) and self.test.accepts(comparison, level / 2):
            return ""
        return f"seed to child {comparison}; needed p ≤ {level / 2:.3g} on all {len(self._order)} examples"

    async def _beats_incumbent(self, child: Candidate) -> str:
        """Why not; ``""`` if it does."""
        looked, lead = 0, 0.0
        gains, losses = Wealth(), Wealth()
        while looked < len(self._order) and max(gains.value, losses.value) < _CLEAR:
            part = self._order[looked : looked + _LOOK]
            looked += len(part)
            for one, other in zip(await self.trials(child, part), await self.trials(self.incumbent, part), strict=True):
                lead += one.score - other.score
                gains.add(one.score - other.score)
                losses.add(other.score - one.score)
        child.evidence["incumbent"] = {"id": self.incumbent.id, "lead": lead / looked, "examples": looked}
        return "" if lead > _TINY else f"{lead / looked:+.4g} against the incumbent on {looked} examples"

    def result(self, finish_reason: str) -> PromptSearchResult:
        """What there is, at the end or, without a ``finish_reason``, on the way."""
        for candidate in self.pool:
            if candidate.verdict == "pending" and finish_reason:
                candidate.reason = f"not judged: the run ended ({finish_reason})"
        return PromptSearchResult(self.pool, self.incumbent, finish_reason, self.runner.evaluations, self.usage)
