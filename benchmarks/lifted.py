"""Runs per second of lifted programs, through the public API; and the XOR program against hyperfunc 0.3 itself.

    python -m benchmarks.lifted [--rounds 7]

0.3 is installed beside torch into an environment of its own. A *run* is one member on one example; our figures include
noise, scoring and update, 0.3's only the evaluation.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.harness import OLD, OLD_PACKAGES, Contender, python_of, race


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    ours = [sys.executable, "-m"]
    pipeline = Contender("pipeline 256 x 100", [*ours, "benchmarks.peers.this_lifted"])
    scorer = Contender("XOR, MSE scorer", [*ours, "benchmarks.peers.this_xor", "scorer"])
    metric = Contender("XOR, Python metric", [*ours, "benchmarks.peers.this_xor", "metric"])
    old = Contender("XOR, hyperfunc 0.3", [python_of(OLD, OLD_PACKAGES), "benchmarks/peers/hyperfunc_03.py"])
    race([pipeline, scorer, metric, old], rounds)
    print(f"$ python -m benchmarks.lifted --rounds {rounds}")
    xor = 64 * 200
    for contender, runs in ((pipeline, 256 * 100), (scorer, xor), (metric, xor), (old, xor)):
        low, high = min(contender.seconds), max(contender.seconds)
        print(
            f"{contender.name:22} {runs / contender.median / 1e3:10.1f} thousand runs/s   "
            f"{contender.median * 1e3:8.2f} ms ({low * 1e3:.2f} to {high * 1e3:.2f})"
        )
    print(f"against 0.3: scorer {old.median / scorer.median:.0f}x, Python metric {old.median / metric.median:.1f}x")


if __name__ == "__main__":
    main()
