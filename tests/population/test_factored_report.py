"""What is materialised is reported: once in the log, counted in the collector, by its public name."""

from __future__ import annotations

import asyncio
import logging

import pytest
import torch
import torch.nn.functional as F

from hyperfunc.population.factored import FactoredTensor, operation_name
from hyperfunc.population.factored_report import collect_materialisations


def weight(label: str = "head.weight") -> FactoredTensor:
    return FactoredTensor(torch.eye(3), torch.ones(3, 1), torch.ones(3, 1), 0.5, label)


def test_an_unknown_operation_is_counted_by_name_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), collect_materialisations() as report:
        for _ in range(3):
            torch.testing.assert_close(torch.linalg.det(weight()), torch.tensor(2.5))
        F.normalize(weight("body.weight"))
    assert report.operations == ("torch.linalg.det", "torch.nn.functional.normalize")
    assert report.counts == {"torch.linalg.det": 3, "torch.nn.functional.normalize": 1}
    assert report.labels["torch.nn.functional.normalize"] == {"body.weight"}
    assert [record.args[0] for record in caplog.records if record.args] == list(report.operations)


def test_known_operations_report_nothing() -> None:
    with collect_materialisations() as report:
        F.linear(torch.ones(2, 3), weight()) @ weight()
        weight().T.reshape(3, 3)[0]
    assert report.operations == ()


def test_one_weight_used_twice_by_one_call_is_materialised_once() -> None:
    same = weight()
    with collect_materialisations() as report:
        torch.cat([same, same])
    assert report.counts == {"torch.cat": 1}


def test_one_lifted_call_counts_once_for_all_members() -> None:
    lefts = torch.randn(5, 3, 1, generator=torch.Generator().manual_seed(0))
    with collect_materialisations() as report:
        norms = torch.vmap(lambda a: torch.linalg.norm(FactoredTensor(torch.eye(3), a, torch.ones(3, 1), 0.5)))(lefts)
    expected = [torch.linalg.norm(torch.eye(3) + 0.5 * left @ torch.ones(1, 3)) for left in lefts]
    torch.testing.assert_close(norms, torch.stack(expected))
    assert report.counts == {"torch.linalg.norm": 1}


async def test_tasks_started_inside_report_to_the_same_collector_and_others_to_none() -> None:
    async def use() -> None:
        torch.linalg.det(weight())

    outside = asyncio.create_task(use())
    with collect_materialisations() as report:
        await asyncio.gather(use(), use())
    await outside
    assert report.counts == {"torch.linalg.det": 2}
    torch.linalg.det(weight())  # no collector: still right, nothing to report to
    assert report.counts == {"torch.linalg.det": 2}


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.add, "torch.add"),
        (torch.Tensor.add, "torch.Tensor.add"),
        (F.linear, "torch.nn.functional.linear"),
        (torch.Tensor.T.__get__, "torch.Tensor.T"),
        (torch._weight_norm, "torch._weight_norm"),
        (torch.ops.aten.mm.default, "aten.mm.default"),
    ],
)
def test_operations_are_named_as_users_write_them(function: object, name: str) -> None:
    assert operation_name(function) == name
