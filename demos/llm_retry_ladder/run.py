"""Run the ladder over a few texts, against the loopback server or a model of yours.

python demos/llm_retry_ladder/run.py                         # no key, no network
python demos/llm_retry_ladder/run.py --model openai/gpt-4o-mini
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from ladder import Ladder

from hyperfunc.batch import batch
from hyperfunc.scope import UsageLedger, enter_scope
from hyperfunc.testing.llm_server import LLMServer, Rule, Script
from hyperfunc_llm import Endpoint, LLMRuntime

TEXTS = [
    "Middlemarch, by George Eliot, appeared from 1871 on.",
    "Jane Austen's Emma came out in 1815.",
    "Leaves of Grass: Whitman printed the first edition himself, in 1855.",
]

_GOOD = '{{"title": "{0}", "author": "{1}", "year": {2}, "genre": "{3}"}}'

# What the stand-in for a model answers: one text is right at once, one has a bad year, one needs all four stages.
SCRIPT = Script(
    rules=(
        Rule(contains="Middlemarch", content=_GOOD.format("Middlemarch", "Eliot, George", 1871, "novel")),
        Rule(contains="fields year only", content='```json\n{"year": 1815}\n```'),
        Rule(contains="Emma", content=_GOOD.format("Emma", "Austen, Jane", '"unknown"', "novel")),
        Rule(contains="Whitman", seen=0, fault="disconnect", times=1),
        Rule(contains="fields year, genre only", times=1, content='{"year": 1855}'),
        Rule(contains="fields genre only", content='{"genre": "poetry"}'),
        Rule(contains="fields year, genre only", content='{"year": 1855, "genre": "poetry"}'),
        Rule(contains="Whitman", content='{"title": "Leaves of Grass", "author": "Whitman, Walt", "year": null}'),
    )
)


async def run(model: str | None) -> None:
    async with LLMServer(SCRIPT) as server:
        local = Endpoint(model="openai/stand-in", base_url=server.base_url, transport="direct", backoff_s=0.01)
        endpoint = local if model is None else Endpoint(model=model)
        with enter_scope(ledger=UsageLedger()) as scope:
            settings = Endpoint(content_retries=3, max_prompts=8)
            async with (
                LLMRuntime({"catalogue": endpoint}) as runtime,
                runtime.session(Ladder(), "catalogue", call=settings) as answer,
            ):
                async for result in batch(answer, TEXTS, concurrency=2):
                    tokens = f"{result.usage.calls} prompts, {result.usage.input_tokens} tokens in"
                    print(f"{tokens:32} {result.output if result.ok else repr(result.error)}")
        assert scope.ledger is not None
        total = scope.ledger.total
        print(
            f"in all: {total.calls} prompts, {total.input_tokens} tokens in, {total.output_tokens} out, "
            f"${total.usd:.4f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model of yours, as litellm names it; default: a scripted stand-in")
    asyncio.run(run(parser.parse_args().model))


if __name__ == "__main__":
    main()
