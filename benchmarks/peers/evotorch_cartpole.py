"""EvoTorch: PGPE on CartPole-v1 through GymNE, one environment after the other, as its own examples do it.

The settings are those of eight with which it solved the game soonest (four seeds each; median generation 14). With a
radius of 4.5, a step of 0.4 and raw fitness none of seven was there by generation 25.

python benchmarks/peers/evotorch_cartpole.py SEED EPISODES SOLVED MOST_GENERATIONS

EvoTorch resets its environments without a seed, so that a run is not repeated exactly.
Prints JSON: seconds of wall clock and CPU, environment steps, generations, last mean.
"""

import json
import logging
import sys
import time

import torch
from evotorch.algorithms import PGPE
from evotorch.neuroevolution import GymNE

torch.set_num_threads(1)
logging.disable(logging.INFO)
seed, episodes, solved, most = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
torch.manual_seed(seed)
problem = GymNE("CartPole-v1", "Linear(obs_length, 16) >> Tanh() >> Linear(16, act_length)", num_episodes=episodes)
searcher = PGPE(
    problem,
    popsize=40,
    radius_init=3.5,
    center_learning_rate=1.5,
    stdev_learning_rate=0.1,
    optimizer="clipup",
    ranking_method="centered",
)
began, cpu = time.perf_counter(), time.process_time()
mean = 0.0
for _ in range(most):
    searcher.step()
    mean = float(searcher.status["mean_eval"])
    if mean > solved:
        break
print(
    json.dumps(
        {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - cpu,
            "steps": int(problem.status["total_interaction_count"])
            if "total_interaction_count" in problem.status
            else int(searcher.status["total_interaction_count"]),
            "generations": int(searcher.step_count),
            "mean": mean,
        }
    )
)
