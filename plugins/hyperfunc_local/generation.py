"""Answers of all members to all prompts: a whole set of requests through one engine. Knows ids and texts, not how a
model was loaded."""

from __future__ import annotations

from collections.abc import Sequence

from hyperfunc.errors import ConfigurationError
from hyperfunc_local.engine import Engine, Generation, GenerationRequest
from hyperfunc_local.models.causal import CausalModel
from hyperfunc_local.models.weights import BoundWeights
from hyperfunc_local.text import TextStream
from hyperfunc_local.tokenizers.base import Tokenizer

__all__ = ["generate"]


def generate(
    model: CausalModel,
    weights: BoundWeights,
    requests: Sequence[Sequence[GenerationRequest]],
    tokenizer: Tokenizer | None = None,
    *,
    max_rows: int | None = None,
) -> list[list[Generation]]:
    """Run a whole set of requests ``[members][prompts]``; the answers come back in that order.

    Args:
        tokenizer: turns answers into text; without one they have ids only.
        max_rows: most rows (members x slots) at once; default: all.

    Raises:
        ConfigurationError: a request has stop strings, and there is no tokenizer.
    """
    most = max((len(own) for own in requests), default=0)
    slots = max(1, most if max_rows is None else min(most, max_rows // weights.size))
    engine = Engine(model, weights, slots=slots)
    answers = [[engine.submit(request) for request in own] for own in requests]
    streams = _streams(tokenizer, answers)
    while engine.busy:
        for event in engine.step():
            stream = streams.get(id(event.generation))
            if stream is not None:
                stream.push(event.token)
                if stream.stopped:
                    engine.finish(event.generation, "stop")
    if tokenizer is not None:
        for answer in (answer for own in answers for answer in own):
            if id(answer) not in streams:
                answer.text = tokenizer.decode(answer.tokens)
    return answers


def _streams(tokenizer: Tokenizer | None, answers: list[list[Generation]]) -> dict[int, TextStream]:
    """Only answers with stop strings are turned into text while they grow."""
    watched = [answer for own in answers for answer in own if answer.request.decoding.stop]
    if watched and tokenizer is None:
        raise ConfigurationError("stop strings need a tokenizer, and this model has none")
    return {id(answer): TextStream(tokenizer, answer) for answer in watched if tokenizer is not None}
