"""Feedback ascent: the manual loop, in the manner of torch.

    ascent = FeedbackAscent(system, "smart", validation=held_out)
    loss = ascent.loss(scorer)
    for batch in batches:
        runs = [await ascent.run(example.inputs) for example in batch]
        feedback = await loss(runs, [example.expected for example in batch])
        await feedback.backward()
        await ascent.step()
        ascent.zero_feedback()

Feedback collects in the object, not in a global; a run that nobody calls ``backward`` on is forgotten with its value.
A step proposes a new text per parameter that was told something, upstream components first (those downstream see the
changes), and all of them are accepted together or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyperfunc.errors import ConfigurationError, OptimizationError
from hyperfunc.evaluation.concurrency import run_together
from hyperfunc.evaluation.example import Example
from hyperfunc.evaluation.results import check_lengths
from hyperfunc.evaluation.scoring import Scorer, score_all
from hyperfunc.parameters.theta import JSONValue
from hyperfunc.scope import enter_scope
from hyperfunc.selection import as_examples
from hyperfunc.tape import Call, Tape
from hyperfunc.usage import Usage
from hyperfunc_prompts.acceptance import AcceptanceTest, passes_minibatch
from hyperfunc_prompts.backward import Backward, CallFeedback, own_backward, propagate
from hyperfunc_prompts.pool import Candidate, CandidatePool
from hyperfunc_prompts.reflection import Complete, Reflector, section
from hyperfunc_prompts.search import Search, trainable_texts
from hyperfunc_prompts.trials import TrialRunner

__all__ = ["Feedback", "FeedbackAscent", "RecordedRun", "TextualLoss"]


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """One run of the program: its inputs, its output, what it called, and the texts that it ran under."""

    inputs: Mapping[str, Any]
    output: Any
    tape: Tape
    texts: Mapping[str, JSONValue]


@dataclass(frozen=True, eq=False)
class Feedback:
    """What a loss says about one run or several.

    Attributes:
        score: mean over the runs; higher is better.
        individual_scores: one per run.
        actions: what to do better, one text per run; empty where there is nothing to say.
    """

    score: float
    individual_scores: tuple[float, ...]
    actions: tuple[str, ...]
    runs: tuple[RecordedRun, ...]
    targets: tuple[Any, ...]
    scorer: Scorer
    ascent: FeedbackAscent

    async def backward(self) -> None:
        """Tell every component what concerns it. Runs without feedback tell nobody anything."""
        await self.ascent._receive(self)


class TextualLoss:
    """Judges recorded runs. Made by :meth:`FeedbackAscent.loss`."""

    def __init__(self, ascent: FeedbackAscent, scorer: Scorer) -> None:
        self._ascent = ascent
        self._scorer = scorer

    async def __call__(self, outputs: RecordedRun | Sequence[RecordedRun], targets: Any) -> Feedback:
        """Feedback about one run and its target, or about a list of runs and theirs."""
        if isinstance(outputs, RecordedRun):
            outputs, targets = [outputs], [targets]
        check_lengths(outputs=outputs, targets=targets)
        results = await score_all(self._scorer, [r.output for r in outputs], targets, [r.inputs for r in outputs])
        scores = []
        for result in results:
            if result.score is None:
                raise OptimizationError(f"the scorer gave no score for a run ({result.feedback or 'no reason given'})")
            scores.append(result.score)
        actions = tuple(result.feedback.strip() for result in results)
        mean = sum(scores) / len(scores)
        return Feedback(mean, tuple(scores), actions, tuple(outputs), tuple(targets), self._scorer, self._ascent)


class FeedbackAscent:
    """Learns texts by feedback that walks back along the tape.

    Args:
        system: whose texts are learned.
        model: who writes the texts: an alias or a model of the LLM runtime, or an async function of messages.
        validation: examples on which a step is accepted; give none that ``run`` sees.
        steps: most steps that bring texts to validation; the false-accept rate is shared among them.
        conservatism: 0 to 1, how much of a text should stay as it is; the model is told.
        false_accept_rate: see :mod:`hyperfunc_prompts.acceptance`.
        overrides: a backward for a component, by dotted name, instead of its own (a method ``backward`` of its class or
            module, or :func:`~hyperfunc_prompts.backward.backward_of`).
        attempts: replies asked for until one can be used.
        concurrency: most program runs at a time, when a step is tested.
        seed: of the runs' scopes and of permutations.
    """

    def __init__(
        self,
        system: Any,
        model: str | Complete,
        *,
        validation: Sequence[Example],
        steps: int = 10,
        conservatism: float = 0.7,
        false_accept_rate: float = 0.05,
        overrides: Mapping[str, Backward] | None = None,
        attempts: int = 3,
        concurrency: int = 16,
        seed: int = 0,
    ) -> None:
        if not 0 <= conservatism <= 1:
            raise ConfigurationError(f"conservatism must lie between 0 and 1, got {conservatism}")
        self._system = system
        self._validation = as_examples(validation)
        self._test = AcceptanceTest(false_accept_rate, steps, seed)
        self._steps = steps
        self._conservatism = conservatism
        self._overrides = dict(overrides or {})
        self._reflector = Reflector(model, attempts=attempts)
        self._concurrency, self._seed = concurrency, seed
        self._received: list[Feedback] = []
        self._told: dict[str, list[CallFeedback]] = {}
        self._edges: set[tuple[str, str]] = set()
        self._search: Search | None = None
        self._validated = 0

    @property
    def pool(self) -> CandidatePool | None:
        """Every set of texts that was proposed; ``None`` before the first step that proposed any."""
        return None if self._search is None else self._search.pool

    def loss(self, scorer: Scorer) -> TextualLoss:
        """A loss that judges by ``scorer``."""
        return TextualLoss(self, scorer)

    async def run(self, inputs: Mapping[str, Any]) -> RecordedRun:
        """Run the program and record what it calls."""
        with enter_scope(seed=self._seed, evaluating=True):
            output, tape = await self._system.execute(inputs, record=True)
        return RecordedRun(inputs, output, tape, self._system.theta.texts)

    def feedback_for(self, name: str) -> list[CallFeedback]:
        """What the component of the text ``name`` was told since the last :meth:`zero_feedback`."""
        return list(self._told.get(name.rpartition(".")[0], ()))

    def zero_feedback(self) -> None:
        """Forget all feedback."""
        self._received.clear()
        self._told.clear()
        self._edges.clear()

    async def step(self) -> Candidate | None:
        """Propose texts from the feedback, test them, and take them over if they pass.

        Returns:
            The candidate, with its verdict; ``None`` when there was no feedback, and then nothing was asked.

        Raises:
            UnusableProposalError, ReflectorOutageError: no text could be had; nothing was changed.
            OptimizationError: the feedback is about texts that have been replaced, or all ``steps`` were used.
        """
        entries = {e.name: e for e in trainable_texts(self._system) if self._told.get(e.component)}
        if not entries:
            return None
        search = self._search or self._new_search()
        now = self._system.theta.texts
        if any(r.texts[name] != now[name] for f in self._received for r in f.runs for name in search.entries):
            raise OptimizationError("the feedback is about texts that were replaced since; call zero_feedback()")
        if self._validated >= self._steps:
            raise OptimizationError(f"all {self._steps} steps are used; plan more with steps=")
        self._search = search
        parent = search.incumbent
        texts = dict(parent.texts)
        usage = Usage()
        for level in self._levels([entry.component for entry in entries.values()]):
            names = [name for name, entry in entries.items() if entry.component in level]
            found = await run_together(
                [self._reflector.new_text(name, texts[name], self._messages(search, name, texts)) for name in names]
            )
            for name, reflection in zip(names, found, strict=True):
                texts[name] = reflection.value
                usage += reflection.usage
        child = search.pool.add(texts, (parent,), "feedback-ascent", calls=sum(map(len, self._told.values())))
        child.cost += usage
        if child.verdict == "pending" and await self._holds_on_batch(child):
            self._validated += 1
            await search.decide(child)
        return child

    # --- the parts of a step -------------------------------------------------------------------------------------

    async def _receive(self, feedback: Feedback) -> None:
        components = self._system.registry.all_components()

        def inputs_of(call: Call) -> Mapping[str, Any]:
            return call.inputs(components[call.function].signature)

        async def reason(question: str) -> str:
            reply = await self._reflector.ask("a component's backward", [{"role": "user", "content": question}])
            return reply.text

        own = {name: defined for name, c in components.items() if (defined := own_backward(c)) is not None}
        overrides = {**own, **self._overrides}
        told = await run_together(
            [
                propagate(run.tape, action, score, inputs_of=inputs_of, overrides=overrides, reason=reason)
                for run, action, score in zip(feedback.runs, feedback.actions, feedback.individual_scores, strict=True)
            ]
        )
        self._received.append(feedback)
        for part in told:
            self._edges |= part.edges
            for item in part.calls:
                self._told.setdefault(item.component, []).append(item)

    def _new_search(self) -> Search:
        scorer = self._received[0].scorer
        runner = TrialRunner(self._system, scorer, concurrency=self._concurrency, seed=self._seed)
        entries = trainable_texts(self._system)
        return Search(self._system, entries, runner, [], self._validation, self._test, "feedback-ascent")

    def _upstream(self, component: str) -> set[str]:
        """Components whose outputs reach ``component``, over any number of calls."""
        found: set[str] = set()
        waiting = [component]
        while waiting:
            target = waiting.pop()
            new = {source for source, to in self._edges if to == target} - found
            found |= new
            waiting += new
        return found

    def _levels(self, components: Sequence[str]) -> list[set[str]]:
        """Components in levels, each after all of its upstream ones; those of a cycle share a level."""
        remaining = set(components)
        upstream = {component: self._upstream(component) for component in remaining}
        levels = []
        while remaining:
            level = {c for c in remaining if all(c in upstream[source] for source in upstream[c] & remaining - {c})}
            levels.append(level)
            remaining -= level
        return levels

    def _messages(self, search: Search, name: str, texts: Mapping[str, JSONValue]) -> list[dict[str, Any]]:
        entry, before = search.entries[name], search.incumbent.texts
        upstream = self._upstream(entry.component)
        parts = [
            section("component", entry.component),
            section("purpose", entry.text.description),
            section("current_text", before[name]),
        ]
        for other, value in texts.items():
            if value != before[other] and search.entries[other].component in upstream:
                parts.append(section("upstream_before", before[other], name=other))
                parts.append(section("upstream_now", value, name=other))
        for item in self._told[entry.component]:
            said = "\n".join(section("feedback", text) for text in item.feedback)
            ends = f"{section('inputs', item.inputs)}\n{section('output', item.output)}"
            parts.append(f"<call score={item.score:.3g}>\n{ends}\n{said}\n</call>")
        parts.append(
            "Improve the text so that the feedback is answered in general. "
            f"Conservatism {self._conservatism:g} of 1: keep that much of it as it is. Keep all {{slots}}; where the "
            "text is JSON, its types.\n\n"
            "Reply with the new text between <new_text> and </new_text>, written plainly and not escaped."
        )
        role = "You improve the text that instructs one component of a program, from feedback about its outputs."
        return [{"role": "system", "content": role}, {"role": "user", "content": "\n\n".join(parts)}]

    async def _holds_on_batch(self, child: Candidate) -> bool:
        """Whether the child does better on the runs that the feedback is about."""
        before, after = 0.0, 0.0
        for feedback in self._received:
            examples = [Example(r.inputs, t) for r, t in zip(feedback.runs, feedback.targets, strict=True)]
            runner = TrialRunner(self._system, feedback.scorer, concurrency=self._concurrency, seed=self._seed)
            trials = await runner.run(child.texts, examples)
            child.cost += Usage(evaluations=len(trials))
            before += sum(feedback.individual_scores)
            after += sum(trial.score for trial in trials)
        child.evidence["minibatch"] = {"before": before, "after": after}
        if passes_minibatch([before], [after]):
            return True
        child.verdict, child.reason = "rejected", f"minibatch: {before:g} -> {after:g}"
        return False
