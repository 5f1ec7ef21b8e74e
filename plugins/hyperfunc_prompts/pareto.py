"""``ReflectivePareto``: reflective mutation of a population kept by its per-example Pareto front.

GEPA's algorithm (Agrawal et al. 2025, arXiv 2507.19457) on our pool: candidates that pass a small minibatch are scored
on the whole validation set; a parent is drawn by the number of validation examples on which it is among the best; now
and then two lines are merged. What is *shipped* is decided by the acceptance test, not by the highest mean.

Unlike GEPA's code: nobody is run twice on one example, and texts that came before are recognised.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from hyperfunc.errors import ConfigurationError
from hyperfunc.evaluation.example import Example
from hyperfunc.parameters.theta import JSONValue
from hyperfunc_prompts.choice import ComponentChoice, RoundRobin, component_choice_named
from hyperfunc_prompts.evidence import worst_first
from hyperfunc_prompts.optimizer import PromptOptimizer
from hyperfunc_prompts.pool import Candidate, CandidatePool
from hyperfunc_prompts.reflection import Complete
from hyperfunc_prompts.rewriting import Rewriter
from hyperfunc_prompts.search import Search
from hyperfunc_prompts.steps import Proposer

__all__ = ["ReflectivePareto"]

_MERGE_SAMPLE = 5  # validation examples on which a merge is tried first


class ReflectivePareto(PromptOptimizer):
    """Reflective evolution with a Pareto front.

    Args:
        max_iterations: proposals, merges not counted.
        context_size: tokens of one request to ``model``, estimated from bytes.
        minibatch: training examples that a proposal is made from and first tested on.
        merges: most merges, ≥ 0; they need at least two texts.
        component_choice: whose text is rewritten: ``"round-robin"``, ``"blame"`` (who makes the minibatch fail), or a
            :class:`~hyperfunc_prompts.choice.ComponentChoice`, as ``BlameDriven(oracles)``.
        model, verbose, …: as in :class:`~hyperfunc_prompts.optimizer.PromptOptimizer`.
    """

    name = "reflective-pareto"

    def __init__(
        self,
        model: str | Complete = "gpt-4o",
        max_iterations: int = 20,
        context_size: int = 8000,
        verbose: bool = False,
        scorer: Any = None,
        *,
        minibatch: int = 3,
        merges: int = 5,
        component_choice: str | ComponentChoice = "round-robin",
        validation: Sequence[Example] | float = 0.4,
        false_accept_rate: float = 0.05,
        perfect_score: float = 1.0,
        failure_score: float = 0.0,
        attempts: int = 3,
        rejected_shown: int = 3,
        concurrency: int = 16,
        seed: int = 0,
    ) -> None:
        if merges < 0:
            raise ConfigurationError(f"merges must be at least 0, got {merges}")
        super().__init__(
            model,
            max_iterations=max_iterations,
            context_size=context_size,
            verbose=verbose,
            scorer=scorer,
            validation=validation,
            minibatch=minibatch,
            false_accept_rate=false_accept_rate,
            perfect_score=perfect_score,
            failure_score=failure_score,
            attempts=attempts,
            rejected_shown=rejected_shown,
            concurrency=concurrency,
            seed=seed,
        )
        self.merges = merges
        self.component_choice = component_choice_named(component_choice, perfect_score)

    def most_proposals(self, texts: int, examples: int) -> int:
        return self.max_iterations + (self.merges if texts > 1 else 0)

    @property
    def not_foreseen(self) -> tuple[str, ...]:
        if isinstance(self.component_choice, RoundRobin):
            return ()
        return ("runs that find out who is to blame are not included",)

    def proposer(self, search: Search) -> Proposer:
        return _Population(self, search)


class _Population(Proposer):
    """The candidates that passed their minibatch, and whose turn it is."""

    def __init__(self, options: ReflectivePareto, search: Search) -> None:
        self._options = options
        self._rewriter = Rewriter(options.reflector, options.context_size, options.rejected_shown)
        self._generator = random.Random(f"pareto/{options.seed}")
        self._batches = EpochBatches(search.train, options.minibatch or len(search.train), self._generator)
        self._members = [search.pool.seed]
        self._turns: dict[int, int] = {}  # candidate -> which text is next
        self._iterations = 0
        self._merges_left = options.merges if len(search.entries) > 1 else 0
        self._merge_due = False

    def forget(self, search: Search) -> None:
        self._members = [search.pool.seed] + ([search.incumbent] if search.incumbent.id else [])
        if self.finished == "no failures":
            self.finished = ""

    async def step(self, search: Search) -> Candidate | None:
        options = self._options
        for member in self._members:
            await search.trials(member, search.validation)
        if all(search.incumbent.scores[key] >= options.perfect_score for key in search.validation):
            self.finished = "no failures"
            return None
        child = None
        if self._merge_due and self._merges_left:
            self._merge_due = False
            child = await self._merge(search)
        if child is None:
            child = await self._mutate(search)
            self._iterations += 1
            if self._iterations == options.max_iterations:
                self.finished = "completed"
        return child

    async def _mutate(self, search: Search) -> Candidate | None:
        options = self._options
        parent = draw_parent(self._members, search.validation, self._generator)
        batch = self._batches.next()
        failures = worst_first(await search.trials(parent, batch), options.perfect_score)
        if not failures:
            return None
        turn = self._turns.get(parent.id, 0)
        name = await options.component_choice.choose(search, parent, failures, turn)
        child = await self._rewriter.child(search, parent, name, failures, options.name)
        self._turns[parent.id] = self._turns[child.id] = turn + 1
        if child.verdict == "pending" and await search.beats_on_minibatch(child, parent, batch):
            await search.decide(child)
            self._members.append(child)
            self._merge_due = True
        options.report(f"candidate {child.id} of {parent.id}: {child.verdict} ({child.reason})")
        return child

    async def _merge(self, search: Search) -> Candidate | None:
        """One merge; ``None`` when there was no pair to merge."""
        found = find_merge(search.pool, self._members, search.validation, self._generator)
        if found is None:
            return None
        self._merges_left -= 1
        left, right, texts = found
        child = search.pool.add(texts, (left, right), f"{self._options.name}/merge")
        sample = merge_sample(left, right, search.validation, self._generator)
        await search.trials(child, sample)
        needed = max(sum(side.scores[key] for key in sample) for side in (left, right))
        reached = sum(child.scores[key] for key in sample)
        child.evidence["merge"] = {"needed": needed, "reached": reached, "examples": len(sample)}
        if reached >= needed:
            await search.decide(child)
            self._members.append(child)
        else:
            child.verdict = "rejected"
            child.reason = f"merge: {reached:g} of {needed:g} on {len(sample)} validation examples"
        self._options.report(f"merge {child.id} of {left.id} and {right.id}: {child.verdict} ({child.reason})")
        return child


class EpochBatches:
    """Minibatches that go through all ids in a new order each epoch; the last one is filled up with ids least used."""

    def __init__(self, ids: Sequence[str], size: int, generator: random.Random) -> None:
        self._ids, self._size, self._generator = list(ids), min(size, len(ids)), generator
        self._used = dict.fromkeys(self._ids, 0)
        self._waiting: list[str] = []

    def next(self) -> list[str]:
        """The next batch, without repeats."""
        if not self._waiting:
            self._waiting = list(self._ids)
            self._generator.shuffle(self._waiting)
        batch, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
        spare = sorted((key for key in self._ids if key not in batch), key=lambda key: self._used[key])
        batch += spare[: self._size - len(batch)]
        for key in batch:
            self._used[key] += 1
        return batch


def fronts(population: Sequence[Candidate], keys: Sequence[str]) -> dict[str, set[int]]:
    """Per example, the ids of the candidates with the highest score (ties all)."""
    best = {key: max(c.scores[key] for c in population) for key in keys}
    return {key: {c.id for c in population if c.scores[key] == best[key]} for key in keys}


def non_dominated(population: Sequence[Candidate], keys: Sequence[str]) -> dict[int, int]:
    """Candidate id -> fronts that it is on, after removing, lowest mean first, those without whom no front is empty."""
    front_of = fronts(population, keys)
    on_some = {id for front in front_of.values() for id in front}
    remaining = set(on_some)
    for candidate in sorted((c for c in population if c.id in on_some), key=lambda c: (c.mean(list(keys)), c.id)):
        others = remaining - {candidate.id}
        if all(front & others for front in front_of.values() if candidate.id in front):
            remaining = others
    return {id: sum(id in front for front in front_of.values()) for id in sorted(remaining)}


def draw_parent(population: Sequence[Candidate], keys: Sequence[str], generator: random.Random) -> Candidate:
    """A non-dominated candidate, with probability in proportion to the fronts that it is on."""
    weights = non_dominated(population, keys)
    (id,) = generator.choices(list(weights), list(weights.values()))
    return next(candidate for candidate in population if candidate.id == id)


def find_merge(
    pool: CandidatePool, population: Sequence[Candidate], keys: Sequence[str], generator: random.Random
) -> tuple[Candidate, Candidate, dict[str, JSONValue]] | None:
    """Two non-dominated candidates of different lines and the texts of both, or ``None``.

    They share an ancestor no better than either. Of each text the side that changed it since then is taken, of one
    that both changed the better candidate's. Texts that were there before are passed over.
    """
    names = list(keys)
    members = {c.id: c for c in population}
    pairs = list(combinations(non_dominated(population, keys), 2))
    generator.shuffle(pairs)
    for left, right in ((members[a], members[b]) for a, b in pairs):
        above_left, above_right = pool.ancestors(left), pool.ancestors(right)
        if left.id in above_right or right.id in above_left:
            continue
        worse = min(left.mean(names), right.mean(names))
        shared = [
            pool[id]
            for id in sorted(above_left & above_right, reverse=True)
            if id in members and pool[id].mean(names) <= worse
        ]
        for ancestor in shared:
            texts = _combined(ancestor.texts, left, right, names)
            if pool.find(texts) is None:
                return left, right, texts
    return None


def _combined(
    ancestor: Mapping[str, JSONValue], left: Candidate, right: Candidate, keys: list[str]
) -> dict[str, JSONValue]:
    better = left if left.mean(keys) >= right.mean(keys) else right
    texts: dict[str, JSONValue] = {}
    for name, old in ancestor.items():
        if left.texts[name] == old:
            texts[name] = right.texts[name]
        elif right.texts[name] == old:
            texts[name] = left.texts[name]
        else:
            texts[name] = better.texts[name]
    return texts


def merge_sample(left: Candidate, right: Candidate, keys: Sequence[str], generator: random.Random) -> list[str]:
    """A few validation examples, in turn from where left is better, where right is, and where both are alike."""
    strata = [
        [key for key in keys if left.scores[key] > right.scores[key]],
        [key for key in keys if left.scores[key] < right.scores[key]],
        [key for key in keys if left.scores[key] == right.scores[key]],
    ]
    for stratum in strata:
        generator.shuffle(stratum)
    sample: list[str] = []
    while len(sample) < min(_MERGE_SAMPLE, len(keys)):
        for stratum in strata:
            if stratum and len(sample) < _MERGE_SAMPLE:
                sample.append(stratum.pop())
    return sample
