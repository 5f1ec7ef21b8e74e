"""What is this package's own: names, figures and words."""

from __future__ import annotations

import pytest
from hyperfunc_wordplay import plugin
from hyperfunc_wordplay.edit_similarity import EditSimilarity
from hyperfunc_wordplay.hill_climb import HillClimb

from hyperfunc.errors import ConfigurationError
from hyperfunc.plugins import load_plugins


def test_everything_is_registered_and_can_be_imported() -> None:
    plugins = load_plugins([("wordplay", plugin)], entry_points=False, strict=True)
    assert plugins.provides("wordplay") == {
        "agent_types": ["second-thought"],
        "exporters": ["csv"],
        "memory_backends": ["ram"],
        "scorers": ["edit-similarity"],
        "strategies": ["hill-climb"],
    }
    for kind, names in plugins.provides("wordplay").items():
        for name in names:
            assert callable(plugins.get(kind, name))


@pytest.mark.parametrize(
    ("output", "expected", "score"),
    [("kitten", "sitting", 1 - 3 / 7), ("", "", 1.0), ("", "abc", 0.0), ("Abc", "aBC", 1.0), (12, 13, 0.5)],
)
def test_edit_similarity(output: object, expected: object, score: float) -> None:
    assert EditSimilarity().score(output, expected).score == pytest.approx(score)


def test_feedback_says_what_differs() -> None:
    assert EditSimilarity().score("Rom", "Rome").feedback == "expected 'Rome', got 'Rom': 1 edits apart"


def test_sigma_must_be_positive() -> None:
    with pytest.raises(ConfigurationError, match="sigma"):
        HillClimb(sigma=0.0)
