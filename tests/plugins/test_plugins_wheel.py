"""A stranger's package from wheels only: built, installed beside hyperfunc's wheel, and used outside the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demos" / "third_party_plugin"

PROGRAM = """
import asyncio, json, sys
from pathlib import Path

import hyperfunc, hyperfunc_wordplay
from hyperfunc import Example, HyperSystem, LoRAWeight, hyperfunction
from hyperfunc.memory_types import MemoryEntry, ReadFilter, Scope
from hyperfunc.observability import ObservabilityHub
from hyperfunc.plugins import current_plugins

import torch


@hyperfunction(name="scale", hp_type=LoRAWeight.create(1, 1), optimize_hparams=True)
async def scale(x, hp):
    return x * hp.weight.reshape(())


class Editor(HyperSystem):
    agent_type = "second-thought"

    async def run(self, x, draft=None):
        y = await scale(torch.as_tensor(x))
        return y if draft is None else f"{float(y + draft):.2f}"


editor = Editor(system_optimizer="hill-climb")
plugins = current_plugins()
found = {"provides": plugins.provides("wordplay"), "homes": [hyperfunc.__file__, hyperfunc_wordplay.__file__]}
found["info"] = [plugins.infos["wordplay"].package, plugins.infos["wordplay"].version, plugins.infos["wordplay"].state]

examples = [Example({"x": 1.0}, "3.00"), Example({"x": 2.0}, "6.00")]
editor.register_hyperfunction(scale)


async def main():
    found["before"] = await editor.evaluate(examples, "edit-similarity")
    with ObservabilityHub(editor).trace("session", exporters=["csv"]):
        await editor.run(1.0)
    result = await editor.optimize(examples, "edit-similarity", steps=8, seed=0)
    found["after"] = await editor.evaluate(examples, "edit-similarity")
    found["finish_reason"] = result.finish_reason


asyncio.run(main())
memory = current_plugins().get("memory_backends", "ram")("ram://notes")
memory.add([MemoryEntry(content="the zebra likes tea", user_id="u")], 0.0)
found["memory"] = [m.entry.content for m in memory.search(Scope("u"), ["tea"], ReadFilter(), 5)]
found["csv"] = Path("observations.csv").read_text().splitlines()
print(json.dumps(found))
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHONPATH", "HYPERFUNC_"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**variables, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def clean_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with both wheels; only what they depend on is borrowed from the running one."""
    pytest.importorskip("build", reason="building wheels needs the package build")
    pytest.importorskip("hatchling", reason="building wheels needs hatchling")
    folder = tmp_path_factory.mktemp("wheels")
    demo = shutil.copytree(DEMO, folder / "demo", ignore=shutil.ignore_patterns("__pycache__", "dist"))
    for source in (ROOT, demo):
        build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", source)
        run(*build, cwd=folder)
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # A line of a .pth file comes after this environment's own packages, so hyperfunc is the wheel's.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index")
    run(*install, "--ignore-installed", *sorted((folder / "dist").glob("*.whl")), cwd=folder)
    return python


@pytest.mark.slow
def test_all_five_are_used_by_name(clean_python: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    found = json.loads(run(clean_python, "-I", "program.py", cwd=tmp_path, OMP_NUM_THREADS="1").splitlines()[-1])
    assert all(Path(home).is_relative_to(clean_python.parents[1]) for home in found["homes"])
    assert found["info"] == ["hyperfunc-wordplay", "0.1.0", "loaded"]
    assert found["provides"] == {
        "agent_types": ["second-thought"],
        "exporters": ["csv"],
        "memory_backends": ["ram"],
        "scorers": ["edit-similarity"],
        "strategies": ["hill-climb"],
    }
    assert found["finish_reason"] == "completed"
    assert found["after"] > found["before"]
    assert found["memory"] == ["the zebra likes tea"]
    assert found["csv"][0].startswith("timestamp,kind,fn_name")
    assert sum(",call,scale," in line for line in found["csv"]) == 1


@pytest.mark.slow
def test_the_command_line_of_the_wheel_lists_it_and_finds_no_fault(clean_python: Path, tmp_path: Path) -> None:
    listed = json.loads(run(clean_python, "-I", "-m", "hyperfunc", "plugins", "--json", cwd=tmp_path))
    assert [(row["name"], row["state"]) for row in listed if row["package"] == "hyperfunc-wordplay"] == [
        ("wordplay", "loaded")
    ]
    assert not any(row["imports_torch"] for row in listed)
    assert "wordplay" not in run(clean_python, "-I", "-m", "hyperfunc", "plugins", "doctor", cwd=tmp_path)
