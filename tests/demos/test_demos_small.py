"""The small demos learn what they say they learn, from random weights. Short versions where the full one takes long."""

from __future__ import annotations

import pytest
import torch

from demos.affine_composition import __main__ as affine_composition
from demos.affine_composition.program import Composition
from demos.shape_classifier.__main__ import train as train_shapes
from demos.shape_classifier.images import NAMES, SIZE, draw_examples
from demos.shape_classifier.pipeline import ShapeClassifier
from demos.xor import __main__ as xor
from demos.xor.program import EXAMPLES, Xor
from hyperfunc import MSE, CrossEntropy


@pytest.mark.parametrize("seed", [0, 1])
async def test_xor_is_solved_from_random_weights(seed: int) -> None:
    system = Xor(seed=seed)
    result = await xor.train(system, seed)
    assert result.initial_fitness < -0.2
    assert result.best_fitness > -0.01
    answers = [float(await system.run(**example.inputs)) > 0.5 for example in EXAMPLES]
    assert answers == [False, True, True, False]
    assert result.execution == "lifted"


async def test_the_truth_table_names_every_pair() -> None:
    assert [part.split(" -> ")[0] for part in (await xor.truth_table(Xor())).split(", ")] == ["00", "01", "10", "11"]


async def test_two_affine_maps_learn_to_do_one_thing_together() -> None:
    system = Composition(seed=0)
    before = await system.evaluate(affine_composition.TEST, MSE())
    result = await affine_composition.train(system)
    after = await system.evaluate(affine_composition.TEST, MSE())
    assert before < -0.5
    assert result.best_fitness > -0.01
    assert after > -0.01, "right on its 16 points only"
    assert set(system.theta) == {"first.affine.hp", "second.affine.hp"}
    assert not torch.equal(*system.theta.tensors.values())


async def test_the_shape_classifier_improves_in_a_few_generations() -> None:
    result = await train_shapes(ShapeClassifier(), steps=20)
    assert result.execution == "lifted", result.reason
    assert result.best_fitness > result.initial_fitness + 0.5, "it has not even learned the colours"


def test_images_are_drawn_the_same_for_the_same_seed_and_every_class_as_often() -> None:
    first, again, other = draw_examples(18, seed=0), draw_examples(18, seed=0), draw_examples(18, seed=1)
    assert first == again
    assert first != other
    assert sorted(e.expected for e in first) == sorted([*range(len(NAMES)), *range(len(NAMES))])
    assert {tuple(e.inputs["image"].shape) for e in first} == {(3, SIZE, SIZE)}


async def test_the_combined_answer_is_a_distribution_over_colours_and_shapes() -> None:
    example = draw_examples(1, seed=5)[0]
    answer = await ShapeClassifier().run(**example.inputs)
    assert answer.shape == (len(NAMES),)
    assert float(answer.exp().sum()) == pytest.approx(1.0, abs=1e-5)
    assert CrossEntropy().score(answer, example.expected).score == pytest.approx(
        float(answer[example.expected]), abs=1e-5
    )
