"""The ES fine-tuning demo: its task is checked, and evolution runs end to end without touching the weights it starts
from."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

PLACE = Path(__file__).parents[2] / "demos" / "es_finetune"


@pytest.fixture(scope="module")
def demo() -> Iterator[dict[str, ModuleType]]:
    names = ("countdown", "pretrain", "evolve")
    sys.path.insert(0, str(PLACE))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(PLACE))
        for name in names:
            sys.modules.pop(name, None)


def test_rewards_are_arithmetic(demo: dict[str, ModuleType]) -> None:
    countdown = demo["countdown"]
    puzzle = countdown.Puzzle((3, 5, 8), 23)
    for answer, expected in (
        ("3*5+8", 1.0),
        ("8+5*3", 1.0),
        ("8+3*5", 1.0),
        ("3+5+8", 0.1),
        ("3*5*8", 0.1),
        ("3*5+9", 0.0),
        ("3*5", 0.0),
        ("__import__('os')", 0.0),
        ("", 0.0),
    ):
        assert countdown.reward(puzzle, answer) == expected, answer
    for given, answer in countdown.demonstrations(300, 0):
        assert countdown.reward(given, answer) == 1.0


def test_validation_puzzles_are_never_trained_on(demo: dict[str, ModuleType]) -> None:
    countdown = demo["countdown"]
    training = set(countdown.puzzles(4000, 1))
    assert not training & set(countdown.puzzles(1000, 2, held_out=True))


def test_evolution_changes_its_own_copy_only_and_repeats(demo: dict[str, ModuleType]) -> None:
    model = demo["pretrain"].pretrain(demo["pretrain"].new_model(0, hidden=16, layers=1), 0, steps=3, batch=16)
    before = {n: w.clone() for n, w in model.weights.items()}
    held_out = demo["countdown"].puzzles(8, 3, held_out=True)
    runs = [
        demo["evolve"].evolve(model, 0, generations=2, population=4, batch=4, validation=held_out, every=1)
        for _ in range(2)
    ]
    assert all(torch.equal(model.weights[n], w) for n, w in before.items())
    assert [g for g, _ in runs[0].curve] == [0, 1, 2]
    assert len(runs[0].fitness) == 2
    assert all(torch.equal(runs[0].model.weights[n], runs[1].model.weights[n]) for n in before)
