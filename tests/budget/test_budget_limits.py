"""Budgets: what fits, what is refused, what is counted; under concurrency and from threads."""

from __future__ import annotations

import asyncio
import json
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfunc.budget import Budget, BudgetReservation
from hyperfunc.errors import BudgetError, BudgetExceededError
from hyperfunc.scope import BudgetLike
from hyperfunc.usage import Usage


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_sums_of_money_are_exact() -> None:
    budget = Budget(usd=1.0)
    for _ in range(10):  # ten times 0.1 in floats is 0.9999999999999999, and 1.1 - 0.1 would not fit
        budget.reserve(Usage(usd=0.1)).settle(Usage(usd=0.1))
    assert budget.spent.usd == 1.0
    assert budget.remaining == {"usd": 0.0}
    with pytest.raises(BudgetExceededError) as refused:
        budget.reserve(Usage(usd=1e-12))
    assert refused.value.limit == "usd"
    assert budget.exhausted == "usd"


def test_what_fits_exactly_is_taken_and_a_refusal_takes_nothing() -> None:
    budget = Budget(tokens=100, calls=5)
    budget.reserve(Usage(calls=1, input_tokens=60, output_tokens=40)).settle(Usage(calls=1, input_tokens=60))
    before = budget.remaining
    assert before == {"tokens": 40, "calls": 4}
    with pytest.raises(BudgetExceededError, match=r"reservation of 41 tokens does not fit: limit 100 tokens, spent 60"):
        budget.reserve(Usage(calls=1, output_tokens=41))
    assert budget.remaining == before
    assert budget.exhausted == "tokens"
    budget.reserve(Usage(calls=1, output_tokens=40))
    assert budget.exhausted is None  # a reservation was made since


def test_a_call_that_needs_nothing_of_a_used_up_kind_may_be_made() -> None:
    budget = Budget(usd=0, calls=1)
    budget.reserve(Usage(calls=1)).settle(Usage(calls=1))
    assert budget.exhausted == "usd"


def test_nested_budgets_reserve_in_all_levels_or_in_none() -> None:
    run = Budget(calls=10, name="run")
    first = run.child("first", calls=8)
    second = run.child("second", calls=8)
    first.reserve(Usage(calls=8)).settle(Usage(calls=8))
    assert second.remaining == {"calls": 2}
    with pytest.raises(BudgetExceededError, match="run: a reservation of 3 calls"):
        second.reserve(Usage(calls=3))
    assert second.spent == Usage()
    assert second.remaining == {"calls": 2}
    second.reserve(Usage(calls=2)).settle(Usage(calls=1))
    assert run.spent.calls == 9
    assert (first.spent.calls, second.spent.calls) == (8, 1)
    assert second.exhausted is None
    assert first.exhausted == "calls"
    assert run.exhausted is None


def test_release_gives_back_and_a_reservation_ends_once() -> None:
    budget = Budget(calls=1)
    held = budget.reserve(Usage(calls=1))
    held.release()
    assert budget.remaining == {"calls": 1}
    with pytest.raises(BudgetError, match="already settled or released"):
        held.settle(Usage(calls=1))
    assert budget.spent.calls == 0


def test_leaving_the_block_releases_unless_settled() -> None:
    budget = Budget(calls=2)
    with pytest.raises(ZeroDivisionError), budget.reserve(Usage(calls=2)):
        raise ZeroDivisionError
    assert budget.remaining == {"calls": 2}
    with budget.reserve(Usage(calls=2)) as held:
        held.settle(Usage(calls=1))
    assert budget.remaining == {"calls": 1}


def test_a_call_that_used_more_than_it_reserved_is_recorded_as_it_was() -> None:
    budget = Budget(usd=1.0, tokens=10)
    budget.reserve(Usage(usd=0.5, output_tokens=10)).settle(Usage(usd=1.25, output_tokens=4))
    assert budget.spent.usd == 1.25
    assert budget.overshoot == {"usd": 0.25}
    assert budget.overruns == 1
    assert budget.remaining == {"usd": 0.0, "tokens": 6}
    budget.charge(Usage(output_tokens=7))
    assert budget.overshoot == {"usd": 0.25, "tokens": 1}
    assert budget.overruns == 1  # a charge was never a reservation


def test_seconds_are_wall_clock_from_the_first_reservation() -> None:
    clock = Clock()
    budget = Budget(seconds=10, clock=clock)
    clock.now += 50  # not started: preparing data is free
    inner = budget.child("inner")
    inner.reserve(Usage(calls=1)).settle(Usage(calls=1, seconds=400.0))
    assert budget.remaining == {"seconds": 10.0}
    assert budget.spent.seconds == 400.0  # the calls' own seconds are added up but are no ceiling
    clock.now += 9.5
    inner.reserve(Usage()).release()
    clock.now += 0.5
    with pytest.raises(BudgetExceededError, match="the limit of 10 s has passed") as refused:
        inner.reserve(Usage(calls=1))
    assert refused.value.limit == "seconds"
    assert inner.exhausted == "seconds"


def test_state_survives_json_and_limits_may_grow() -> None:
    clock = Clock()
    budget = Budget(usd=1.0, seconds=60, clock=clock)
    budget.reserve(Usage(usd=0.1, calls=1)).settle(Usage(usd=0.1, calls=1, input_tokens=3))
    clock.now += 20
    in_flight = budget.reserve(Usage(usd=0.5))
    state = json.loads(json.dumps(budget.state()))
    in_flight.release()
    later = Budget(usd=2.0, seconds=60, clock=Clock())
    later.restore(state)
    assert later.spent == budget.spent
    assert later.remaining == {"usd": 1.9, "seconds": 40.0}
    with pytest.raises(BudgetError, match="needs a fresh budget, this one has been used; make a new one"):
        later.restore(state)
    with pytest.raises(BudgetError, match=r"made by Budget\.state"):
        Budget().restore({"spent": 3})


@pytest.mark.parametrize(
    "limits",
    [{"usd": -1}, {"usd": float("nan")}, {"tokens": 1.5}, {"calls": True}, {"seconds": "10"}, {"usd": float("inf")}],
)
def test_malformed_limits_are_refused(limits: dict[str, object]) -> None:
    with pytest.raises(BudgetError, match=next(iter(limits))):
        Budget(**limits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "usage", [Usage(usd=float("nan")), Usage(usd=-0.1), Usage(calls=-1), Usage(seconds=float("inf"))]
)
def test_malformed_usage_is_refused_and_counts_nothing(usage: Usage) -> None:
    budget = Budget(usd=1, calls=3)
    with pytest.raises(BudgetError):
        budget.reserve(usage)
    held = budget.reserve(Usage(calls=1))
    with pytest.raises(BudgetError):
        held.settle(usage)
    held.release()  # the bad settlement did not end it
    assert budget.remaining == {"usd": 1.0, "calls": 3}


@pytest.mark.parametrize("kind", ["usd", "tokens", "calls", "evaluations"])
async def test_no_overshoot_at_concurrency_64_with_variable_costs(kind: str) -> None:
    random_costs = random.Random(7)
    budget = Budget(**{kind: 300})

    def usage(amount: int) -> Usage:
        name = {"tokens": "output_tokens"}.get(kind, kind)
        return Usage(**{name: amount})

    refusals = 0

    async def caller() -> None:
        nonlocal refusals
        for _ in range(20):
            worst = random_costs.randint(1, 9)
            try:
                held = budget.reserve(usage(worst))
            except BudgetExceededError:
                refusals += 1
                continue
            await asyncio.sleep(0)
            held.settle(usage(random_costs.randint(1, worst)))
            assert budget.overshoot == {}

    await asyncio.gather(*(caller() for _ in range(64)))
    spent = getattr(budget.spent, {"tokens": "total_tokens"}.get(kind, kind))
    assert refusals > 0
    assert 290 < spent <= 300
    assert budget.remaining == {kind: 300 - spent}


def test_no_overshoot_from_threads() -> None:
    budget = Budget(calls=500, usd=1.0)
    inner = [budget.child(f"inner {i}", calls=100) for i in range(8)]
    taken = [0] * 8
    start = threading.Barrier(8)

    def work(index: int) -> None:
        start.wait()
        for _ in range(200):
            try:
                held = inner[index].reserve(Usage(calls=1, usd=0.001))
            except BudgetExceededError:
                continue
            held.settle(Usage(calls=1, usd=0.001))
            taken[index] += 1

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 500
    assert max(taken) <= 100
    assert budget.spent == Usage(calls=500, usd=0.5)
    assert budget.overshoot == {}


async def test_waiting_uses_the_whole_budget_where_refusing_would_leave_some() -> None:
    budget = Budget(calls=100)
    done = 0

    async def caller() -> None:
        nonlocal done
        try:
            held = await budget.reserve_when_free(Usage(calls=10))  # the worst case is ten attempts, one is enough
        except BudgetExceededError:
            return
        await asyncio.sleep(0)
        held.settle(Usage(calls=1))
        done += 1

    await asyncio.gather(*(caller() for _ in range(120)))
    assert done == 91  # until fewer than ten are left
    assert budget.spent.calls == 91
    assert budget.exhausted == "calls"


async def test_a_cancelled_waiter_takes_nothing() -> None:
    budget = Budget(calls=1)
    held = await budget.reserve_when_free(Usage(calls=1))
    waiting = asyncio.create_task(budget.reserve_when_free(Usage(calls=1)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    held.release()
    await asyncio.sleep(0)
    assert budget.remaining == {"calls": 1}
    assert budget._lines == {}


async def test_a_waiter_is_woken_from_another_thread() -> None:
    budget = Budget(calls=1)
    held = await budget.reserve_when_free(Usage(calls=1))
    waiting = asyncio.create_task(budget.reserve_when_free(Usage(calls=1)))
    await asyncio.sleep(0)
    await asyncio.to_thread(held.release)
    (await asyncio.wait_for(waiting, 30)).release()


async def _in_line(*waiting: asyncio.Task[BudgetReservation]) -> None:
    """Let the tasks run until they wait."""
    for _ in range(3):
        await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)


async def test_a_waiter_cancelled_after_he_was_served_gives_back_what_he_got() -> None:
    budget = Budget(calls=1)
    held = await budget.reserve_when_free(Usage(calls=1))
    first, second = (asyncio.create_task(budget.reserve_when_free(Usage(calls=1))) for _ in range(2))
    await _in_line(first, second)
    held.release()  # the first one is served, but has not heard of it
    first.cancel()
    (await asyncio.wait_for(second, 30)).settle(Usage(calls=1))
    assert first.cancelled()
    assert budget.spent.calls == 1
    assert budget.remaining == {"calls": 0}


async def test_the_line_is_served_in_order_also_where_somebody_behind_would_fit() -> None:
    budget = Budget(calls=10)
    held = [await budget.reserve_when_free(Usage(calls=5)) for _ in range(2)]
    large = asyncio.create_task(budget.reserve_when_free(Usage(calls=8)))
    await _in_line(large)
    small = asyncio.create_task(budget.reserve_when_free(Usage(calls=1)))
    await _in_line(large, small)
    held[0].release()  # 5 are free: enough for the small one only
    await _in_line(large, small)
    held[1].release()
    (await asyncio.wait_for(large, 30)).release()
    (await asyncio.wait_for(small, 30)).release()


async def test_refused_as_soon_as_waiting_cannot_help() -> None:
    budget = Budget(calls=10)
    brief = await budget.reserve_when_free(Usage(calls=10))
    large = asyncio.create_task(budget.reserve_when_free(Usage(calls=9)))
    small = asyncio.create_task(budget.reserve_when_free(Usage(calls=2)))
    await _in_line(large, small)
    brief.settle(Usage(calls=5))
    with pytest.raises(BudgetExceededError):
        await large
    (await small).settle(Usage(calls=2))
    assert budget.spent.calls == 7
    assert budget.exhausted is None


async def test_nobody_waits_for_a_reservation_that_may_wait_for_him() -> None:
    budget = Budget(calls=2)
    with budget.reserve(Usage(calls=1)):  # held around the call
        (await asyncio.wait_for(budget.reserve_when_free(Usage(calls=1)), 30)).settle(Usage(calls=1))
        with pytest.raises(BudgetExceededError, match="in flight 1 calls"):
            await asyncio.wait_for(budget.reserve_when_free(Usage(calls=1)), 30)
    long = await budget.reserve_when_free(Usage(calls=1), brief=False)
    with pytest.raises(BudgetExceededError):
        await asyncio.wait_for(budget.reserve_when_free(Usage(calls=1)), 30)
    long.release()


async def test_a_line_at_one_child_does_not_stop_another() -> None:
    parent = Budget(calls=100)
    narrow, wide = parent.child("narrow", calls=1), parent.child("wide", calls=50)
    held = await narrow.reserve_when_free(Usage(calls=1))
    waiting = asyncio.create_task(narrow.reserve_when_free(Usage(calls=1)))
    await _in_line(waiting)
    (await asyncio.wait_for(wide.reserve_when_free(Usage(calls=1)), 30)).settle(Usage(calls=1))
    held.release()
    (await asyncio.wait_for(waiting, 30)).release()
    assert parent._lines == {}


@pytest.mark.parametrize("kind", ["usd", "tokens", "calls"])
async def test_waiting_at_concurrency_64_with_variable_costs_overshoots_nothing(kind: str) -> None:
    """Half of the callers ask a child budget. Everybody who is refused could not have been served by waiting."""
    random_costs = random.Random(11)
    budget = Budget(**{kind: 2000})
    child = budget.child("child", **{kind: 800})
    name = {"tokens": "output_tokens"}.get(kind, kind)
    refused: list[tuple[Budget, int]] = []

    async def caller(own: Budget) -> None:
        for _ in range(20):
            worst = random_costs.randint(1, 90)
            try:
                held = await own.reserve_when_free(Usage(**{name: worst}))
            except BudgetExceededError:
                refused.append((own, worst))
                continue
            for _ in range(random_costs.randint(1, 3)):
                await asyncio.sleep(0)
            held.settle(Usage(**{name: random_costs.randint(1, worst)}))
            assert budget.overshoot == child.overshoot == {}

    await asyncio.gather(*(caller(child if i % 2 else budget) for i in range(64)))
    spent = {own: getattr(own.spent, {"tokens": "total_tokens"}.get(kind, kind)) for own in (budget, child)}
    assert refused
    for own, worst in refused:
        assert spent[budget] + worst > 2000 or (own is child and spent[child] + worst > 800)
    assert 1990 < spent[budget] <= 2000
    assert spent[child] <= 800
    assert budget._lines == {}
    assert budget.remaining == {kind: 2000 - spent[budget]}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 60), st.sampled_from(["settle", "release", "hold"])), max_size=40
    )
)
def test_the_books_always_balance(steps: list[tuple[int, int, str]]) -> None:
    budget = Budget(tokens=200)
    spent = held_back = 0
    for worst, actual, end in steps:
        free = max(0, 200 - spent - held_back)
        assert budget.remaining["tokens"] == free
        if worst and worst > free:
            with pytest.raises(BudgetExceededError):
                budget.reserve(Usage(output_tokens=worst))
            continue
        held = budget.reserve(Usage(output_tokens=worst))
        if end == "settle":
            held.settle(Usage(output_tokens=actual))
            spent += actual
        elif end == "release":
            held.release()
        else:
            held_back += worst
    assert budget.spent.total_tokens == spent
    assert budget.overshoot == ({"tokens": spent - 200} if spent > 200 else {})


def test_it_is_what_a_paid_call_needs() -> None:
    budget: BudgetLike = Budget()  # mypy checks the protocol; without limits everything fits
    budget.reserve(Usage(usd=1e6, calls=10**9)).settle(Usage(usd=1e6))
