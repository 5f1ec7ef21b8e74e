"""Whole generations on MLPs beside EvoTorch's PGPE and evosax's Open_ES, interleaved.

    python -m benchmarks.generations [--rounds 5]

The peers live in an environment of their own. Objectives are the same; their update rules are their own.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.harness import PEER_PACKAGES, PEERS, Contender, python_of, race

CASES = [(512, 256, 64), (1024, 256, 4)]  # hidden, members, examples


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    peer = python_of(PEERS, PEER_PACKAGES)
    print(f"$ python -m benchmarks.generations --rounds {rounds}")
    for hidden, members, examples in CASES:
        numbers = [str(members), str(examples), str(hidden)]
        contenders = [
            Contender("hyperfunc", [sys.executable, "benchmarks/peers/mlp.py", "this", *numbers]),
            Contender("evosax Open_ES", [peer, "benchmarks/peers/mlp.py", "evosax", *numbers]),
            Contender("EvoTorch PGPE", [peer, "benchmarks/peers/mlp.py", "evotorch", *numbers]),
        ]
        race(contenders, rounds)
        print(f"MLP 784-{hidden}-{hidden}-10, population {members}, {examples} examples: milliseconds per generation")
        for contender in contenders:
            low, high = min(contender.seconds) * 1e3, max(contender.seconds) * 1e3
            print(
                f"  {contender.name:16} {contender.median * 1e3:9.1f}  ({low:.1f} to {high:.1f})   "
                f"{contender.median / contenders[0].median:6.1f}x"
            )


if __name__ == "__main__":
    main()
