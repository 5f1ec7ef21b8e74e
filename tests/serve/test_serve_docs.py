"""What docs/local-models.md and docs/serving.md show, run as it stands there: Python in this process, JavaScript in
node against a real server."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hyperfunc_local.sampling.parameters import DecodingParameters
from hyperfunc_serve.demo_model import demo_model
from hyperfunc_serve.running import server_in_thread

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> list[tuple[int, str]]:
    """Line and code of each block of a language."""
    text = (DOCS / page).read_text("utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
    return [(text[: match.start()].count("\n") + 2, match[1]) for match in found]


BLOCKS = [(page, *block) for page in ("local-models.md", "serving.md") for block in blocks(page, "python")]


@pytest.mark.parametrize(("page", "line", "code"), BLOCKS, ids=[f"{page}:{line}" for page, line, _ in BLOCKS])
def test_a_python_block_runs(
    page: str, line: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    compiled = compile("\n" * (line - 1) + code, str(DOCS / page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(compiled, {"__name__": "__main__"})
    if inspect.iscoroutine(result):
        asyncio.run(result)
    printed = capsys.readouterr().out
    assert printed.strip()
    if improved := re.fullmatch(r"(\S+) -> (\S+)\n", printed):
        assert float(improved[2]) > float(improved[1])


def test_the_javascript_client_streams() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on this machine")
    ((_, code),) = blocks("serving.md", "javascript")
    expected = demo_model().generate(["hello"], DecodingParameters(temperature=0, max_tokens=64))[0][0].text
    with server_in_thread({"demo": demo_model}) as (url, _):
        program = code.replace("http://127.0.0.1:8000", url)
        assert program != code
        done = subprocess.run(
            [node, "--input-type=module", "-e", program], capture_output=True, text=True, timeout=60, check=True
        )
    assert done.stdout == expected
