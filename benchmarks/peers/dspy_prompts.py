"""``dspy.GEPA`` in the simulated worlds, with its defaults: one ``dspy.Predict`` per component, through litellm."""

from __future__ import annotations

import os
import tempfile
from typing import Any

os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", DSPY_CACHEDIR=tempfile.mkdtemp())

import dspy

from benchmarks.peers.prompt_peer import TRAIN, VALIDATION, Watch, serve
from benchmarks.prompts.worlds import World


class Program(dspy.Module):  # type: ignore[misc]
    """The components in a row; each takes what the one before it gave."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.names = list(world.texts)
        for name, text in world.texts.items():
            setattr(self, name, dspy.Predict(dspy.Signature("request -> answer", text)))

    def forward(self, request: str) -> Any:
        for name in self.names:
            reply = getattr(self, name)(request=request)
            request = reply.answer
        return reply


class Follow:
    """A callback that watches the best candidate."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_valset_evaluated(self, event: Any) -> None:
        if event["is_best_program"]:
            self.watch.best_is(dict(event["candidate"]))


def optimize(watch: Watch) -> dict[str, str]:
    world, job = watch.world, watch.job
    connection = {"api_base": job["url"], "api_key": "none"}

    def metric(gold: Any, pred: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None) -> Any:
        score, feedback = world.score(gold.row, pred.answer)
        return dspy.Prediction(score=score, feedback=feedback)

    def examples(part: str, count: int) -> list[Any]:
        rows = world.rows(count, part)
        return [dspy.Example(request=r.request, answer=r.answer, row=r).with_inputs("request") for r in rows]

    def stop(state: Any) -> bool:
        return watch.done or state.total_num_evals >= job["budget"]

    with dspy.context(lm=dspy.LM(watch.model("task"), **connection)):
        optimizer = dspy.GEPA(
            metric=metric,
            max_metric_calls=job["budget"],
            reflection_lm=dspy.LM(watch.model("reflect"), temperature=1.0, max_tokens=32000, **connection),
            seed=world.seed,
            gepa_kwargs={"callbacks": [Follow(watch)], "stop_callbacks": [stop]},
        )
        best = optimizer.compile(
            Program(world), trainset=examples("train", TRAIN), valset=examples("validation", VALIDATION)
        )
    return {name: getattr(best, name).signature.instructions for name in world.texts}


if __name__ == "__main__":
    serve(optimize)
