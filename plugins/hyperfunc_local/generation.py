"""Answers of all members to all prompts: a whole set of requests through one engine. Knows texts, not members'
weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hyperfunc.errors import ConfigurationError
from hyperfunc_local.engine import Engine, Generation, GenerationRequest
from hyperfunc_local.models.weights import BoundWeights
from hyperfunc_local.text import TextStream

if TYPE_CHECKING:
    from hyperfunc_local.model import LocalModel

__all__ = ["generate"]


def generate(
    model: LocalModel,
    weights: BoundWeights,
    requests: Sequence[Sequence[GenerationRequest]],
    *,
    max_rows: int | None = None,
) -> list[list[Generation]]:
    """Run a whole set of requests ``[members][prompts]``; the answers come back in that order.

    Args:
        max_rows: most rows (members x slots) at once; default: all.
    """
    most = max((len(own) for own in requests), default=0)
    slots = max(1, most if max_rows is None else min(most, max_rows // weights.size))
    engine = Engine(model.config, weights, slots=slots)
    answers = [[engine.submit(request) for request in own] for own in requests]
    streams = _streams(model, answers)
    while engine.busy:
        for event in engine.step():
            stream = streams.get(id(event.generation))
            if stream is not None:
                stream.push(event.token)
                if stream.stopped:
                    engine.finish(event.generation, "stop")
    if model.tokenizer is not None:
        for answer in (answer for own in answers for answer in own):
            if id(answer) not in streams:
                answer.text = model.tokenizer.decode(answer.tokens)
    return answers


def _streams(model: LocalModel, answers: list[list[Generation]]) -> dict[int, TextStream]:
    """Only answers with stop strings are turned into text while they grow."""
    watched = [answer for own in answers for answer in own if answer.request.decoding.stop]
    if watched and model.tokenizer is None:
        raise ConfigurationError(f"stop strings need a tokenizer, and model {model.name!r} has none")
    return {id(answer): TextStream(model.tokenizer, answer) for answer in watched if model.tokenizer is not None}
