"""The pipeline: project the image, score the classes, decide whether to answer at all; and how it is judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperfunc import Float, HyperSystem, LoRAWeight, ScoreResult, Space, hyperfunction

HIDDEN = 48
CLASSES = 10
SHARPNESS = 20.0  # how steeply the smooth gate of the training objective follows the hard decision

Gate = Space.create("Gate", threshold=Float(0.0, 0.9, initial=0.1))


def with_one(x: Tensor) -> Tensor:
    """Append a constant 1, so that one matrix holds weights and bias."""
    return torch.cat([x, x.new_ones(1)], -1)


@hyperfunction(hp_type=LoRAWeight.create(HIDDEN, 65, noise_rank=1), optimize_hparams=True)
async def project(image: Tensor, hp: Any) -> Tensor:
    """Pixels ``[64]`` -> features ``[HIDDEN]``."""
    return torch.tanh(with_one(image) @ hp.weight.T)


@hyperfunction(hp_type=LoRAWeight.create(CLASSES, HIDDEN + 1, noise_rank=1), optimize_hparams=True)
async def classify(features: Tensor, hp: Any) -> Tensor:
    """Features -> log-probabilities ``[10]``."""
    return F.log_softmax(with_one(features) @ hp.weight.T, -1)


@hyperfunction(hp_type=Gate, optimize_hparams=True)
async def decide(log_probabilities: Tensor, hp: Any) -> Tensor:
    """``[11]``: log-probability of answering each class, and whether the pipeline answers (1) or abstains (0)."""
    confidence = log_probabilities.exp().amax(-1)
    answers = F.logsigmoid(SHARPNESS * (confidence - hp.threshold))
    return torch.cat(
        [log_probabilities + answers, (confidence >= hp.threshold).to(log_probabilities).unsqueeze(-1)], -1
    )


class DigitPipeline(HyperSystem):
    """Image -> class, or an abstention."""

    async def run(self, image: Tensor) -> Tensor:
        return await decide(await classify(await project(image)))


class LogLikelihood:
    """Mean log-probability of answering rightly: smooth, so that a population can climb it. An abstention costs."""

    supports_tensors = True

    def score(self, output: Tensor, expected: Any, inputs: Mapping[str, Any] | None = None) -> ScoreResult:
        return ScoreResult(float(output[int(expected)]))

    def score_tensor(self, outputs: Tensor, expected: Tensor) -> Tensor:
        labels = expected.long().expand(outputs.shape[:-1]).unsqueeze(-1)
        return outputs.gather(-1, labels).squeeze(-1).clamp_min(-8.0)


class AnswerAccuracy:
    """1 for a right answer, 0 for a wrong one and for an abstention."""

    supports_tensors = True

    def score(self, output: Tensor, expected: Any, inputs: Mapping[str, Any] | None = None) -> ScoreResult:
        return ScoreResult(float(bool(output[-1]) and int(output[:-1].argmax()) == int(expected)))

    def score_tensor(self, outputs: Tensor, expected: Tensor) -> Tensor:
        return ((outputs[..., :-1].argmax(-1) == expected.long()) & (outputs[..., -1] > 0)).to(outputs.dtype)
