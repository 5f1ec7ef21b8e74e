"""Calls to reach a test score, per world family and contender, counted by the provider.

    python -m benchmarks.prompts.calls_to_target --worlds 20 --results results.jsonl

Contenders take turns in each world. With ``--results`` every run is written down, and one that is there already (same
worlds, by their hash) is not made again. A median counts runs that did not reach the target as beyond all others: where
half of them did not, it reads ``-``. In ``no-headroom`` worlds nothing is better than the seed: there every acceptance
is an error, and what counts is how often what is shipped is worse.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.prompts.contenders import CONTENDERS, OURS, PEERS, Peer, run_ours
from benchmarks.prompts.simulated import SimulatedProvider, running
from benchmarks.prompts.worlds import FAMILIES, World

__all__ = ["summary", "worlds_hash"]

BUDGET = 1000
_WHOLE = ("noisy", "no-headroom")  # where what is shipped in the end is the question
_HERE = Path(__file__).parent


def worlds_hash() -> str:
    """SHA-256 of the files that make the worlds."""
    return hashlib.sha256((_HERE / "worlds.py").read_bytes() + (_HERE / "reflector.py").read_bytes()).hexdigest()


async def one_run(
    provider: SimulatedProvider, peers: dict[str, Peer], world: World, contender: str, budget: int
) -> dict[str, Any]:
    """One run as a row of results."""
    if contender in OURS:
        outcome = await run_ours(provider, world, contender, budget)
    else:
        if contender not in peers:
            peers[contender] = Peer(contender)
        outcome = peers[contender].run(provider, world, budget, world.family in _WHOLE)
    worse = world.expected_score(outcome.texts, 2000) < world.expected_score(world.texts, 2000)
    where = {"family": world.family, "seed": world.seed, "contender": contender, "worlds": worlds_hash()}
    return {**where, **asdict(outcome), "calls": outcome.counts.calls, "worse": worse}


def summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The table's lines, one per family and contender."""
    lines = [
        f"{'family':<12} {'contender':<18} {'reached':>8} {'median':>7} {'IQR':>11} {'ratio':>6} "
        f"{'all calls':>9} {'repeated':>8} {'worse':>7}"
    ]
    for family in dict.fromkeys(row["family"] for row in rows):
        medians = {}
        of_family = [row for row in rows if row["family"] == family]
        for contender in sorted({row["contender"] for row in of_family}, key=[*PEERS, *OURS].index):
            some = [row for row in of_family if row["contender"] == contender]
            calls = sorted(math.inf if row["reached"] is None else row["reached"] for row in some)
            medians[contender] = statistics.median(calls)
            low, _, high = statistics.quantiles(calls, n=4, method="inclusive") if len(calls) > 1 else calls * 3
            yardstick = medians.get("gepa", math.nan)
            ratio = medians[contender] / yardstick if math.isfinite(yardstick) else math.nan
            total = statistics.median(row["calls"] for row in some)
            repeated = sum(row["counts"]["repeated"] for row in some) / sum(row["calls"] for row in some)
            reached = sum(row["reached"] is not None for row in some)
            worse = sum(row["worse"] for row in some)
            lines.append(
                f"{family:<12} {contender:<18} {f'{reached}/{len(some)}':>8} {_shown(medians[contender]):>7} "
                f"{f'{_shown(low)}-{_shown(high)}':>11} {f'{ratio:.2f}' if math.isfinite(ratio) else '-':>6} "
                f"{total:>9.0f} {repeated:>8.0%} {f'{worse}/{len(some)}':>7}"
            )
    return lines


def _shown(number: float) -> str:
    return f"{number:.0f}" if math.isfinite(number) else "-"


async def main(arguments: argparse.Namespace) -> None:
    """Run what is missing and print the table."""
    rows: list[dict[str, Any]] = []
    if arguments.results is not None and arguments.results.exists():
        written = map(json.loads, arguments.results.read_text().splitlines())
        rows = [row for row in written if row["worlds"] == worlds_hash()]
    seeds = range(arguments.first, arguments.first + arguments.worlds)
    asked = [(f, s, c) for f in arguments.families for s in seeds for c in arguments.contenders]
    known = {(row["family"], row["seed"], row["contender"]) for row in rows}
    peers: dict[str, Peer] = {}
    with running() as provider:
        try:
            for family, seed, contender in asked:
                if (family, seed, contender) in known:
                    continue
                rows.append(await one_run(provider, peers, World(family, seed), contender, arguments.budget))
                if arguments.results is not None:
                    with arguments.results.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
        finally:
            for peer in peers.values():
                peer.close()
    wanted = set(asked)
    print("\n".join(summary([r for r in rows if (r["family"], r["seed"], r["contender"]) in wanted])))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=20, help="worlds per family")
    parser.add_argument("--first", type=int, default=200, help="seed of the first; 0 to 199 are for development")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--budget", type=int, default=BUDGET, help="program runs per contender and world")
    parser.add_argument("--results", type=Path, help="a file to add results to")
    asyncio.run(main(parser.parse_args()))
