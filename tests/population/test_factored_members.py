"""A block's leaves in, one member's parameters out; and blocks gathered by index."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperfunc.errors import ShapeError
from hyperfunc.population.factored import FactoredTensor
from hyperfunc.population.factored_members import (
    as_member,
    gather_members,
    member_leaves,
    member_parameters,
    one_member,
)
from hyperfunc.population.factored_report import collect_materialisations
from hyperfunc.population.members import DenseMembers, FactoredMembers, MemberValues


@pytest.fixture
def block() -> dict[str, MemberValues]:
    g = torch.Generator().manual_seed(0)
    return {
        "bias": DenseMembers(torch.randn(5, 4, generator=g)),
        "weight": FactoredMembers(
            torch.randn(4, 6, generator=g), torch.randn(5, 4, 2, generator=g), torch.randn(5, 6, 2, generator=g), 0.3
        ),
    }


def test_leaves_are_what_differs_by_member_and_never_the_base(block: dict[str, MemberValues]) -> None:
    assert [tuple(leaf.shape) for leaf in member_leaves(block)] == [(5, 4), (5, 4, 2), (5, 6, 2)]


def test_parameters_inside_vmap_are_each_members_own(block: dict[str, MemberValues]) -> None:
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))

    def program(leaves: tuple[Tensor, ...], rows: Tensor) -> Tensor:
        parameters = member_parameters(block, leaves)
        assert isinstance(parameters["weight"], FactoredTensor)
        return F.linear(rows, parameters["weight"], parameters["bias"])

    with collect_materialisations() as report:
        lifted = torch.vmap(program, in_dims=(0, None))(member_leaves(block), x)
    for i in range(5):
        expected = F.linear(x, block["weight"].dense(i), block["bias"].dense(i))
        torch.testing.assert_close(lifted[i], expected)
        alone = one_member(block, i)
        assert isinstance(alone["weight"], FactoredTensor)
        torch.testing.assert_close(F.linear(x, alone["weight"], alone["bias"]), expected)
    assert report.operations == ()


def test_gathered_calls_run_as_one_kernel_with_rows_of_factors_only(block: dict[str, MemberValues]) -> None:
    index = torch.tensor([4, 0, 0, 2, 1, 4, 3])
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(1))
    picked = gather_members(block, index)
    weight = picked["weight"]
    assert isinstance(weight, FactoredMembers)
    assert weight.base is block["weight"].base
    assert weight.left.shape == (7, 4, 2)
    assert weight.right.shape == (7, 6, 2)

    def call(leaves: tuple[Tensor, ...], row: Tensor) -> Tensor:
        parameters = member_parameters(picked, leaves)
        return F.linear(row, parameters["weight"], parameters["bias"])

    out = torch.vmap(call)(member_leaves(picked), x)
    expected = [F.linear(x[k], block["weight"].dense(i), block["bias"].dense(i)) for k, i in enumerate(index.tolist())]
    torch.testing.assert_close(out, torch.stack(expected))


def test_one_parameter_alone(block: dict[str, MemberValues]) -> None:
    weight = block["weight"]
    assert isinstance(weight, FactoredMembers)
    member = as_member(weight, (weight.left[3], weight.right[3]), "head.weight")
    assert isinstance(member, FactoredTensor)
    assert member.factors.label == "head.weight"
    torch.testing.assert_close(member.dense(), weight.dense(3))


def test_blocks_and_leaves_that_do_not_fit_are_refused(block: dict[str, MemberValues]) -> None:
    with pytest.raises(ShapeError, match="bias: 2, weight: 5"):
        member_leaves({**block, "bias": DenseMembers(torch.zeros(2, 4))})
    leaves = member_leaves(block)
    for wrong in (leaves[:-1], (*leaves, leaves[0])):
        with pytest.raises(ShapeError, match="expected the 3 leaves of this block"):
            member_parameters(block, wrong)
