"""Whole generations on an MLP 784-H-H-10 by three libraries, one script each way.

    python benchmarks/peers/mlp.py this|evotorch|evosax MEMBERS EXAMPLES HIDDEN

Cross-entropy on the same random rows. A generation is noise, evaluation of every member on every example, and update.
"""

import sys
import time


def data(examples):
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.normal(size=(examples, 784)).astype("float32"), rng.integers(0, 10, examples)


def this(members, examples, hidden):
    import asyncio

    import torch
    from torch import nn

    from hyperfunc import CrossEntropy, ESHybridSystemOptimizer, Example, HyperSystem, hyperfunction

    x, y = data(examples)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    class Net(HyperSystem):
        def __init__(self):
            block = members if members <= 32 else members // 2
            super().__init__(system_optimizer=ESHybridSystemOptimizer(pop_size=members, block_size=block))
            self.net = hyperfunction(evolve=lambda name, parameter: True, noise_rank=1)(net)

        async def run(self, x):
            return await self.net(x)

    rows = [Example({"x": torch.from_numpy(a)}, int(b)) for a, b in zip(x, y, strict=True)]
    system = Net()
    generations = 20

    def work():
        result = asyncio.run(system.optimize(rows, CrossEntropy(), steps=generations + 1, validate_every=1000))
        assert result.execution == "lifted", result.reason
        history = result.history
        return (history[generations - 1].seconds - history[0].seconds) / (generations - 1)

    return work


def sizes(hidden):
    return [(784, hidden), (hidden,), (hidden, hidden), (hidden,), (hidden, 10), (10,)]


def evotorch(members, examples, hidden):
    import torch
    from evotorch.algorithms import functional as F
    from torch.nn import functional as N

    x, y = (torch.from_numpy(a) for a in data(examples))
    shapes = sizes(hidden)
    counts = [torch.Size(s).numel() for s in shapes]

    def loss(flat):
        w1, b1, w2, b2, w3, b3 = (p.reshape(s) for p, s in zip(flat.split(counts), shapes, strict=True))
        return N.cross_entropy(torch.relu(torch.relu(x @ w1 + b1) @ w2 + b2) @ w3 + b3, y)

    state = F.pgpe(
        center_init=torch.randn(sum(counts)) * 0.03,
        center_learning_rate=0.01,
        stdev_learning_rate=0.1,
        stdev_init=0.02,
        optimizer="adam",
        ranking_method="centered",
        objective_sense="min",
    )
    evaluate = torch.func.vmap(loss)

    def work():
        nonlocal state
        start = time.perf_counter()
        population = F.pgpe_ask(state, popsize=members)
        state = F.pgpe_tell(state, population, evaluate(population))
        return time.perf_counter() - start

    return work


def evosax(members, examples, hidden):
    import jax
    import jax.numpy as jnp
    import optax
    from evosax.algorithms import Open_ES

    x, y = data(examples)
    shapes = sizes(hidden)
    counts = [int(jnp.prod(jnp.array(s))) for s in shapes]
    ends = [sum(counts[: i + 1]) for i in range(len(counts))]

    def loss(flat):
        w1, b1, w2, b2, w3, b3 = (flat[e - c : e].reshape(s) for e, c, s in zip(ends, counts, shapes, strict=True))
        logits = jax.nn.relu(jax.nn.relu(x @ w1 + b1) @ w2 + b2) @ w3 + b3
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    es = Open_ES(
        population_size=members,
        solution=jnp.zeros(ends[-1]),
        optimizer=optax.adam(1e-2),
        std_schedule=optax.constant_schedule(0.02),
    )
    settings = es.default_params
    state = es.init(jax.random.key(0), jax.random.normal(jax.random.key(1), (ends[-1],)) * 0.03, settings)

    @jax.jit
    def generation(key, state):
        a, b = jax.random.split(key)
        population, state = es.ask(a, state, settings)
        state, _ = es.tell(b, population, jax.vmap(loss)(population), state, settings)
        return state

    key = jax.random.key(2)

    def work():
        nonlocal state, key
        key, now = jax.random.split(key)
        start = time.perf_counter()
        state = jax.block_until_ready(generation(now, state))
        return time.perf_counter() - start

    return work


if __name__ == "__main__":
    work = {"this": this, "evotorch": evotorch, "evosax": evosax}[sys.argv[1]](*map(int, sys.argv[2:5]))
    print("ready", flush=True)
    for _ in sys.stdin:
        print(work(), flush=True)
