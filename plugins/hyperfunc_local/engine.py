"""The batch that generation runs in, refilled while it runs, for many members and prompts at once.

An :class:`Engine` holds a rectangle of rows, ``members x slots``. Requests wait in a queue for each member, take a free
slot, and leave it when they end, so that a short answer does not wait for a long one.
:func:`hyperfunc_local.generation.generate` runs a whole set; the server feeds one engine from many connections. The
engine knows ids, not texts: whoever turns them into text ends an answer at a stop string through :meth:`Engine.finish`.

Members take part only while they have work, and the rectangle shrinks when slots stay empty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from hyperfunc.errors import ConfigurationError
from hyperfunc_local.errors import ContextLengthError
from hyperfunc_local.models.causal import CausalModel, TextCache, causal_model
from hyperfunc_local.models.configuration import LlamaConfig
from hyperfunc_local.models.weights import BoundWeights
from hyperfunc_local.sampling.parameters import DecodingParameters
from hyperfunc_local.sampling.sampler import LogitsProcessor, SamplerRow, sample

__all__ = ["Engine", "FinishReason", "Generation", "GenerationRequest", "TokenEvent", "TopLogprobs"]

FinishReason = Literal["stop", "length", "cancelled"]
TopLogprobs = list[tuple[int, float]]
_UNLIMITED = 1 << 40


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One answer to be generated.

    Attributes:
        prompt: ids, at least one.
        member: which member of the engine's block answers.
        seed: of this request's own draws.
        processors: this request's own, in order.
        top_logprobs: how many alternatives to report with each token; ``None`` reports no log-probabilities.
    """

    prompt: tuple[int, ...]
    decoding: DecodingParameters = field(default_factory=DecodingParameters)
    member: int = 0
    seed: int = 0
    processors: tuple[LogitsProcessor, ...] = ()
    top_logprobs: int | None = None


@dataclass(slots=True)
class Generation:
    """An answer, growing while the engine runs.

    Attributes:
        tokens: ids of the answer, without the end token.
        text: where there is a tokenizer: the answer up to the first stop string.
        finish: why it ended; ``None`` while it has not.
        logprobs: log-probability of each token, under the model's own distribution (before any filter).
        top: the most likely tokens at each position with theirs.
    """

    request: GenerationRequest
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish: FinishReason | None = None
    logprobs: list[float] = field(default_factory=list)
    top: list[TopLogprobs] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One step of one answer: a new token (``None``: it ended without one)."""

    generation: Generation
    token: int | None


class _Row:
    """A generation in a slot."""

    __slots__ = ("generation", "last", "sampler")

    def __init__(self, generation: Generation) -> None:
        request = generation.request
        self.generation = generation
        self.sampler = SamplerRow(request.decoding, request.prompt, request.seed, request.processors)
        self.last = request.prompt[-1]


class Engine:
    """Runs the requests of one block of members.

    Not safe from several threads. Each :meth:`step` fills free slots and computes one token for every row.

    Args:
        weights: the model's weights under one block of members.
        slots: most rows of one member at once.
        max_context: most ids of prompt and answer together (default: the model's).
    """

    def __init__(
        self,
        config: LlamaConfig | CausalModel,
        weights: BoundWeights,
        *,
        slots: int = 8,
        max_context: int | None = None,
    ) -> None:
        if slots < 1:
            raise ConfigurationError(f"slots: expected at least 1, got {slots}")
        self._model = causal_model(config)
        longest = self._model.context_length
        self.max_context = min(max_context or longest, longest)
        self._all_weights = weights
        self._max_slots = slots
        self._waiting: list[deque[Generation]] = [deque() for _ in range(weights.size)]
        self._weights = weights
        self._members = list(range(weights.size))  # members in the rectangle, in order
        self._position = {m: m for m in self._members}
        self._slots = 0  # slots of each, at present
        self._rows: list[_Row | None] = []  # members x slots
        self._cache: TextCache | None = None
        self.steps = 0
        """Batches computed so far."""

    @property
    def active(self) -> int:
        """Rows that are generating."""
        return sum(row is not None for row in self._rows)

    @property
    def waiting(self) -> int:
        return sum(len(queue) for queue in self._waiting)

    @property
    def busy(self) -> bool:
        return self.waiting > 0 or self.active > 0

    @property
    def cache_bytes(self) -> int:
        """Memory held by the key/value cache at present."""
        return self._cache.bytes if self._cache is not None else 0

    def submit(self, request: GenerationRequest) -> Generation:
        """Queue a request.

        Raises:
            ContextLengthError: prompt and answer do not fit the context.
            ConfigurationError: an empty prompt, or an unknown member.
        """
        if not request.prompt:
            raise ConfigurationError("a prompt needs at least one token")
        if not 0 <= request.member < len(self._waiting):
            raise ConfigurationError(f"member {request.member}: this engine has {len(self._waiting)}")
        if len(request.prompt) >= self.max_context:
            raise ContextLengthError(
                f"the prompt has {len(request.prompt)} tokens; with at least one of an answer it must fit "
                f"{self.max_context}"
            )
        generation = Generation(request)
        self._waiting[request.member].append(generation)
        return generation

    def finish(self, generation: Generation, reason: FinishReason) -> None:
        """End a generation from outside (a stop string, a client that left); its slot is free at once."""
        if generation.finish is None or reason == "stop":  # a stop string may be completed by the last token allowed
            generation.finish = reason
        for number, row in enumerate(self._rows):
            if row is not None and row.generation is generation:
                self._rows[number] = None
                return
        queue = self._waiting[generation.request.member]
        kept = [g for g in queue if g is not generation]
        queue.clear()
        queue.extend(kept)

    @torch.inference_mode()
    def step(self) -> list[TokenEvent]:
        """One token for every row; newcomers are read in first and give their first token in the same step."""
        events = self._admit()
        if not events and self.active:
            events = self._decode()
        return events

    # --- reading prompts in --------------------------------------------------------------------------------------

    def _admit(self) -> list[TokenEvent]:
        wanted = [
            (member, min(len(queue), self._max_slots - self._used(member)))
            for member, queue in enumerate(self._waiting)
            if queue
        ]
        newcomers = [
            _Row(self._waiting[member].popleft()) for member, count in wanted for _ in range(count) if count > 0
        ]
        if not newcomers:
            self._shrink()
            return []
        if self.active == 0:
            cache, logits = self._restart(newcomers)
        else:
            cache, logits = self._join(newcomers)
        self._cache = cache
        return self._choose(logits, newcomers)

    def _used(self, member: int) -> int:
        if member not in self._position:
            return 0
        start = self._position[member] * self._slots
        return sum(row is not None for row in self._rows[start : start + self._slots])

    def _restart(self, newcomers: list[_Row]) -> tuple[TextCache, Tensor]:
        """The rectangle is empty: lay it out anew and read all prompts straight into its cache."""
        members = sorted({row.generation.request.member for row in newcomers})
        self._take_members(members)
        counts = {m: sum(row.generation.request.member == m for row in newcomers) for m in members}
        self._slots = max(counts.values())
        self._rows = [None] * (len(members) * self._slots)
        self._cache = None
        places = self._assign(newcomers)
        prompts: list[Sequence[int]] = [(0,)] * len(self._rows)
        for place, row in zip(places, newcomers, strict=True):
            prompts[place] = row.generation.request.prompt
        ids, padding = _left_padded(prompts, self._weights.device)
        cache = self._model.new_cache(len(prompts), _UNLIMITED)
        shaped = ids.view(len(members), self._slots, -1)
        logits = self._model.forward(self._weights, shaped, padding=padding, cache=cache, output="last").view(
            len(prompts), -1
        )
        self.steps += 1
        return cache, logits[torch.tensor(places, device=logits.device)]

    def _join(self, newcomers: list[_Row]) -> tuple[TextCache, Tensor]:
        """Others are running: read the new prompts in a batch of their own, then put them into free rows."""
        assert self._cache is not None
        self._make_room(newcomers)
        places = self._assign(newcomers)
        prompts = [row.generation.request.prompt for row in newcomers]
        ids, padding = _left_padded(prompts, self._weights.device)
        cache = self._model.new_cache(len(prompts), ids.shape[1])
        if self._all_weights.size == 1:
            weights, shaped = self._weights, ids.unsqueeze(0)
        else:
            members = torch.tensor([row.generation.request.member for row in newcomers], device=ids.device)
            weights, shaped = self._all_weights.select(members), ids.unsqueeze(1)
        logits = self._model.forward(weights, shaped, padding=padding, cache=cache, output="last")
        self._compact()
        self._cache.place(torch.tensor(places, device=ids.device), cache)
        self.steps += 1
        return self._cache, logits.view(len(prompts), -1)

    def _assign(self, newcomers: list[_Row]) -> list[int]:
        """Put each newcomer into a free row of its member; their row numbers."""
        places = []
        for row in newcomers:
            start = self._position[row.generation.request.member] * self._slots
            place = next(i for i in range(start, start + self._slots) if self._rows[i] is None)
            self._rows[place] = row
            places.append(place)
        return places

    def _make_room(self, newcomers: list[_Row]) -> None:
        needed: dict[int, int] = {}
        for row in newcomers:
            member = row.generation.request.member
            needed[member] = needed.get(member, self._used(member)) + 1
        members = sorted({*self._members, *needed})
        slots = max(self._slots, *needed.values())
        if members != self._members or slots > self._slots:
            self._arrange(members, slots)

    # --- the rectangle -------------------------------------------------------------------------------------------

    def _compact(self) -> None:
        """Give back columns at the left that no running text needs, when they are a quarter of all."""
        assert self._cache is not None
        free = [i for i, row in enumerate(self._rows) if row is None]
        if free:
            self._cache.clear(torch.tensor(free, device=self._weights.device))
        self._cache.compact(self._cache.length // 4)

    def _shrink(self) -> None:
        """Give up members without work and slots that nobody uses, when that drops at least a quarter of the rows."""
        if not self.active:
            return
        members = [m for m in self._members if self._used(m) or self._waiting[m]]
        slots = max(self._used(m) for m in members)
        if len(members) * slots <= 0.75 * len(self._rows):
            self._arrange(members, slots)

    def _arrange(self, members: list[int], slots: int) -> None:
        assert self._cache is not None
        sources: list[int] = []
        for member in members:
            own: list[int] = []
            if member in self._position:
                start = self._position[member] * self._slots
                own = [i for i in range(start, start + self._slots) if self._rows[i] is not None]
            sources += own + [-1] * (slots - len(own))
        self._cache.arrange(torch.tensor(sources, device=self._weights.device))
        self._rows = [self._rows[i] if i >= 0 else None for i in sources]
        self._slots = slots
        self._take_members(members)

    def _take_members(self, members: list[int]) -> None:
        if members == self._members and self._weights.size == len(members):
            return
        everyone = len(members) == self._all_weights.size
        chosen = torch.tensor(members, device=self._all_weights.device)
        self._weights = self._all_weights if everyone else self._all_weights.select(chosen)
        self._members = members
        self._position = {m: i for i, m in enumerate(members)}

    # --- computing tokens ----------------------------------------------------------------------------------------

    def _decode(self) -> list[TokenEvent]:
        assert self._cache is not None
        last = torch.tensor([row.last if row is not None else 0 for row in self._rows], device=self._weights.device)
        shaped = last.view(len(self._members), self._slots, 1)
        logits = self._model.forward(self._weights, shaped, cache=self._cache, output="last")
        self.steps += 1
        logits = logits.view(len(self._rows), -1)
        rows = [row for row in self._rows if row is not None]
        if len(rows) < len(self._rows):
            places = [i for i, row in enumerate(self._rows) if row is not None]
            logits = logits[torch.tensor(places, device=logits.device)]
        return self._choose(logits, rows)

    def _choose(self, logits: Tensor, rows: list[_Row]) -> list[TokenEvent]:
        tokens = sample(logits, [row.sampler for row in rows])
        _report_logprobs(logits, tokens, rows)
        return [self._accept(row, token) for row, token in zip(rows, tokens.tolist(), strict=True)]

    def _accept(self, row: _Row, token: int) -> TokenEvent:
        generation = row.generation
        request = generation.request
        if token in self._model.stop_ids and not request.decoding.ignore_end:
            if request.top_logprobs is not None:
                generation.logprobs.pop()
                generation.top.pop()
            self.finish(generation, "stop")
            return TokenEvent(generation, None)
        row.last = token
        row.sampler.answer.append(token)
        generation.tokens.append(token)
        used = len(request.prompt) + len(generation.tokens)
        if len(generation.tokens) >= request.decoding.max_tokens or used >= self.max_context:
            self.finish(generation, "length")
        return TokenEvent(generation, token)


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    longest = max(len(p) for p in prompts)
    ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts], device=device)
    if all(len(p) == longest for p in prompts):
        return ids, None
    return ids, torch.tensor([longest - len(p) for p in prompts], device=device)


def _report_logprobs(logits: Tensor, tokens: Tensor, rows: list[_Row]) -> None:
    wanted = [i for i, row in enumerate(rows) if row.generation.request.top_logprobs is not None]
    if not wanted:
        return
    chosen = torch.tensor(wanted, device=logits.device)
    table = logits[chosen].float().log_softmax(-1)
    own = table.gather(1, tokens[chosen].unsqueeze(1)).squeeze(1).tolist()
    most = max(rows[i].generation.request.top_logprobs or 0 for i in wanted)
    best = table.topk(min(most, table.shape[1]), dim=-1) if most else None
    for number, i in enumerate(wanted):
        generation = rows[i].generation
        generation.logprobs.append(own[number])
        count = generation.request.top_logprobs or 0
        ranked: TopLogprobs = []
        if best is not None and count:
            ids, values = best.indices[number, :count].tolist(), best.values[number, :count].tolist()
            ranked = list(zip(ids, values, strict=True))
        generation.top.append(ranked)
