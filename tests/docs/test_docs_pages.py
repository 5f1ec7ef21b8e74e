"""README and docs tell the truth: every Python block runs, every link, make target and command exists."""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hyperfunc.plugins import Plugins, load_plugins, use_plugins

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.+?) -->\s*$")
FRAGMENTS = {  # pages whose blocks go on from what the reader has; they are compiled, and what they import must exist
    "docs/llm.md": "talks to a provider",
    "docs/local-models.md": "needs a model's files",
    "docs/observability/README.md": "goes on from a system of the reader's, and an endpoint",
    "docs/serving.md": "needs a running server",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    code: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        before = text[: match.start()]
        marked = NOT_RUN.search(before)
        reason = marked["reason"] if marked else FRAGMENTS.get(str(page.relative_to(ROOT)))
        yield Block(page, before.count("\n") + 2, match[1], match[2], reason)


PYTHON = [block for page in PAGES for block in blocks(page) if block.language == "python"]


def project() -> dict[str, Any]:
    """What pyproject.toml says of the distribution."""
    declared: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return declared


def shipped_plugins() -> Plugins:
    """The built-ins and every plugin of this repository, whether its entry points are installed or not."""
    points = project()["entry-points"]["hyperfunc"]
    return load_plugins([(name, importlib.import_module(m)) for name, m in points.items()], entry_points=False)


def run(code: str, block: Block) -> None:
    """Run ``code`` in a namespace of its own; ``await`` at top level is fine. Traceback lines are those of the page."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    compiled = compile("\n" * (block.line - 1) + code, str(block.page), "exec", flags, dont_inherit=True)
    with use_plugins(shipped_plugins()):
        result = eval(compiled, {"__name__": "__main__"})
        if inspect.iscoroutine(result):
            asyncio.run(result)


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_block_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # blocks may write files
    if block.not_run is None:
        run(block.code, block)
        return
    tree = compile(block.code, str(block), "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    found = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    imports = [node for node in found if "hyperfunc" in ast.unparse(node)]  # others may need what is not installed
    run("\n".join(ast.unparse(node) for node in imports), block)


def test_nearly_all_blocks_run() -> None:
    ours = [block for block in PYTHON if str(block.page.relative_to(ROOT)) not in FRAGMENTS]
    assert {"README.md", "quickstart.md", "calls.md"} <= {block.page.name for block in ours}
    assert sum(block.not_run is not None for block in ours) <= len(ours) // 10


def test_the_example_of_the_readme_is_short() -> None:
    (example,) = [block for block in PYTHON if block.page == ROOT / "README.md"]
    assert len(example.code.strip().splitlines()) <= 35


def slug(heading: str) -> str:
    """The anchor that a heading gets where Markdown is shown."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def prose(page: Path) -> str:
    """The page without fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        there = found.exists() and found.is_relative_to(ROOT)
        if there and anchor:
            there = anchor in {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose(found), re.M)}
        if not there:
            broken.append(target)
    assert broken == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    linked = {(ROOT / "docs" / t).resolve() for t in re.findall(r"\]\(([^)#\s]+)\)", index)}
    missing = [p for p in (ROOT / "docs").rglob("*.md") if p.name != "index.md" and p.resolve() not in linked]
    assert missing == []


def commands(page: Path) -> list[str]:
    """What a reader may type: commands in backquotes and in blocks without a language (or of a shell)."""
    text = page.read_text("utf-8")
    found = re.findall(r"`((?:make|hyperfunc|python(?: -m)?) [^`\n]+)`", prose(page))
    for language, code in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        if language in ("", "sh", "bash", "shell", "console"):
            found += re.findall(r"^\s*(?:\$ )?((?:make|hyperfunc|python(?: -m)?) [^\n#]+)", code, re.M)
    return [" ".join(c.split()) for c in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    subcommands = set(shipped_plugins().registry("cli_commands").names())
    unknown = []
    for command in commands(page):
        program, *words = command.split()
        if program == "make":
            wrong = [w for w in words if "=" not in w and not w.startswith("-") and w not in targets]
        elif program == "hyperfunc":
            wrong = [w for w in words[:1] if not w.startswith("-") and w not in subcommands]
        elif words[0] == "-m":
            module = ROOT / words[1].replace(".", "/")
            wrong = [] if module.is_dir() or module.with_suffix(".py").is_file() or words[1] == "pytest" else words[:2]
        else:
            wrong = [] if words[0].startswith("-") or (ROOT / words[0]).is_file() else words[:1]
        if wrong:
            unknown.append(command)
    assert unknown == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_extras_exist(page: Path) -> None:
    known = project()["optional-dependencies"]
    named = re.findall(r"(?:hyperfunc|['\"\s]\.)\[([a-z][a-z0-9,-]*)\]", page.read_text("utf-8"))
    assert [extra for extras in named for extra in extras.split(",") if extra not in known] == []


def test_every_make_target_says_what_it_does() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    undescribed = [line for line in re.findall(r"^[a-z]+:.*", makefile, re.M) if "##" not in line]
    assert undescribed == []
