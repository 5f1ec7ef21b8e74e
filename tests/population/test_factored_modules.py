"""Whole modules through ``functional_call``, every parameter perturbed, against dense members, lifted and singly."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from hyperfunc.population.factored_members import member_leaves, member_parameters, one_member
from hyperfunc.population.factored_report import collect_materialisations
from hyperfunc.population.members import DenseMembers, FactoredMembers, MemberValues

MEMBERS, EXAMPLES = 3, 2


class Tied(nn.Module):
    """A language-model head that shares its weight with the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embedding(tokens)))


class Unrolled(nn.Module):
    """A recurrent cell over three steps; its first output."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in range(3):
            state = self.cell(x * step, state)
        return state[0] if isinstance(state, tuple) else state


class First(nn.Module):
    """The first of a module's outputs, with its input in every place."""

    def __init__(self, module: nn.Module, inputs: int = 1, change: float = 1.0) -> None:
        super().__init__()
        self.module, self.inputs, self.change = module, inputs, change

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x, *[x * self.change] * (self.inputs - 1))[0]


class Causal(nn.Module):
    """Self-attention in which no position sees a later one."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(len(x), dtype=x.dtype)
        return self.attention(x, x, x, attn_mask=mask, is_causal=True, need_weights=False)[0]


@torch.library.custom_op("hyperfunc_tests::project", mutates_args=())
def project(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.mT


@project.register_vmap
def _(info, in_dims, x, weight):
    x = x.movedim(in_dims[0], 0) if in_dims[0] is not None else x.expand(info.batch_size, *x.shape)
    weight = weight.movedim(in_dims[1], 0) if in_dims[1] is not None else weight
    return x @ weight.mT, 0


class Custom(nn.Module):
    """One weight, used by any function."""

    def __init__(self, use: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*shape))
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(x, self.weight)


def encoder_layer(**options: object) -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, **options)


TOKENS = torch.tensor([[1, 2], [3, 1]])

FACTORED: dict[str, tuple[Callable[[], nn.Module], Tensor | tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)), (8,)),
    "conv net": (lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2)), (1, 1, 5, 5)),
    "circular convolution": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (1, 2, 5, 5)),
    "embedding": (lambda: nn.Embedding(7, 4, padding_idx=0), TOKENS),
    "tied weights": (Tied, TOKENS),
    "self-attention": (lambda: First(nn.MultiheadAttention(8, 2, batch_first=True), 3), (2, 4, 8)),
    "cross-attention": (lambda: First(nn.MultiheadAttention(8, 2), 3, change=0.5), (4, 2, 8)),
    "attention, widths": (lambda: First(nn.MultiheadAttention(8, 2, kdim=8, vdim=8, bias=False), 3, 2.0), (4, 2, 8)),
    "attention, causal": (lambda: Causal(), (4, 2, 8)),
    "transformer layer, eval": (lambda: encoder_layer(batch_first=True).eval(), (2, 4, 8)),
    "transformer layer, train": (lambda: encoder_layer(norm_first=True), (4, 2, 8)),
    "transformer": (lambda: nn.TransformerEncoder(encoder_layer(batch_first=True), 2).eval(), (2, 4, 8)),
    "gru cell": (lambda: Unrolled(nn.GRUCell(8, 4)), (2, 8)),
    "lstm cell": (lambda: Unrolled(nn.LSTMCell(8, 4, bias=False)), (2, 8)),
    "rnn cell": (lambda: Unrolled(nn.RNNCell(8, 4)), (8,)),
    "rnn cell, relu": (lambda: Unrolled(nn.RNNCell(8, 4, nonlinearity="relu")), (2, 8)),
    "einsum": (lambda: Custom(lambda x, w: torch.einsum("bi,oi->bo", x, w), 5, 8), (2, 8)),
    "indexing": (lambda: Custom(lambda x, w: x @ w[1:3].T + w[0, :2] + w[-1, 1], 5, 8), (2, 8)),
}  # fmt: skip

MATERIALISED: dict[str, tuple[Callable[[], nn.Module], Tensor | tuple[int, ...], str]] = {
    "transposed convolution": (lambda: nn.ConvTranspose2d(2, 3, 3), (1, 2, 5, 5), "torch.conv_transpose2d"),
    "embedding bag": (lambda: nn.EmbeddingBag(7, 4), TOKENS, "torch.nn.functional.embedding_bag"),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 4)), (2, 8), "torch._weight_norm"),
    "spectral norm": (
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 4)).eval(),
        (2, 8),
        "torch.Tensor.div",
    ),
    "bilinear": (lambda: Custom(lambda x, w: F.bilinear(x, x, w), 3, 8, 8), (2, 8), "torch.bilinear"),
    "custom operator": (lambda: Custom(project, 5, 8), (2, 8), "hyperfunc_tests.project.default"),
    "normalised": (lambda: Custom(lambda x, w: x @ F.normalize(w).T, 5, 8), (2, 8), "torch.nn.functional.normalize"),
}


def perturbed(module: nn.Module, rank: int = 2) -> dict[str, MemberValues]:
    """Factored members for everything of two or more axes, dense ones for the rest."""
    block: dict[str, MemberValues] = {}
    for name, parameter in module.named_parameters():
        base = parameter.detach()
        if base.ndim >= 2:
            left = torch.randn(MEMBERS, base.shape[0], rank)
            block[name] = FactoredMembers(base, left, torch.randn(MEMBERS, base[0].numel(), rank), 0.3)
        else:
            block[name] = DenseMembers(base + 0.3 * torch.randn(MEMBERS, *base.shape))
    return block


def build(make: Callable[[], nn.Module], inputs: Tensor | tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = make().double()
    if isinstance(inputs, Tensor):
        return module, torch.stack([inputs, inputs.flip(0)])
    return module, torch.randn(EXAMPLES, *inputs, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@contextlib.contextmanager
def doubles():
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(2)
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def compare(module: nn.Module, inputs: Tensor) -> tuple[str, ...]:
    with doubles():
        block = perturbed(module)
    reference = [{name: values.dense(i) for name, values in block.items()} for i in range(MEMBERS)]

    def run(parameters: dict[str, Tensor], example: Tensor) -> Tensor:
        return functional_call(module, parameters, (example,), strict=False)

    def lifted(leaves: tuple[Tensor, ...], example: Tensor) -> Tensor:
        return run(member_parameters(block, leaves), example)

    leaves = member_leaves(block)
    with torch.no_grad(), collect_materialisations() as report:
        expected = torch.stack([torch.stack([run(member, x) for x in inputs]) for member in reference])
        singly = torch.stack([torch.stack([run(one_member(block, i), x) for x in inputs]) for i in range(MEMBERS)])
        torch.testing.assert_close(singly, expected, rtol=1e-10, atol=1e-10)
        over_members = torch.vmap(lifted, (0, None))(leaves, inputs[0])
        torch.testing.assert_close(over_members, expected[:, 0], rtol=1e-10, atol=1e-10)
        nested = torch.vmap(torch.vmap(lifted, (None, 0)), (0, None))(leaves, inputs)
        torch.testing.assert_close(nested, expected, rtol=1e-10, atol=1e-10)
    base = torch.stack([run(dict(module.named_parameters()), x) for x in inputs])
    assert not torch.allclose(expected, base.expand_as(expected), rtol=1e-3)
    return report.operations


@pytest.mark.parametrize("name", FACTORED)
def test_modules_agree_with_dense_members_and_materialise_nothing(name: str) -> None:
    assert compare(*build(*FACTORED[name])) == ()


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("name", MATERIALISED)
def test_modules_with_unknown_operations_agree_with_dense_members_and_say_so(name: str) -> None:
    make, inputs, operation = MATERIALISED[name]
    assert compare(*build(make, inputs)) == (operation,)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_recurrent_layers_run_one_by_one_and_are_refused_under_vmap(kind: type[nn.RNNBase]) -> None:
    module, inputs = build(lambda: First(kind(8, 4)), (3, 2, 8))
    with doubles():
        block = perturbed(module)
    for i in range(MEMBERS):
        dense = {name: values.dense(i) for name, values in block.items()}
        got = functional_call(module, one_member(block, i), (inputs[0],))
        torch.testing.assert_close(got, functional_call(module, dense, (inputs[0],)))
    with pytest.raises(RuntimeError, match="Batching rule not implemented"):
        torch.vmap(lambda leaves: functional_call(module, member_parameters(block, leaves), (inputs[0],)))(
            member_leaves(block)
        )


def test_a_module_that_edits_its_weight_is_refused() -> None:
    module, inputs = build(lambda: Custom(lambda x, w: F.linear(x, w.clamp_(-1, 1)), 5, 8), (2, 8))
    with doubles():
        block = perturbed(module)
    with pytest.raises(Exception, match=r"torch\.Tensor\.clamp_ would write .*\(weight\)"):
        functional_call(module, one_member(block, 0), (inputs[0],))
