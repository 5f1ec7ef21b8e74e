"""Spans, sampling, propagation, summaries: from calls of a real system."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
import torch

from hyperfunc.errors import ConfigurationError
from hyperfunc.function import hyperfunction
from hyperfunc.observability import (
    CallContext,
    CallRecord,
    ObservabilityHub,
    ObservationRecord,
    Sampling,
    Span,
    Tracer,
    current_span,
    current_tracer,
    extract,
    inject,
    span,
    trace_calls_with,
    tracing,
)
from hyperfunc.observability import conventions as names
from hyperfunc.scope import enter_scope
from hyperfunc.system import HyperSystem
from hyperfunc.tape import add_usage
from hyperfunc.usage import Usage


@hyperfunction(io=True)
async def model(question: str) -> str:
    if "fail" in question:
        raise TimeoutError("no reply within 30 s")
    await asyncio.sleep(0)
    add_usage(Usage(calls=1, input_tokens=10, output_tokens=3, usd=0.5), model="small", finish_reason="stop")
    return question.upper()


@hyperfunction
async def plan(question: str) -> str:
    first, second = await asyncio.gather(model(question), model(f"{question}?"))
    return first + second


class Program(HyperSystem):
    async def run(self, question: str) -> str:
        return await plan(question)


def by_id(records: list[ObservationRecord]) -> dict[str, ObservationRecord]:
    return {record.span_id: record for record in records}


async def test_calls_become_spans_with_the_right_parents() -> None:
    system = Program()
    hub = ObservabilityHub(system)
    with hub.trace("session 1"):
        assert await system.run("hi") == "HIHI?"
    records = hub.observations()
    assert [record.fn_name for record in records] == ["model", "model", "plan", "Program"]
    known = by_id(records)
    assert [known[record.parent_id].fn_name for record in records if record.parent_id] == ["plan", "plan", "Program"]
    assert len({record.trace_id for record in records}) == 1
    for record in records:
        assert record.start_ns <= record.end_ns
        if record.parent_id:
            parent = known[record.parent_id]
            assert parent.start_ns <= record.start_ns
            assert record.end_ns <= parent.end_ns
    call = records[0]
    assert call.success
    assert call.attributes[names.OPERATION_NAME] == "chat"
    assert call.attributes[names.RESPONSE_MODEL] == call.attributes[names.REQUEST_MODEL] == "small"
    assert call.attributes[names.RESPONSE_FINISH_REASONS] == ["stop"]
    assert (call.gen_ai_usage_input_tokens, call.gen_ai_usage_output_tokens, call.cost_usd) == (10, 3, 0.5)
    assert records[2].attributes[names.OPERATION_NAME] == "execute_tool"
    assert records[3].attributes[names.SESSION_ID] == "session 1"
    assert names.INPUT_VALUE not in call.attributes  # content is off by default


async def test_content_is_kept_where_asked_for() -> None:
    system = Program()
    hub = ObservabilityHub(system)
    with hub.trace(content=True):
        await system.run("hi")
    record = hub.get_history()[0]
    assert record.attributes[names.INPUT_VALUE] == "hi"
    assert record.attributes[names.OUTPUT_VALUE] == "HI"


async def test_without_content_nothing_of_a_call_is_kept_alive() -> None:
    @hyperfunction
    async def forward(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    class Big(HyperSystem):
        async def run(self, x: torch.Tensor) -> None:
            await forward(x)

    system = Big()
    hub = ObservabilityHub(system)
    x = torch.zeros(10)
    watched = weakref.ref(x)
    with hub.trace():
        await system.run(x)
    del x
    gc.collect()
    assert watched() is None
    assert len(hub.get_history()) == 1


async def test_errors_are_told_and_pass_through() -> None:
    system = Program()
    hub = ObservabilityHub(system)
    with hub.trace(), pytest.raises(TimeoutError):
        await system.run("fail")
    failed = [record for record in hub.observations() if not record.success]
    assert {record.fn_name for record in failed} == {"model", "plan"}
    assert failed[0].error_type == "TimeoutError"
    assert failed[0].error_message == "no reply within 30 s"
    assert failed[0].attributes[names.ERROR_TYPE] == "TimeoutError"
    record = hub.get_call_records()[0]
    assert isinstance(record, CallRecord)
    assert isinstance(record.error, TimeoutError)
    assert record.error.__traceback__ is None


async def test_an_error_that_cannot_be_copied_is_still_told() -> None:
    class Odd(Exception):
        def __init__(self, code: int, reason: str) -> None:
            super().__init__(f"{reason} ({code})")

    tracer = Tracer((seen := []).append)
    with tracing(tracer), pytest.raises(Odd), span("run", "r"):
        raise Odd(3, "odd")
    record = ObservationRecord.from_span(seen[0])
    assert (record.error_type, record.error_message) == ("Odd", "odd (3)")


async def test_a_summary_has_quantiles_rates_and_costs() -> None:
    system = Program()
    hub = ObservabilityHub(system)
    with hub.trace("s"):
        for question in ("a", "b", "fail"):
            await asyncio.gather(system.run(question), return_exceptions=True)
    summary = hub.summary()
    stats = summary.by_function["model"]
    assert (summary.session_id, summary.total_calls, summary.total_errors) == ("s", 9, 3)
    assert (stats.call_count, stats.success_count, stats.error_count) == (6, 4, 2)
    assert stats.error_rate == pytest.approx(1 / 3)
    assert stats.total_input_tokens == 40
    assert summary.total_cost_usd == 2.0
    assert 0 < stats.min_elapsed_s <= stats.p50_elapsed_s <= stats.p95_elapsed_s <= stats.p99_elapsed_s
    assert stats.p99_elapsed_s <= stats.max_elapsed_s
    assert "| model | 6 | 2 |" in summary.to_markdown()
    assert summary.to_dict()["by_function"]["plan"]["call_count"] == 3
    hub.clear()
    assert hub.summary().total_calls == 0
    assert hub.summary().to_markdown()


def test_quantiles_interpolate() -> None:
    records = [
        ObservationRecord.from_call_record(CallRecord("f", None, elapsed, None), timestamp="2026-01-01T00:00:00")
        for elapsed in (4.0, 1.0, 3.0, 2.0, 5.0)
    ]
    from hyperfunc.observability import summarize

    stats = summarize(records).by_function["f"]
    assert (stats.p50_elapsed_s, stats.mean_elapsed_s, stats.total_elapsed_s) == (3.0, 3.0, 15.0)
    assert stats.p95_elapsed_s == pytest.approx(4.8)


async def test_numbers_of_ones_own_are_noted_with_every_call(caplog: pytest.LogCaptureFixture) -> None:
    system = Program()
    hub = ObservabilityHub(system)
    seen: list[CallContext] = []

    def characters(context: CallContext) -> float:
        seen.append(context)
        return len(context.result)

    hub.metric_functions["characters"] = characters
    hub.metric_functions["broken"] = lambda context: 1 / 0
    with hub.trace(), enter_scope(example=7):
        await asyncio.gather(system.run("hi"), system.run("fail"), return_exceptions=True)
    assert system.get_call_history() == []  # another hub
    plans = [record for record in hub.get_call_records() if record.fn_name == "plan"]
    assert [record.extra_metrics for record in plans] == [{}, {"characters": 5.0}] or [
        record.extra_metrics for record in plans
    ] == [{"characters": 5.0}, {}]
    done = next(context for context in seen if context.result == "HIHI?")
    assert (done.hf.name, done.bound_args, done.example_index) == ("plan", {"question": "hi"}, 7)
    assert done.elapsed_s > 0
    assert done.span.name == "plan"
    assert any(isinstance(context.error, TimeoutError) and context.result is None for context in seen)
    told = [record.getMessage() for record in caplog.records]
    assert [text for text in told if "broken" in text] == [
        "metric broken: ZeroDivisionError: division by zero (said once)"
    ]
    record = next(r for r in hub.get_history() if r.fn_name == "model" and r.success)
    assert record.attributes["hyperfunc.call.characters"] == len("HI") or record.attributes[
        "hyperfunc.call.characters"
    ] == len("HI?")


async def test_runs_generations_evaluations_and_examples_nest() -> None:
    tracer = Tracer((seen := []).append)
    with (
        trace_calls_with(tracer),
        span("run", "r"),
        span("generation", "generation 3", number=3, best=0.5) as generation,
    ):
        assert current_span() is generation
        with span("evaluation", "member 1", member=1), enter_scope(example=7):
            await Program().run("hi")
            assert current_tracer() is tracer
    known = {s.span_id: s for s in seen}
    chain = []
    here: Span | None = seen[0]
    while here is not None:
        chain.append(here.kind)
        here = known.get(here.parent_id)
    assert chain == ["call", "call", "evaluation", "generation", "run"]
    record = ObservationRecord.from_span(seen[0])
    assert record.example_index == 7
    assert ObservationRecord.from_span(seen[-2]).attributes["hyperfunc.number"] == 3
    assert current_tracer() is None


async def evaluate(members: int, failing: set[int], sampling: Sampling) -> tuple[list[Span], Tracer]:
    tracer = Tracer((seen := []).append, sampling=sampling)
    system = Program()

    async def member(index: int) -> None:
        with span("evaluation", f"member {index}", member=index):
            await system.run("fail" if index in failing else "hi")

    with trace_calls_with(tracer), span("run", "r"), span("generation", "g"):
        await asyncio.gather(*(member(i) for i in range(members)), return_exceptions=True)
    return seen, tracer


async def test_sampling_keeps_every_error_and_a_fraction_of_the_rest() -> None:
    seen, tracer = await evaluate(200, {3, 77, 150}, Sampling(0.1))
    members = {s.attributes["hyperfunc.member"] for s in seen if s.kind == "evaluation"}
    assert {3, 77, 150} <= members
    assert 8 <= len(members) <= 45  # three and about twenty of 197
    assert sum(s.kind == "run" for s in seen) == sum(s.kind == "generation" for s in seen) == 1
    assert sum(s.kind == "call" for s in seen) == 3 * len(members)  # all of an evaluation or nothing
    assert tracer.sampled_out == 4 * (200 - len(members))
    identities = {s.span_id for s in seen}
    assert all(s.parent_id in identities for s in seen if s.kind != "run")


@pytest.mark.parametrize(("sampling", "kept"), [(Sampling(0.0), {4}), (Sampling(0.0, keep_errors=False), set())])
async def test_sampling_at_its_ends(sampling: Sampling, kept: set[int]) -> None:
    seen, _ = await evaluate(6, {4}, sampling)
    assert {s.attributes["hyperfunc.member"] for s in seen if s.kind == "evaluation"} == kept
    with pytest.raises(ConfigurationError, match="from 0 to 1"):
        Sampling(1.5)


async def test_metrics_count_what_sampling_drops() -> None:
    system = Program()
    hub = ObservabilityHub(system)
    with hub.trace(sampling=0.0), span("evaluation", "member"):
        await system.run("hi")
    assert hub.get_history() == []
    assert hub.sampled_out == 4
    points = {
        (p.name, p.attributes.get(names.TOKEN_TYPE), p.attributes.get(names.TOOL_NAME)): p
        for p in hub.metrics.snapshot()
    }
    tokens = points[names.CLIENT_TOKEN_USAGE, "input", None]
    assert (tokens.count, tokens.value, tokens.unit) == (2, 20.0, "{token}")
    assert tokens.bucket_counts[tokens.bounds.index(16)] == 2
    assert points[names.CLIENT_OPERATION_DURATION, None, "plan"].count == 1


async def test_the_context_travels_to_another_process() -> None:
    tracer = Tracer((seen := []).append)
    assert inject() == {}
    with tracing(tracer), span("generation", "here") as here:
        carrier = inject()
    assert here is not None
    remote = extract(carrier)
    assert remote == (here.trace_id, here.span_id)
    with tracing(Tracer(seen.append), remote=remote), span("evaluation", "there"):
        pass
    assert (seen[1].trace_id, seen[1].parent_id) == (here.trace_id, here.span_id)


async def test_the_context_goes_into_tasks_and_threads() -> None:
    tracer = Tracer((seen := []).append)

    async def task() -> None:
        with span("evaluation", "in a task"):
            await asyncio.sleep(0)

    def thread() -> None:
        with span("evaluation", "in a thread"):
            pass

    with tracing(tracer), span("generation", "g") as generation:
        await asyncio.gather(asyncio.create_task(task()), asyncio.to_thread(thread))
    assert generation is not None
    assert {s.name: s.parent_id for s in seen if s.kind == "evaluation"} == {
        "in a task": generation.span_id,
        "in a thread": generation.span_id,
    }


@pytest.mark.parametrize(
    "header",
    ["", "nonsense", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "ff-" + "1" * 32 + "-" + "1" * 16 + "-01",
     "00-" + "1" * 32 + "-" + "0" * 16 + "-01", "00-" + "1" * 32 + "-" + "1" * 16 + "-01-more"],
)  # fmt: skip
def test_malformed_contexts_are_ignored(header: str) -> None:
    assert extract({"traceparent": header}) is None


async def test_sessions_do_not_nest_and_do_not_mix() -> None:
    one, other = Program(), Program()
    hub_one, hub_other = ObservabilityHub(one), ObservabilityHub(other)

    async def session(hub: ObservabilityHub, system: Program, question: str) -> None:
        with hub.trace(content=True):
            for _ in range(5):
                await system.run(question)

    await asyncio.gather(session(hub_one, one, "one"), session(hub_other, other, "other"))
    assert {r.attributes[names.INPUT_VALUE] for r in hub_one.get_history()} == {"one", "one?"}
    assert len(hub_other.get_history()) == 15
    with hub_one.trace(), pytest.raises(ConfigurationError, match="open already"), hub_one.trace():
        pass


async def test_the_history_is_bounded_and_says_so() -> None:
    system = Program()
    hub = ObservabilityHub(system, history_limit=10)
    with hub.trace():
        for _ in range(10):
            await system.run("hi")
    assert len(hub.observations()) == 10
    assert hub.summary().dropped == 21


def test_the_tracer_costs_nothing_where_it_is_off() -> None:
    with span("generation", "g") as nothing:
        assert nothing is None
    assert current_span() is None


def test_records_leave_out_what_is_empty() -> None:
    record = ObservationRecord.from_call_record(CallRecord("f", 3, 0.5, ValueError("no"), {"x": 1.0}), "2026-01-01")
    expected: dict[str, Any] = {
        "fn_name": "f", "timestamp": "2026-01-01", "elapsed_s": 0.5, "example_index": 3, "success": False,
        "error_type": "ValueError", "error_message": "no", "extra_metrics": {"x": 1.0}, "kind": "call",
        "start_ns": 0, "end_ns": 0,
    }  # fmt: skip
    assert record.to_dict() == expected


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"exporters": "json"}, r"expected a list, such as \['json'\]"),
        ({"exporters": [3]}, "expected objects with `export"),
        ({"exporters": ["json"]}, "exporter 'json' cannot be made with no arguments: missing .* 'path'; it takes JSON"),
        ({"sampling": 2}, "a fraction from 0 to 1"),
    ],
)
def test_arguments_of_a_session_are_checked_before_it_begins(wrong: dict[str, Any], words: str) -> None:
    hub = ObservabilityHub(HyperSystem())
    with pytest.raises(ConfigurationError, match=words), hub.trace(**wrong):
        pass
    with pytest.raises(ConfigurationError, match=r"cannot be made with \['pth'\]"):
        hub.export("json", pth="x")
    with hub.trace():
        pass
