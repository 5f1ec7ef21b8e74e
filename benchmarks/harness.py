"""Contenders in processes (and virtual environments) of their own, measured in turn.

A contender is a script that prints ``ready``, then for every line ``go`` on its input does one unit of work and prints
the seconds that it took. Contenders take turns, so that a machine whose speed drifts treats all alike; none runs while
another is measured.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PEERS = Path(os.environ.get("HYPERFUNC_BENCH_PEERS", ROOT / ".venv-peers"))
OLD = Path(os.environ.get("HYPERFUNC_BENCH_OLD", ROOT / ".venv-old"))

PEER_PACKAGES = ["torch==2.13.0", "evotorch==0.6.1", "jax==0.10.2", "jaxlib==0.10.2", "evosax", "optax"]
OLD_PACKAGES = ["torch==2.13.0", "hyperfunc==0.3.0"]


def python_of(environment: Path, packages: Sequence[str]) -> str:
    """The interpreter of a peer's environment, which is made at its first use."""
    python = environment / "bin" / "python"
    if not python.exists():
        print(f"making {environment} with {', '.join(packages)}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        for package in packages:  # torch first and alone, so that nothing else chooses its version
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", package], check=True)
    return str(python)


@dataclass
class Contender:
    """One script in one interpreter."""

    name: str
    command: list[str]
    seconds: list[float] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT) if self.command[0] == sys.executable else ""}
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )
        self._expect("ready")

    def measure(self) -> float:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self._expect(None))

    def _expect(self, word: str | None) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            text = line.strip()
            if text.startswith("#") or (word is None and not text) or (word is not None and text != word):
                continue
            return text
        raise RuntimeError(f"{self.name} ended early (exit code {self.process.wait()}): {' '.join(self.command)}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def race(contenders: Sequence[Contender], rounds: int) -> None:
    """One warm-up of each, then ``rounds`` measurements of each, in turn."""
    try:
        for contender in contenders:
            contender.start()
            contender.measure()
        for _ in range(rounds):
            for contender in contenders:
                contender.seconds.append(contender.measure())
    finally:
        for contender in contenders:
            contender.stop()


def serve(work: Callable[[], float]) -> None:
    """The contender's side: ``work`` returns the seconds of one unit."""
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "go":
            print(work(), flush=True)
