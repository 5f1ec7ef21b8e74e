"""What every scorer must do, as tests: override the fixture ``scorer_case``."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from hyperfunc.evaluation.results import ScoreResult
from hyperfunc.evaluation.scoring import Scorer, as_tensor_scorer, is_asynchronous, score_all, score_members
from hyperfunc.testing.contracts._values import copy_of, finish, same

__all__ = ["ScorerCase", "ScorerContract"]


@dataclass(frozen=True)
class ScorerCase:
    """A scorer and two questions to it.

    Attributes:
        better, worse: ``(output, expected)``; the first must score higher.
        inputs: the example's inputs, for scorers that read them.
    """

    scorer: Any
    better: tuple[Any, Any]
    worse: tuple[Any, Any]
    inputs: Mapping[str, Any] | None = None


class ScorerContract:
    """Tests of one scorer, synchronous or not."""

    deterministic: ClassVar[bool] = True
    """Set to false for a scorer that may answer the same question differently."""

    @pytest.fixture
    def scorer_case(self) -> ScorerCase:
        """The scorer with a better and a worse output. Override this."""
        raise NotImplementedError("override the fixture scorer_case with a ScorerCase")

    def _score(self, case: ScorerCase, *questions: tuple[Any, Any]) -> list[ScoreResult]:
        outputs, expected = [q[0] for q in questions], [q[1] for q in questions]
        return finish(score_all(case.scorer, outputs, expected, [case.inputs] * len(questions)))

    def test_a_score_is_a_score_result(self, scorer_case: ScorerCase) -> None:
        assert isinstance(scorer_case.scorer, Scorer)
        for result in self._score(scorer_case, scorer_case.better, scorer_case.worse):
            assert isinstance(result, ScoreResult)
            assert result.scored, f"expected a finite score, got {result.score}"
            assert isinstance(result.feedback, str)

    def test_the_better_output_scores_higher(self, scorer_case: ScorerCase) -> None:
        better, worse = self._score(scorer_case, scorer_case.better, scorer_case.worse)
        assert better.score is not None
        assert worse.score is not None
        assert better.score > worse.score

    def test_inputs_are_the_third_argument_and_optional(self, scorer_case: ScorerCase) -> None:
        parameters = list(inspect.signature(scorer_case.scorer.score).parameters.values())
        assert len(parameters) >= 3, "score must take (output, expected, inputs=None)"
        assert parameters[2].name == "inputs"
        assert parameters[2].default is None
        assert all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters[3:])

    def test_it_says_whether_it_is_asynchronous(self, scorer_case: ScorerCase) -> None:
        async def ask() -> bool:
            answer = scorer_case.scorer.score(*scorer_case.better, scorer_case.inputs)
            if inspect.isawaitable(answer):
                await answer
                return True
            return False

        assert finish(ask()) == is_asynchronous(scorer_case.scorer)

    def test_neither_order_nor_company_matters(self, scorer_case: ScorerCase) -> None:
        if not self.deterministic:
            pytest.skip("the scorer is declared as not deterministic")
        better, worse = scorer_case.better, scorer_case.worse
        alone = [self._score(scorer_case, question)[0].score for question in (better, worse)]
        together = [result.score for result in self._score(scorer_case, worse, better, worse)]
        assert together == [alone[1], alone[0], alone[1]]

    def test_examples_may_be_scored_at_once(self, scorer_case: ScorerCase) -> None:
        async def ask() -> list[list[ScoreResult]]:
            output, expected = scorer_case.better
            asked = (score_all(scorer_case.scorer, [output], [expected], [scorer_case.inputs]) for _ in range(8))
            return await asyncio.gather(*asked)

        scores = [results[0].score for results in finish(ask())]
        assert len(scores) == 8
        assert not self.deterministic or len(set(scores)) == 1

    def test_arguments_are_left_alone(self, scorer_case: ScorerCase) -> None:
        before = copy_of((scorer_case.better, scorer_case.worse, scorer_case.inputs))
        self._score(scorer_case, scorer_case.better, scorer_case.worse)
        assert same(before, (scorer_case.better, scorer_case.worse, scorer_case.inputs))

    def test_tensor_scores_equal_single_scores(self, scorer_case: ScorerCase) -> None:
        scorer = as_tensor_scorer(scorer_case.scorer)
        questions = (scorer_case.better, scorer_case.worse)
        if scorer is None or not all(isinstance(value, torch.Tensor) for question in questions for value in question):
            pytest.skip("the scorer, or the case, does without tensors")
        outputs = torch.stack([output for output, _ in questions])
        expected = torch.stack([target for _, target in questions])
        single = self._score(scorer_case, *questions)
        members = torch.stack([outputs, outputs.flip(0)])  # [2 members, 2 examples, ...]
        scores = score_members(scorer, members, expected)
        torch.testing.assert_close(scores[0].double(), torch.tensor([r.score for r in single], dtype=torch.float64))
        swapped = self._score(scorer_case, (questions[1][0], questions[0][1]), (questions[0][0], questions[1][1]))
        torch.testing.assert_close(scores[1].double(), torch.tensor([r.score for r in swapped], dtype=torch.float64))
