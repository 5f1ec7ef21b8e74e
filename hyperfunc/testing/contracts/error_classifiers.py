"""What every error classifier must do, as tests: override the fixture ``classifier_case``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

__all__ = ["ClassifierCase", "ErrorClassifierContract"]


@dataclass(frozen=True)
class ClassifierCase:
    """A classifier and what it is for.

    Attributes:
        classifier: the object that is registered.
        known: an error that ``classify_custom`` answers, or that ``post_classify`` edits the answer for.
        information: what the built-in rules would say (an ``ErrorInfo``), for ``post_classify``.
    """

    classifier: Any
    known: BaseException
    information: Any


class _UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("this error cannot be printed")


def _strange_errors() -> list[BaseException]:
    chained = ValueError("outer")
    chained.__cause__ = chained  # a circle, as careless re-raising makes them
    return [
        Exception(),
        Exception(None, 3, object()),
        _UnprintableError(),
        chained,
        ExceptionGroup("several", [ValueError("a"), OSError(5, "b")]),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad byte"),
        TimeoutError(),
    ]


class ErrorClassifierContract:
    """Tests of one classifier: ``classify_custom(error)`` and/or ``post_classify(error, info)``."""

    @pytest.fixture
    def classifier_case(self) -> ClassifierCase:
        """The classifier with an error that it knows. Override this."""
        raise NotImplementedError("override the fixture classifier_case with a ClassifierCase")

    def test_it_has_one_of_the_two_methods(self, classifier_case: ClassifierCase) -> None:
        classifier = classifier_case.classifier
        assert any(callable(getattr(classifier, name, None)) for name in ("classify_custom", "post_classify"))

    def test_it_has_something_to_say_about_what_it_knows(self, classifier_case: ClassifierCase) -> None:
        answers = [
            self._classify(classifier_case, classifier_case.known),
            self._edit(classifier_case, classifier_case.known),
        ]
        assert any(answer is not None and answer != classifier_case.information for answer in answers)

    def test_answers_are_of_the_built_in_kind(self, classifier_case: ClassifierCase) -> None:
        kind = type(classifier_case.information)
        for error in (classifier_case.known, *_strange_errors()):
            answer = self._classify(classifier_case, error)
            assert answer is None or isinstance(answer, kind)
            edited = self._edit(classifier_case, error)
            assert edited is None or isinstance(edited, kind)

    def test_it_passes_on_what_it_does_not_know(self, classifier_case: ClassifierCase) -> None:
        class UnheardOfError(Exception):
            pass

        assert self._classify(classifier_case, UnheardOfError("never seen before")) is None

    def test_no_error_is_too_strange(self, classifier_case: ClassifierCase) -> None:
        for error in _strange_errors():
            self._classify(classifier_case, error)
            self._edit(classifier_case, error)

    def test_the_same_error_has_the_same_meaning(self, classifier_case: ClassifierCase) -> None:
        known = classifier_case.known
        assert self._classify(classifier_case, known) == self._classify(classifier_case, known)
        assert self._edit(classifier_case, known) == self._edit(classifier_case, known)

    def _classify(self, case: ClassifierCase, error: BaseException) -> Any:
        method = getattr(case.classifier, "classify_custom", None)
        return None if method is None else method(error)

    def _edit(self, case: ClassifierCase, error: BaseException) -> Any:
        """``post_classify``'s answer, which may not be ``None``; ``None`` where there is no such method."""
        method = getattr(case.classifier, "post_classify", None)
        if method is None:
            return None
        answer = method(error, case.information)
        assert answer is not None, "post_classify must return the information, edited or not"
        return answer
