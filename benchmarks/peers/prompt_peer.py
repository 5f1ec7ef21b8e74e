"""What the prompt peers share: one world per line of input, one result per line of output. Standard library only."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Callable
from typing import Any

from benchmarks.prompts.worlds import World

TRAIN, VALIDATION = 40, 20


class Watch:
    """Notes when the text that would be returned first reaches the target, by the provider's own count.

    Args:
        job: ``family``, ``seed``, ``url``, ``owner``, ``target``, ``budget`` (metric calls), the peer's ``options``,
            and ``whole``: run the budget down even when the target is reached.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.world = World(job["family"], job["seed"])
        self.reached: int | None = None

    def calls(self) -> int:
        base = self.job["url"].removesuffix("/v1")
        path = f"{base}/counts/{self.world.family}/{self.world.seed}/{self.job['owner']}"
        with urllib.request.urlopen(path, timeout=30) as response:
            return int(json.load(response)["calls"])

    def model(self, role: str) -> str:
        return f"openai/{role}/{self.world.family}/{self.world.seed}/{self.job['owner']}"

    def best_is(self, texts: dict[str, str]) -> None:
        """The text that would be returned now."""
        if self.reached is None and self.world.expected_score(texts) >= self.job["target"]:
            self.reached = self.calls()

    @property
    def done(self) -> bool:
        return self.reached is not None and not self.job["whole"]

    def result(self, texts: dict[str, str], error: str = "") -> dict[str, Any]:
        return {"reached": self.reached, "calls": self.calls(), "texts": texts, "error": error}


def serve(work: Callable[[Watch], dict[str, str]]) -> None:
    """``work`` optimizes in one world and returns the texts; what it raises is reported, not raised."""
    out, sys.stdout = sys.stdout, sys.stderr  # what the peers print is not a result
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        watch = Watch(json.loads(line))
        try:
            result = watch.result(work(watch))
        except Exception as error:
            result = watch.result(dict(watch.world.texts), f"{type(error).__name__}: {error}"[:300])
        print(json.dumps(result), file=out, flush=True)
