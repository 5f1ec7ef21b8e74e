"""What watching costs: per call by exporter, on the lifted benchmark, and where the collector is dead.

    python -m benchmarks.observability [calls] [lifted] [dead] [--rounds N] [--calls N] [--generations N]

The collector runs in a process of its own.
"""

from __future__ import annotations

import argparse

from benchmarks.observability.collector import Collector, serve_collector


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["calls", "lifted", "dead"])
    parser.add_argument("--rounds", type=int, help="of calls (7), of dead (12); runs of lifted (5)")
    parser.add_argument("--calls", type=int, help="in a run of calls (5000), of dead (6000: 1.4 s)")
    parser.add_argument("--generations", type=int, default=400, help="in a run of lifted")
    given = parser.parse_args()
    if given.what == ["collector"]:
        serve_collector()
        return
    unknown = set(given.what) - {"calls", "lifted", "dead"}
    if unknown:
        parser.error(f"nothing measures {', '.join(sorted(unknown))}")
    # Here, since the collector's process needs none of it.
    from benchmarks.observability.calls import measure_calls
    from benchmarks.observability.dead import measure_dead
    from benchmarks.observability.lifted import measure_lifted

    collector = Collector()
    try:
        if "calls" in given.what:
            measure_calls(collector, given.calls or 5000, given.rounds or 7)
        if "lifted" in given.what:
            measure_lifted(collector, given.rounds or 5, given.generations)
        if "dead" in given.what:
            measure_dead(given.rounds or 12, given.calls or 6000)
    finally:
        collector.stop()


if __name__ == "__main__":
    main()
