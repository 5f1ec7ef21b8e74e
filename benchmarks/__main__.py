"""Run the benchmarks behind docs/benchmarks.md, one after the other: ``python -m benchmarks [NAME …]``."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = {
    "lifted": ["-m", "benchmarks.lifted"],
    "gathered": ["benchmarks/gathered.py"],
    "factored": ["-m", "benchmarks.factored"],
    "generations": ["-m", "benchmarks.generations"],
    "convergence": ["benchmarks/convergence.py"],
    "game": ["-m", "benchmarks.game"],
    "memory": ["benchmarks/memory.py"],
    "llm": ["benchmarks/llm.py", "throughput"],
    "local": ["benchmarks/local.py", "decode"],
    "blame": ["-m", "benchmarks.blame"],
    "joint": ["-m", "benchmarks.joint"],
    "observability": ["-m", "benchmarks.observability"],
    "prompts": ["-m", "benchmarks.prompts.calls_to_target"],
    "scheduling": ["-m", "benchmarks.scheduling"],
}


def main() -> int:
    chosen = sys.argv[1:] or list(BENCHMARKS)
    unknown = [name for name in chosen if name not in BENCHMARKS]
    if unknown:
        print(f"no benchmark named {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    failed = []
    for name in chosen:
        print(f"== {name}: python {' '.join(BENCHMARKS[name])}", flush=True)
        if subprocess.run([sys.executable, *BENCHMARKS[name]], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
