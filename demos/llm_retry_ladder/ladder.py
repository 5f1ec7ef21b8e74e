"""A four-stage strategy: what to send next depends on what went wrong.

    1  the whole prompt, temperature 0
    2  only the fields that failed, temperature 0      (partial recovery: a fraction of the tokens)
    3  the whole prompt, temperature 0.25
    4  only the fields that failed, temperature 0.25

An answer that does not validate advances the stage. A lost connection repeats the stage; a rate limit changes nothing.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from hyperfunc_llm import Attempt, OutputType, OutputValidationError, RetryState

__all__ = ["Book", "Ladder"]

_INSTRUCTIONS = (
    """You describe books for a library catalogue. Read the text and answer with JSON only.
title: as printed. author: family name, then given name. year: of the first edition, as a number.
genre: one of novel, poetry, essay, science, other. summary: one sentence, at most 200 characters.
Do not invent anything: what the text does not say is null. """
    * 6
)


class Book(BaseModel):
    title: str
    author: str
    year: int = Field(ge=1400, le=2100)
    genre: str


class Ladder:
    """Answers with a :class:`Book` for a text."""

    def __init__(self) -> None:
        self._type = OutputType(Book)

    async def prepare(self) -> None:
        """Nothing to prepare."""

    async def cleanup(self) -> None:
        """Nothing to clean up."""

    async def execute(self, item: str, attempt: Attempt, state: RetryState) -> Book:
        stage = state.setdefault("stage", 1)
        temperature = 0.0 if stage <= 2 else 0.25
        partial = dict(state.get("partial") or {})
        missing = [name for name in Book.model_fields if name not in partial]
        if stage % 2 == 1 or not partial:
            partial = {}
            prompt = f"{_INSTRUCTIONS}\n\n{item}"
        else:
            prompt = f"Answer with JSON for the fields {', '.join(missing)} only ({state.get('complaint')}).\n\n{item}"
        response = await attempt.complete(prompt, temperature=temperature)
        return _merged(self._type, partial, response)

    async def on_error(self, error: Exception, attempt: Attempt, state: RetryState) -> None:
        if isinstance(error, OutputValidationError):
            state.set("stage", state.get("stage") + 1)
            state.set("complaint", str(error))
            state.set("partial", {**(state.get("partial") or {}), **error.partial})


def _merged(output: OutputType, partial: dict[str, Any], response: Any) -> Book:
    """The earlier valid fields and the new ones, validated together."""
    book: Book = output.validate({**partial, **output.read(response)}, response).parsed
    return book
