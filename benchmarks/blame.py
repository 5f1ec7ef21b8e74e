"""How often the faulty component of four is named first, over generated worlds with known faults.

    python -m benchmarks.blame [--seeds 5] [--examples 40]

A world is a program of four components that pass on meanings in varying words; one of them loses the meaning at some
rate, or always for some inputs. The others slip now and then, wordings change at every new call, and the metric errs.
Components are functions in this process that count their calls; what they draw depends on the world, the inputs and
the repeat index, as a model's reply does behind a call store. Right outputs come from oracles, or only from runs under
other texts (``seen``). For comparison: blaming the component whose replacement *alone* helps most (``alone``), which
may only repair what came before it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hyperfunc import Example, HyperFunction, HyperSystem, hyperfunction
from hyperfunc.scope import current_scope
from hyperfunc_prompts import Oracle, assign_blame
from hyperfunc_prompts.attribution import RightOutputs, upstream_first
from hyperfunc_prompts.interventions import Rerunner
from hyperfunc_prompts.trials import TrialRunner

TOPOLOGIES = ("chain", "fan", "fan-in", "branch", "nested")
NAMES = ("first", "second", "third", "fourth")
TEXTS = {f"{name}.prompt": "other words" for name in NAMES}
"""Another candidate's texts: other wordings everywhere, and half of the faulty component's errors gone."""


def _share(*parts: object) -> float:
    """A number in [0, 1) that follows from the parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6]) / 2**48


def _meaning(name: str, *parts: str) -> str:
    """What a component that does right makes of its inputs' meanings."""
    if name == "first":  # in branching worlds its meaning is also the way to take
        return f"{'left' if _share(parts) < 0.5 else 'right'}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:8]}"
    return hashlib.sha256(repr((name, *parts)).encode()).hexdigest()[:10]


def _said(text: str) -> str:
    """The meaning of a component's output."""
    return text.split(" ")[0]


@dataclass
class World:
    """One program with one faulty component.

    Attributes:
        topology: how the components are joined.
        faulty: the component with the fault.
        seed: decides everything else; 0 is a seed like any other.
        calls: how often each component was really called.
    """

    topology: str
    faulty: str
    seed: int
    calls: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.always = self._draw("kind") < 0.4  # for some inputs always, or else by chance
        self.rate = (0.3, 0.6, 0.9)[int(3 * self._draw("rate"))]
        self.slips = (0.0, 0.03, 0.08)[int(3 * self._draw("slips"))]
        self.judge_errs = (0.0, 0.05)[int(2 * self._draw("judge"))]
        self.rewords = self._draw("rewords") < 0.7
        self.functions = {name: self._component(name) for name in NAMES}

    def _draw(self, *parts: object) -> float:
        return _share(self.topology, self.faulty, self.seed, *parts)

    def _component(self, name: str) -> HyperFunction[..., Any]:
        async def body(*inputs: str, prompt: str) -> str:
            if name == "third" and self.topology == "nested":
                inputs = (*inputs, await self.functions["second"](*inputs))
            self.calls[name] += 1
            await asyncio.sleep(0)
            return self._answer(name, inputs, prompt)

        body.__doc__ = f"The {name} step."
        return hyperfunction(optimize_prompt=True, name=name)(body)

    def _answer(self, name: str, inputs: tuple[str, ...], prompt: str) -> str:
        draw = (name, inputs, prompt, current_scope().repeat)
        meanings = [_said(text) for text in inputs]
        meaning = _meaning(name, *meanings)
        if name == self.faulty:
            # Another text helps with half of the inputs.
            cured = prompt in TEXTS.values() and self._draw("cured", *meanings) < 0.5
            strikes = self._draw("always", *meanings) if self.always else self._draw("fault", *draw)
            lost = strikes < self.rate and not cured
        else:
            lost = self._draw("slip", *draw) < self.slips
        if lost:
            meaning = _meaning(name, "lost", *meanings)
        return f"{meaning} in the words {self._draw('words', *draw) if self.rewords else 0:.4f}"

    def system(self) -> HyperSystem:
        """The program."""
        first, second, third, fourth = (self.functions[name] for name in NAMES)
        topology = self.topology

        class Program(HyperSystem):
            async def run(self, task: str) -> Any:
                if topology == "fan-in":
                    return await fourth(*await asyncio.gather(first(task), second(task), third(task)))
                begun = await first(task)
                if topology == "chain":
                    return await fourth(await third(await second(begun)))
                if topology == "fan":
                    return await fourth(*await asyncio.gather(second(begun), third(begun)))
                if topology == "branch":
                    taken = second if begun.startswith("left") else third
                    return await fourth(await taken(begun))
                return await fourth(await third(begun))

        system = Program()
        for function in self.functions.values():
            system.register_hyperfunction(function)
        return system

    def right(self, task: str) -> dict[str, str]:
        """The right meaning of every component's output."""
        first = _meaning("first", task)
        inner = task if self.topology == "fan-in" else first
        second = _meaning("second", inner)
        between = {"chain": (second,), "nested": (first, second)}.get(self.topology, (inner,))
        third = _meaning("third", *between)
        taken = second if first.startswith("left") else third
        last = {"fan-in": (first, second, third), "fan": (second, third), "branch": (taken,)}
        return dict(
            zip(NAMES, (first, second, third, _meaning("fourth", *last.get(self.topology, (third,)))), strict=True)
        )

    def oracles(self) -> dict[str, Oracle]:
        """The right outputs, in words of the oracle's own."""

        def oracle(name: str) -> Oracle:
            return lambda example, inputs: f"{self.right(example.inputs['task'])[name]} in the oracle's words"

        return {name: oracle(name) for name in NAMES}

    def examples(self, count: int) -> list[Example]:
        """Tasks with the meaning of the right answer."""
        tasks = [f"task{self.seed}.{index}" for index in range(count)]
        return [Example({"task": task}, self.right(task)["fourth"], id=task) for task in tasks]

    def metric(self, predictions: list[str], expected: list[str]) -> float:
        """Share of right meanings, as a judge sees it who errs now and then."""
        marks = [
            (_said(text) == meaning) != (self._draw("judge", text) < self.judge_errs)
            for text, meaning in zip(predictions, expected, strict=True)
        ]
        return sum(marks) / len(marks)


def worlds(seeds: int) -> Iterator[World]:
    """Every topology with every faulty component, ``seeds`` times."""
    for seed in range(seeds):
        for topology in TOPOLOGIES:
            for faulty in NAMES:
                yield World(topology, faulty, seed)


@dataclass(frozen=True)
class Verdict:
    """Who was named first, with what certainty, and what it took."""

    first: str | None
    share: float
    failing: int
    calls: int
    own_calls: int


async def blamed(world: World, source: str, examples: int = 40) -> Verdict:
    """The component named first; ``None`` where nobody gains anything."""
    system, data = world.system(), world.examples(examples)
    runner = TrialRunner(system, world.metric)
    recorded = await runner.run({}, data)
    own = sum(world.calls.values())
    given: dict[str, Any] = {"oracles": world.oracles()}
    if source == "seen":
        given = {"others": await runner.run(TEXTS, data), "resamples": 2}
    world.calls.clear()
    blame = await assign_blame(system, data, world.metric, recorded=recorded, **given)
    top = blame.table[0] if blame.table and blame.table[0].effect > 0 else None
    return Verdict(
        top.component if top else None,
        top.first if top else 0.0,
        len(blame.gains),
        sum(world.calls.values()),
        own,
    )


async def blamed_alone(world: World, examples: int = 40) -> Verdict:
    """For comparison: replace each component's outputs alone, and name the one that gains most (ties: the first)."""
    system, data = world.system(), world.examples(examples)
    runner, program = TrialRunner(system, world.metric), system.program(None)
    recorded = await runner.run({}, data)
    own = sum(world.calls.values())
    world.calls.clear()
    gains = dict.fromkeys(NAMES, 0.0)
    failing = 0
    for position, trial in enumerate(recorded):
        if trial.score >= 1:
            continue
        failing += 1
        rerunner = Rerunner(runner, program, trial.example, position)
        rerunner.learn(trial.tape)
        right = RightOutputs(trial.example, system.registry.all_components(), world.oracles(), None)
        for place, call in upstream_first(trial.tape):
            outcome = await right.of(call, place)
            assert outcome is not None
            gains[call.function] += (await rerunner.run({place: outcome})).score - trial.score
    top = max(NAMES, key=lambda name: gains[name])
    return Verdict(top, 1.0, failing, sum(world.calls.values()), own)


async def measure(seeds: int, examples: int) -> Mapping[tuple[str, str], list[tuple[World, Verdict]]]:
    """All worlds by source and topology."""
    found: dict[tuple[str, str], list[tuple[World, Verdict]]] = {}
    for source in ("oracles", "seen", "alone"):
        for world in worlds(seeds):
            verdict = await (blamed_alone(world, examples) if source == "alone" else blamed(world, source, examples))
            found.setdefault((source, world.topology), []).append((world, verdict))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="worlds per topology and faulty component")
    parser.add_argument("--examples", type=int, default=40, help="examples per world, passing ones included")
    parser.add_argument("--misses", action="store_true", help="also print every world that was got wrong")
    arguments = parser.parse_args()
    found = asyncio.run(measure(arguments.seeds, arguments.examples))
    print("| right outputs from | topology | faulty one first | calls, share of the examples' own runs (median) |")
    print("|---|---|---|---|")
    for source in ("oracles", "seen", "alone"):
        total: list[tuple[World, Verdict]] = []
        for topology in (*TOPOLOGIES, "all"):
            rows = found[source, topology] if topology != "all" else total
            total += rows if topology != "all" else []
            hits = sum(verdict.first == world.faulty for world, verdict in rows)
            calls = statistics.median(verdict.calls / verdict.own_calls for _, verdict in rows)
            print(f"| {source} | {topology} | {hits}/{len(rows)} ({hits / len(rows):.0%}) | {calls:.2f} |")
        if arguments.misses:
            for world, verdict in total:
                if verdict.first != world.faulty:
                    facts = f"always={world.always} rate={world.rate} slips={world.slips} judge={world.judge_errs}"
                    print(f"  {source} {world.topology} {world.faulty} {world.seed}: {verdict} {facts}")


if __name__ == "__main__":
    main()
