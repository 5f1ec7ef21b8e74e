"""The command line: ``info`` on real files, ``serve`` as a real process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import typer
from typer.testing import CliRunner

from hyperfunc_local.loading import save_model
from hyperfunc_serve import cli
from hyperfunc_serve.demo_model import demo_model

APP = typer.Typer()
APP.command("serve")(cli.serve)
APP.command("info")(cli.info)
SERVE = "import typer; from hyperfunc_serve.cli import serve; typer.run(serve)"


def test_info_describes_a_model(tmp_path: Path) -> None:
    save_model(demo_model(hidden=32), tmp_path / "tiny")
    result = CliRunner().invoke(APP, ["info", str(tmp_path / "tiny"), "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    assert (facts["name"], facts["family"], facts["layers"], facts["vocabulary"]) == ("tiny", "llama", 2, 261)
    assert facts["parameters"] == demo_model(hidden=32).parameter_count
    assert facts["decoding"]["top_p"] == {"value": 0.9, "from": "default"}
    plain = CliRunner().invoke(APP, ["info", str(tmp_path / "tiny")])
    assert "vocabulary  261" in plain.output
    assert "chat_template  True" in plain.output


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["info", "/no/such/model"], "no such model", 1),
        (["serve"], "--demo", 2),
        (["serve", "/no/such/model"], "no such file", 2),
        (["serve", "--demo", "--dtype", "int3"], "int3", 2),
        (["serve", "--demo", "--slots", "0"], "slots", 1),
        (["serve", "--demo", "--model-bytes", "0"], "model_bytes", 1),
        (["serve", "a=.", "a=."], "two models", 2),
    ],
)
def test_mistakes_are_explained(arguments: list[str], message: str, code: int) -> None:
    result = CliRunner().invoke(APP, arguments)
    assert result.exit_code == code
    assert message in result.output.replace("\n", " ")


@pytest.mark.slow
def test_serve_runs_answers_and_stops(tmp_path: Path) -> None:
    """A saved model and the demo, one process, SIGTERM at the end."""
    save_model(demo_model(hidden=32, seed=3), tmp_path / "mine")
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path / "mine"), "--demo", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    try:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", line):
                break
        else:
            pytest.fail("".join(lines))
        url = found[1]
        models = httpx.get(f"{url}/v1/models", timeout=30).json()["data"]
        assert [m["id"] for m in models] == ["mine", "demo"]
        answers = [
            httpx.post(f"{url}/generate", json={"prompt": "a", "model": name, "max_tokens": 5}, timeout=30).json()
            for name in ("mine", "demo")
        ]
        assert answers[0]["token_ids"] != answers[1]["token_ids"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
