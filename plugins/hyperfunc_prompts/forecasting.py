"""What a search with one pool and one acceptance test will take, before it begins.

The bounds hold for every proposer: a candidate is run once on an example, at most one candidate comes with each
proposal, and each is written in at most so many replies. Where tensors move in the same run, scores are forgotten and a
candidate may be run again at every step. The estimate between the bounds supposes that every proposal is written in one
reply, is tried on a minibatch like the text that it comes from, and that every other one comes to validation.

Knows nothing of prices, nor of how the optimizers propose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hyperfunc.evaluation.example import Example
from hyperfunc.parameters.theta import JSONValue
from hyperfunc.scheduling.text_forecast import Expectation, TextForecast
from hyperfunc_prompts.reflection import Reflector, estimate_tokens
from hyperfunc_prompts.search import split_validation, trainable_texts

__all__ = ["foresee"]

_INSTRUCTIONS = 300  # tokens of a request beside texts and examples
_OUTPUT = 100  # tokens of a run's output and feedback


def foresee(
    system: Any,
    train_data: Sequence[Example],
    validation: Sequence[Example] | float,
    *,
    proposals: int,
    minibatch: int | None,
    reflector: Reflector | None,
    attempts: int,
    context_size: int,
    seed: int,
    pretest: bool,
    tensors_move: bool,
    notes: tuple[str, ...] = (),
) -> TextForecast:
    """The forecast of one search.

    Args:
        validation: examples to accept on, or the share of ``train_data`` to hold out.
        proposals: the most that it makes.
        minibatch: training examples that a proposal is made from; ``None``: all.
        reflector: who writes; ``None`` where nobody is asked.
        attempts: the most replies for one proposal.
        context_size, seed: of the optimizer.
        pretest, tensors_move: see :class:`~hyperfunc.scheduling.text_forecast.ForeseeingTextOptimizer`.

    Raises:
        EvaluationError: the examples cannot be divided.
    """
    train, held_out = split_validation(train_data, validation, seed)
    examples = len(train) + len(held_out)
    candidates = 1 + proposals
    most = candidates * examples
    if tensors_move:  # step k may run all k + 1 candidates again, and what was run before the first step is lost
        most = len(held_out) + examples * (candidates * (candidates + 1) // 2 - 1)
    least = len(held_out) if pretest else 1
    batch = min(minibatch or len(train), len(train))
    typical = len(held_out) + proposals * (2 * batch + len(held_out) // 2)
    if not proposals:
        least = typical = most = 0
    replies = 0 if reflector is None else proposals
    reply = None
    if reflector is not None:
        theta = system.theta.texts
        texts = [theta[entry.name] for entry in trainable_texts(system)]
        shown = _INSTRUCTIONS + sum(map(_tokens, texts)) + sum(_example_tokens(e) for e in train[:batch])
        written = max(map(_tokens, texts), default=0) + _OUTPUT
        reply = reflector.usage_of_a_reply(min(shown, context_size), written, context_size)
        if reply is None:
            notes = (*notes, "what the function that writes texts pays for is not known")
    return TextForecast(
        len(train),
        len(held_out),
        proposals,
        Expectation(least, max(least, min(typical, most)), most),
        Expectation(0, replies, replies * attempts),
        reply,
        notes,
    )


def _tokens(value: JSONValue) -> int:
    return estimate_tokens(value if isinstance(value, str) else repr(value))


def _example_tokens(example: Example) -> int:
    return estimate_tokens(repr(example.inputs)) + estimate_tokens(repr(example.expected)) + _OUTPUT
