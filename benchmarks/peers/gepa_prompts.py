"""GEPA (``gepa.optimize``) in the simulated worlds, with its defaults, through litellm.

Its default adapter where a world has one text, an adapter of the same shape where it has two.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", OPENAI_API_KEY="none")

import gepa
from gepa import EvaluationBatch, GEPAAdapter
from gepa.adapters.default_adapter.default_adapter import EvaluationResult
from gepa.lm import LM

from benchmarks.peers.prompt_peer import TRAIN, VALIDATION, Watch, serve
from benchmarks.prompts.worlds import Row, World


class Silent:
    def log(self, message: str) -> None:
        """Nothing."""


class Follow:
    """A callback that watches the best candidate."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_valset_evaluated(self, event: Any) -> None:
        if event["is_best_program"]:
            self.watch.best_is(dict(event["candidate"]))


class Pipeline(GEPAAdapter):  # type: ignore[misc]
    """Two components in a row; each one's record holds its own inputs and outputs, as the guide tells to do."""

    def __init__(self, world: World, model: str) -> None:
        self.world = world
        self.lm = LM(model)

    def evaluate(self, batch: Any, candidate: Any, capture_traces: bool = False) -> Any:
        steps: list[list[str]] = [[row["input"] for row in batch]]
        for component in self.world.texts:
            requests = [
                [{"role": "system", "content": candidate[component]}, {"role": "user", "content": given}]
                for given in steps[-1]
            ]
            steps.append([reply or "" for reply in self.lm.batch_complete(requests)])
        judged = [self.world.score(row["row"], reply) for row, reply in zip(batch, steps[-1], strict=True)]
        traces = [
            {name: (steps[i][n], steps[i + 1][n], judged[n][1]) for i, name in enumerate(self.world.texts)}
            for n in range(len(batch))
        ]
        return EvaluationBatch(steps[-1], [score for score, _ in judged], traces if capture_traces else None)

    def make_reflective_dataset(self, candidate: Any, eval_batch: Any, components_to_update: list[str]) -> Any:
        return {
            name: [
                {"Inputs": trace[name][0], "Generated Outputs": trace[name][1], "Feedback": trace[name][2]}
                for trace in eval_batch.trajectories
            ]
            for name in components_to_update
        }


def optimize(watch: Watch) -> dict[str, str]:
    world = watch.world
    os.environ["OPENAI_API_BASE"] = watch.job["url"]

    def record(row: Row) -> dict[str, Any]:
        return {"input": row.request, "answer": row.answer, "additional_context": {}, "row": row}

    def evaluate(data: Any, reply: str) -> EvaluationResult:
        score, feedback = world.score(data["row"], reply or "")
        return EvaluationResult(score=score, feedback=feedback, objective_scores=None)

    task = watch.model("task")
    program: dict[str, Any] = {"task_lm": task, "evaluator": evaluate}
    if len(world.texts) > 1:
        program = {"adapter": Pipeline(world, task)}
    result = gepa.optimize(
        seed_candidate=dict(world.texts),
        trainset=[record(row) for row in world.rows(TRAIN, "train")],
        valset=[record(row) for row in world.rows(VALIDATION, "validation")],
        reflection_lm=watch.model("reflect"),
        max_metric_calls=watch.job["budget"],
        stop_callbacks=lambda state: watch.done,
        callbacks=[Follow(watch)],
        logger=Silent(),
        seed=world.seed,
        **watch.job["options"],
        **program,
    )
    return dict(result.best_candidate)


if __name__ == "__main__":
    serve(optimize)
