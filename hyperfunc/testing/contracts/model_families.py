"""What every family of local models must do, as tests: override the fixture ``family_case``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfunc.testing.contracts._values import copy_of, same

__all__ = ["ModelFamilyCase", "ModelFamilyContract"]


@dataclass(frozen=True)
class ModelFamilyCase:
    """A family and the smallest model of it.

    Attributes:
        build: what is registered: ``(config) -> model``.
        config: what a model's file says of a tiny model of the family (it is built several times).
        vocabulary_size: how many tokens it knows.
        logits: ``(model, ids [B, T]) -> logits [B, T, vocabulary_size]``; by default the model is called.
    """

    build: Callable[[Any], Any]
    config: Any
    vocabulary_size: int
    logits: Callable[[Any, Tensor], Tensor] = lambda model, ids: model(ids)


class ModelFamilyContract:
    """Tests of one family."""

    @pytest.fixture
    def family_case(self) -> ModelFamilyCase:
        """The family with a tiny configuration. Override this."""
        raise NotImplementedError("override the fixture family_case with a ModelFamilyCase")

    def _ids(self, case: ModelFamilyCase) -> Tensor:
        return torch.arange(10).reshape(2, 5) % case.vocabulary_size

    def _logits(self, case: ModelFamilyCase, model: Any, ids: Tensor) -> Tensor:
        with torch.no_grad():
            return case.logits(model, ids)

    def test_what_is_built_is_a_new_model_of_its_own(self, family_case: ModelFamilyCase) -> None:
        config = copy_of(family_case.config)
        one, other = family_case.build(family_case.config), family_case.build(family_case.config)
        assert same(config, family_case.config), "building changed the configuration"
        assert one is not other
        shapes = [_shapes(model) for model in (one, other)]
        assert shapes[0], "the model has no parameters"
        assert shapes[0] == shapes[1]
        if isinstance(one, torch.nn.Module):
            mine = {w.data_ptr() for w in one.parameters()}
            assert mine.isdisjoint(w.data_ptr() for w in other.parameters()), "two models share their weights"

    def test_logits_have_one_row_per_token(self, family_case: ModelFamilyCase) -> None:
        logits = self._logits(family_case, family_case.build(family_case.config), self._ids(family_case))
        assert logits.shape == (2, 5, family_case.vocabulary_size)
        assert logits.is_floating_point()
        assert bool(torch.isfinite(logits).all())

    def test_later_tokens_do_not_change_earlier_logits(self, family_case: ModelFamilyCase) -> None:
        model, ids = family_case.build(family_case.config), self._ids(family_case)
        changed = ids.clone()
        changed[:, -1] = (changed[:, -1] + 1) % family_case.vocabulary_size
        before, after = (self._logits(family_case, model, tokens) for tokens in (ids, changed))
        torch.testing.assert_close(before[:, :-1], after[:, :-1])

    def test_prompts_do_not_change_each_other(self, family_case: ModelFamilyCase) -> None:
        model, ids = family_case.build(family_case.config), self._ids(family_case)
        together = self._logits(family_case, model, ids)
        alone = torch.cat([self._logits(family_case, model, row.unsqueeze(0)) for row in ids])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)

    def test_the_same_question_has_the_same_answer(self, family_case: ModelFamilyCase) -> None:
        model, ids = family_case.build(family_case.config), self._ids(family_case)
        assert torch.equal(self._logits(family_case, model, ids), self._logits(family_case, model, ids))

    def test_tokens_are_left_alone(self, family_case: ModelFamilyCase) -> None:
        ids = self._ids(family_case)
        before = ids.clone()
        self._logits(family_case, family_case.build(family_case.config), ids)
        assert torch.equal(ids, before)


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights, of a model that says them or of a module that has them."""
    if isinstance(model, torch.nn.Module):
        return {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    shapes = getattr(model, "shapes", None)
    assert callable(shapes), f"expected a model, with shapes() or as a torch Module; got {type(model).__name__}"
    return {name: tuple(shape) for name, shape in shapes().items()}
