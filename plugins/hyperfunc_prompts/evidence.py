"""From failed runs to the messages that ask for a better text, within a number of tokens. Knows nothing of models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from hyperfunc.parameters.text import slots_of
from hyperfunc.parameters.theta import JSONValue
from hyperfunc_prompts.pool import Candidate
from hyperfunc_prompts.reflection import RULES_HEADING, estimate_tokens, section, split_rules
from hyperfunc_prompts.trials import Trial

__all__ = ["Mode", "meta_prompt", "worst_first"]

Mode = Literal["rewrite", "ruleset"]

_ROLE = "You improve the text that instructs one component of a program. You are shown runs that went wrong."
_REWRITE = (
    "Infer from the feedback what the component has to do that its text does not say. Write a new text that says it: "
    "keep what is right, state general rules rather than answers to these examples, and keep facts of the domain."
)
_RULESET = (
    f"The text stays as it is; under the heading '{RULES_HEADING}' it has a list of general rules. Write the whole "
    "revised list: one rule per line, each beginning with '- ', none about a single example."
)


def worst_first(trials: Sequence[Trial], perfect_score: float) -> list[Trial]:
    """The trials below the perfect score, the lowest first, in the order of the examples where equal."""
    return sorted((t for t in trials if t.score < perfect_score), key=lambda t: t.score)


def meta_prompt(
    *,
    component: str,
    description: str,
    current: JSONValue,
    others: dict[str, JSONValue],
    failures: Sequence[Trial],
    turned_down: Sequence[Candidate],
    name: str,
    mode: Mode,
    context_size: int,
    successes: Sequence[Trial] = (),
) -> tuple[list[dict[str, Any]], int]:
    """Messages that ask for a new text of ``name``, and how many failures they show.

    Rows are packed in their order until the estimate reaches ``context_size`` tokens; a row too long for what is left
    is left out and the next one tried. The first row is always shown, shortened where it must be. ``successes`` follow
    where there is room.
    """
    form = "Reply with the new text between <new_text> and </new_text>, written plainly and not escaped."
    if mode == "rewrite" and isinstance(current, str) and slots_of(current):
        form += f" Keep exactly these slots: {', '.join(f'{{{s}}}' for s in sorted(slots_of(current)))}."
    if not isinstance(current, str):
        form += " The text is JSON; keep its types."
    head = [section("component", component), section("purpose", description), section("current_text", current)]
    head += [section("other_text", value, name=other) for other, value in others.items()]
    for candidate in turned_down:
        shown: JSONValue = candidate.texts[name]
        if mode == "ruleset" and isinstance(shown, str):
            shown = split_rules(shown)[1]
        head.append(section("rejected_text", shown, reason=candidate.reason))
    task = f"{_RULESET if mode == 'ruleset' else _REWRITE}\n\n{form}"
    fixed = "\n\n".join([_ROLE, *head, task])
    left = context_size - estimate_tokens(fixed)
    rows: list[str] = []
    for trial in failures:
        row = _row(trial, component, most=left)
        if row is None:
            if rows:
                continue
            row = _cut_row(trial, component, limit=max(80, left // 2))
        rows.append(row)
        left -= estimate_tokens(row)
    right: list[str] = []
    for trial in successes:
        row = _row(trial, component, most=left)
        if row is not None:
            right.append(row)
            left -= estimate_tokens(row)
    kept = [f"{len(right)} runs that went right, as they should under the new text:", *right] if right else []
    body = "\n\n".join([*head, f"{len(rows)} runs that went wrong:", *rows, *kept, task])
    return [{"role": "system", "content": _ROLE}, {"role": "user", "content": body}], len(rows)


def _row(trial: Trial, component: str, most: int) -> str | None:
    """A trial as text of at most ``most`` tokens; ``None`` if it has more.

    Stops as soon as it cannot fit any more: what a run was given and gave may be tensors, whose repr is slow.
    """
    cheap = _verdict(trial)
    if estimate_tokens(_joined(cheap)) > most:
        return None
    parts: list[str] = []
    for tag, value in _values(trial, component):
        parts.append(section(tag, _text(value)))
        if estimate_tokens(_joined([*parts, *cheap])) > most:
            return None
    return _joined([*parts, *cheap])


def _cut_row(trial: Trial, component: str, limit: int) -> str:
    """A trial as text, each value cut after ``limit`` characters."""
    parts = [section(tag, _cut(_text(value), limit)) for tag, value in _values(trial, component)]
    return _joined([*parts, *_verdict(trial, limit)])


def _values(trial: Trial, component: str) -> Iterator[tuple[str, Any]]:
    yield "inputs", trial.example.inputs
    calls = [call for call in trial.tape if call.function == component]
    if len(trial.tape) > len(calls):  # a component among others: its own calls tell more than the program's ends
        for call in calls:
            yield "component_inputs", [*call.args, call.kwargs] if call.args else call.kwargs
            yield "component_output", call.output
    yield "output", trial.output
    if trial.example.expected is not None:
        yield "expected", trial.example.expected


def _verdict(trial: Trial, limit: int | None = None) -> list[str]:
    told = [section("score", f"{trial.score:g}")]
    return told + [section("feedback", _cut(text, limit), column=column) for column, text in trial.feedback.items()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _cut(text: str, limit: int | None) -> str:
    cut = limit is not None and len(text) > limit
    return f"{text[:limit]} … ({len(text) - (limit or 0)} characters more)" if cut else text


def _joined(parts: Sequence[str]) -> str:
    return "<run>\n" + "\n".join(parts) + "\n</run>"
