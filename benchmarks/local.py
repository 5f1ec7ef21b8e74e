"""Local models and their server, measured on the machine at hand. Every comparison is interleaved; tokens are compared.

    python benchmarks/local.py decode        against transformers.generate: same weights, same tokens, batch 8
    python benchmarks/local.py population    32 rank-1 members against one model with as many rows
    python benchmarks/local.py batch         true batches against one prompt after another
    python benchmarks/local.py refill        a refilled batch against waiting for the longest
    python benchmarks/local.py cache         model cache: a hit against a cold load from a real file
    python benchmarks/local.py stream        time to the first token against the whole, 64 streams at once
    python benchmarks/local.py malformed     10 000 malformed requests: statuses and memory

Figures are the median and the best of several rounds, ratios the median of the rounds' ratios; ``load`` is the
machine's load average beforehand. ``--clock processor`` counts the time of this process alone, for one thread on a busy
machine.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from hyperfunc.population.members import FactoredMembers
from hyperfunc_local.engine import Engine, GenerationRequest
from hyperfunc_local.loading import load_model, save_model
from hyperfunc_local.model import LocalModel
from hyperfunc_local.models.configuration import LlamaConfig
from hyperfunc_local.sampling.parameters import DecodingParameters


def random_model(hidden: int, layers: int = 4, vocabulary: int = 1024) -> LocalModel:
    """A Llama with random weights whose greedy text does not repeat one token."""
    config = LlamaConfig(
        family="llama",
        vocabulary=vocabulary,
        hidden=hidden,
        intermediate=hidden * 8 // 3 // 32 * 32,
        layers=layers,
        heads=hidden // 32,
        key_value_heads=hidden // 64,
        head_size=32,
        context_length=512,
    )
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.ones(shape)
        if len(shape) == 1
        else torch.randn(shape, generator=generator) * 1.4 * shape[-1] ** -0.5
        for name, shape in config.shapes().items()
    }
    return LocalModel(config, weights)


def greedy(count: int) -> DecodingParameters:
    return DecodingParameters(temperature=0.0, top_k=0, top_p=1.0, max_tokens=count, ignore_end=True)


def prompts(count: int, length: int = 16, seed: int = 1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 1024, (count, length), generator=generator).tolist()


def interleaved(
    ways: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each way in each round, after one warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            begin = clock()
            way()
            if turn:
                seconds[name].append(clock() - begin)
    return seconds


def ratio(seconds: dict[str, list[float]], fast: str, slow: str) -> float:
    """How many times as fast: median over the rounds."""
    return statistics.median(s / f for s, f in zip(seconds[slow], seconds[fast], strict=True))


def report(title: str, seconds: dict[str, list[float]], tokens: dict[str, int]) -> None:
    """Print tokens per second (median of the rounds)."""
    for name, values in seconds.items():
        rate, best = tokens[name] / statistics.median(values), tokens[name] / min(values)
        print(f"  {title:28s} {name:22s} {rate:10.0f} tokens/s (best {best:.0f})", flush=True)


def decode(rounds: int, clock: Callable[[], float]) -> None:
    """Like transformers.generate: greedy, batch 8, prompts of 16, answers of 64 tokens."""
    import transformers

    transformers.logging.set_verbosity_error()
    for hidden in (256, 512):
        model = random_model(hidden)
        with tempfile.TemporaryDirectory() as directory:
            save_model(model, directory)
            oracle = transformers.LlamaForCausalLM.from_pretrained(directory).eval()
        given = prompts(8)
        ids = torch.tensor(given)
        mask = torch.ones_like(ids)

        def theirs(oracle: Any = oracle, ids: Any = ids, mask: Any = mask) -> list[list[int]]:
            with torch.inference_mode():
                answer = oracle.generate(
                    ids, attention_mask=mask, max_new_tokens=64, min_new_tokens=64, do_sample=False, pad_token_id=0
                )
            return answer[:, 16:].tolist()

        def ours(model: LocalModel = model, given: Any = given) -> list[list[int]]:
            return [answer.tokens for answer in model.generate(given, greedy(64))[0]]

        expected, got = theirs(), ours()
        assert got == expected, "the tokens differ: nothing to compare"
        assert len({t for row in got for t in row}) > 50
        seconds = interleaved({"transformers": theirs, "ours": ours}, rounds, clock)
        report(f"hidden {hidden}", seconds, {"transformers": 512, "ours": 512})
        print(f"  -> {ratio(seconds, 'ours', 'transformers'):.2f} x transformers.generate", flush=True)


def members_of(model: LocalModel, count: int) -> dict[str, FactoredMembers]:
    generator = torch.Generator().manual_seed(3)
    return {
        name: FactoredMembers(
            weight,
            torch.randn((count, weight.shape[0], 1), generator=generator),
            torch.randn((count, weight.shape[1], 1), generator=generator),
            0.01,
        )
        for name, weight in model.weights.items()
        if weight.dim() == 2 and "layers" in name
    }


def population(rounds: int, clock: Callable[[], float]) -> None:
    """32 members, rank 1, all linears of the layers, against one model with the same number of rows."""
    for hidden in (256, 512):
        model = random_model(hidden)
        block = members_of(model, 32)
        for each in (1, 4):
            ways = {
                "one model": lambda each=each, model=model: model.generate(prompts(32 * each), greedy(32)),
                "32 members": lambda each=each, model=model, block=block: model.generate(
                    prompts(each), greedy(32), members=block
                ),
            }
            tokens = dict.fromkeys(ways, 32 * each * 32)
            seconds = interleaved(ways, rounds, clock)
            report(f"hidden {hidden}, {each} prompts each", seconds, tokens)
            print(f"  -> {100 * ratio(seconds, '32 members', 'one model'):.0f} % of one model's tokens/s", flush=True)


def batch(rounds: int, clock: Callable[[], float]) -> None:
    """n prompts in one batch against one after the other."""
    model = random_model(256)
    for count in (1, 2, 4, 8, 16, 32, 64):
        ways = {
            "one after another": lambda count=count: [model.generate([p], greedy(24)) for p in prompts(count)],
            "one batch": lambda count=count: model.generate(prompts(count), greedy(24)),
        }
        seconds = interleaved(ways, max(2, rounds // 2), clock)
        report(f"{count} prompts", seconds, dict.fromkeys(ways, count * 24))
        print(f"  -> {ratio(seconds, 'one batch', 'one after another'):.2f} x", flush=True)


def refill(rounds: int, clock: Callable[[], float]) -> None:
    """64 answers of 4 to 64 tokens through 8 slots, against batches of 8 that wait for their longest."""
    model = random_model(256)
    lengths = torch.randint(4, 65, (64,), generator=torch.Generator().manual_seed(0)).tolist()
    requests = [GenerationRequest(tuple(p), greedy(n)) for p, n in zip(prompts(64), lengths, strict=True)]

    def run(groups: list[list[GenerationRequest]]) -> None:
        for group in groups:
            engine = Engine(model.config, model.bind(), slots=8)
            for request in group:
                engine.submit(request)
            while engine.busy:
                engine.step()

    ways = {
        "waiting": lambda: run([requests[i : i + 8] for i in range(0, 64, 8)]),
        "refilled": lambda: run([requests]),
    }
    seconds = interleaved(ways, rounds, clock)
    report("64 answers, 8 slots", seconds, dict.fromkeys(ways, sum(lengths)))
    print(f"  -> {ratio(seconds, 'refilled', 'waiting'):.2f} x", flush=True)


def cache(rounds: int, clock: Callable[[], float]) -> None:
    """What a request pays for its model: a hit, and a cold load from a safetensors file on disk."""
    from hyperfunc_serve.model_cache import ModelCache
    from hyperfunc_serve.worker import ModelWorker

    with tempfile.TemporaryDirectory() as directory:
        path = save_model(random_model(512), directory)

        def load(name: str) -> ModelWorker:
            return ModelWorker(load_model(path, name=name), slots=1)

        held: ModelCache[ModelWorker] = ModelCache(load, 1)
        cold = []
        for turn in range(rounds + 1):
            begin = time.perf_counter()
            with held.use(str(turn)):
                cold.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        for _ in range(20_000):
            with held.use(str(rounds)):
                pass
        hit = (time.perf_counter() - begin) / 20_000
        size = sum(f.stat().st_size for f in path.glob("*.safetensors")) / 2**20
        print(f"  cold load of {size:.0f} MiB: {1e3 * statistics.median(cold[1:]):.1f} ms; hit: {1e6 * hit:.2f} µs")
        print(f"  {held.statistics}")
        held.close()


def stream(rounds: int, clock: Callable[[], float]) -> None:
    """Time to the first token and to the end: one stream, then 64 at once."""
    import httpx

    from hyperfunc_serve.demo_model import demo_model
    from hyperfunc_serve.running import server_in_thread
    from hyperfunc_serve.settings import ServerSettings

    async def one(client: httpx.AsyncClient, i: int) -> tuple[float, float]:
        begin, first = time.perf_counter(), 0.0
        body = {"prompt": f"prompt {i}", "max_tokens": 100, "temperature": 0, "stream": True, "ignore_eos": True}
        async with client.stream("POST", "/v1/completions", json=body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: ") and not first:
                    first = time.perf_counter() - begin
        return first, time.perf_counter() - begin

    async def many(url: str, count: int) -> tuple[list[tuple[float, float]], float]:
        async with httpx.AsyncClient(base_url=url, timeout=120, limits=httpx.Limits(max_connections=count)) as client:
            await one(client, -1)
            begin = time.perf_counter()
            return await asyncio.gather(*(one(client, i) for i in range(count))), time.perf_counter() - begin

    settings = ServerSettings(port=0, slots=64)
    with server_in_thread({"demo": lambda: demo_model(hidden=256, layers=4)}, settings) as (url, _):
        for count in (1, 8, 64):
            best = None
            for _ in range(rounds):
                answers, seconds = asyncio.run(many(url, count))
                best = min(best or (seconds, answers), (seconds, answers), key=lambda pair: pair[0])
            assert best is not None
            firsts, ends = zip(*best[1], strict=True)
            print(
                f"  {count:2d} streams of 100 tokens: first token {1e3 * statistics.median(firsts):.0f} ms, "
                f"end {1e3 * statistics.median(ends):.0f} ms, {count * 100 / best[0]:.0f} tokens/s in all",
                flush=True,
            )


def malformed(rounds: int, clock: Callable[[], float]) -> None:
    """10 000 requests from the generator of tests/serve/test_serve_api.py; memory after warm-up and at the end."""
    from hyperfunc_serve.demo_model import demo_model
    from hyperfunc_serve.running import server_in_thread
    from hyperfunc_serve.settings import ServerSettings

    place = Path(__file__).parents[1] / "tests" / "serve" / "test_serve_api.py"
    specification = importlib.util.spec_from_file_location("test_serve_api", place)
    assert specification is not None
    assert specification.loader is not None
    tests = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(tests)
    with server_in_thread({"demo": lambda: demo_model(hidden=32)}, ServerSettings(port=0)) as (url, _):
        total: dict[int, int] = {}
        asyncio.run(tests.send_malformed(url, 2000, seed=1))
        before = tests.resident_bytes()
        for part in range(10):
            for status, count in asyncio.run(tests.send_malformed(url, 1000, seed=100 + part)).items():
                total[status] = total.get(status, 0) + count
            print(f"  {1000 * (part + 1):5d} requests, resident {tests.resident_bytes() / 2**20:.1f} MiB", flush=True)
        grown = (tests.resident_bytes() - before) / 2**20
        print(f"  statuses {json.dumps(dict(sorted(total.items())))}, memory {grown:+.1f} MiB over 10 000 requests")
        assert all(400 <= status < 500 for status in total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = {f.__name__: f for f in (decode, population, batch, refill, cache, stream, malformed)}
    parser.add_argument("what", choices=sorted(ways))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load = os.getloadavg()[0]
    print(
        f"{arguments.what}: {arguments.threads} threads, {arguments.clock} time, load {load:.1f}, "
        f"torch {torch.__version__}, {sys.platform}"
    )
    ways[arguments.what](arguments.rounds, time.perf_counter if arguments.clock == "wall" else time.process_time)


if __name__ == "__main__":
    main()
