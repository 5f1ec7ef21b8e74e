"""docs/calls.md, statement by statement: each is the docstring of a test in one of the files beside this one."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "calls.md"


def statements_of(page: str) -> list[str]:
    """The list items of the page, on one line each."""
    return [" ".join(item.split()) for item in re.findall(r"^- (.+?)(?=\n- |\n\n|\Z)", page, re.S | re.M)]


def statements_tested() -> Iterator[str]:
    for file in sorted(HERE.glob("test_docs_calls_*.py")):
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
                yield " ".join(inspect.cleandoc(ast.get_docstring(node) or "").split())


def test_the_page_is_tested() -> None:
    stated, tested = statements_of(PAGE.read_text("utf-8")), list(statements_tested())
    assert len(stated) > 30
    assert [s for s in stated if s not in tested] == [], "statements without a test"
    assert [t for t in tested if t not in stated] == [], "tests of what the page does not say"
    assert len(set(tested)) == len(tested)
