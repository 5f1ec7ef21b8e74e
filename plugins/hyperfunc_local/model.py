"""A local model: configuration, weights, tokenizer and decoding defaults, as one immutable value.

Knows nothing of files (:mod:`hyperfunc_local.loading`) or servers. Weights are never written to: changed weights are
another model (:meth:`LocalModel.with_weights`), a population of them is a block of members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from hyperfunc.errors import ConfigurationError
from hyperfunc.parameters.theta import Theta
from hyperfunc.population.members import MemberBlock
from hyperfunc_local.adapters import Adapter
from hyperfunc_local.engine import Generation, GenerationRequest
from hyperfunc_local.errors import TokenizerError
from hyperfunc_local.files.safetensors_files import check_shapes
from hyperfunc_local.generation import generate
from hyperfunc_local.models.causal import CausalModel, causal_model
from hyperfunc_local.models.configuration import LlamaConfig
from hyperfunc_local.models.packed import PackedWeights
from hyperfunc_local.models.weights import BoundWeights
from hyperfunc_local.sampling.parameters import DecodingParameters, ResolvedDecoding, resolve
from hyperfunc_local.sampling.sampler import LogitsProcessor
from hyperfunc_local.scoring import Score, score
from hyperfunc_local.tokenizers.base import Tokenizer
from hyperfunc_local.tokenizers.chat import ChatTemplate

__all__ = ["LocalModel"]

Prompt = str | Sequence[int]


@dataclass(frozen=True, eq=False)
class LocalModel:
    """A causal language model.

    Attributes:
        config: what it is: of the Llama family, or another :class:`~hyperfunc_local.models.causal.CausalModel`.
        weights: name -> tensor, under Hugging Face state-dict names.
        tokenizer: ``None`` for models that are fed ids only.
        template: how a conversation becomes a prompt.
        decoding: the model's own decoding parameters, between a request's and the defaults.
        name: under which it is served.
    """

    config: LlamaConfig | CausalModel
    weights: Mapping[str, Tensor]
    tokenizer: Tokenizer | None = None
    template: ChatTemplate | None = None
    decoding: Mapping[str, Any] = field(default_factory=dict)
    name: str = "model"
    _packed: PackedWeights = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_packed", PackedWeights(self.weights))

    @property
    def parameter_count(self) -> int:
        return sum(w.numel() for w in self.weights.values())

    @property
    def bytes(self) -> int:
        """Memory of the weights."""
        return sum(w.numel() * w.element_size() for w in self.weights.values())

    def theta(self, names: Sequence[str] | None = None) -> Theta:
        """The weights (or those with ``names``) as θ, to be evolved."""
        return Theta({n: self.weights[n] for n in (names if names is not None else self.weights)})

    def with_weights(self, changes: Mapping[str, Tensor]) -> LocalModel:
        """The same model with other values for some weights.

        Raises:
            UnexpectedTensorError, ShapeError: a weight that the model does not have, or of another shape.
        """
        weights = {**self.weights, **{n: w.to(self.weights[n]) if n in self.weights else w for n, w in changes.items()}}
        check_shapes(weights, self.config.shapes(), "changes")
        return replace(self, weights=weights)

    def bind(self, members: MemberBlock | None = None, adapters: Mapping[str, Adapter] | None = None) -> BoundWeights:
        """The weights as one block of members sees them."""
        return BoundWeights(self.weights, members, adapters, packed=self._packed)

    def forward(self, ids: Tensor, members: MemberBlock | None = None, **options: Any) -> Tensor:
        """Logits ``[P, B, T, vocabulary]`` of ``ids`` ``[P, B, T]``; options of
        :func:`hyperfunc_local.models.llama.forward`."""
        return causal_model(self.config).forward(self.bind(members), ids, **options)

    def resolve(self, request: Mapping[str, Any] | None = None) -> ResolvedDecoding:
        """Decoding parameters: the request's, else the model's own, else the defaults; and who set each."""
        return resolve(request, self.decoding)

    def encode(self, prompt: Prompt) -> list[int]:
        """Ids of a text; ids pass through.

        Raises:
            TokenizerError: a text, and the model has no tokenizer; or ids outside the vocabulary.
        """
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise TokenizerError(f"model {self.name!r} has no tokenizer; give token ids")
            return self.tokenizer.encode(prompt)
        ids = [int(i) for i in prompt]
        if any(not 0 <= i < self.config.vocabulary for i in ids):
            raise TokenizerError(f"ids must be from 0 to {self.config.vocabulary - 1}")
        return ids

    def generate(
        self,
        prompts: Sequence[Prompt] | Sequence[Sequence[Prompt]],
        decoding: DecodingParameters | None = None,
        *,
        members: MemberBlock | None = None,
        seed: int = 0,
        max_rows: int | None = None,
        processors: Sequence[LogitsProcessor] = (),
    ) -> list[list[Generation]]:
        """Answers of every member to every prompt.

        Args:
            prompts: one list for all members, or (with ``members``) one list for each.
            decoding: default: the model's own.
            seed: the draws for prompt ``i`` depend on ``(seed, i)`` alone: all members share them.
            max_rows: most rows at once; others wait and take the place of finished ones.
            processors: only for a single request, since a processor serves one.

        Returns:
            ``[members][prompts]``; one member if none are given.
        """
        bound = self.bind(members)
        chosen = decoding if decoding is not None else self.resolve().values
        nested = bool(prompts) and not isinstance(prompts[0], str) and not _is_ids(prompts[0])
        if nested and len(prompts) != bound.size:
            raise ConfigurationError(f"expected a list of prompts for each of {bound.size} members, got {len(prompts)}")
        if processors and bound.size * len(prompts) != 1:
            raise ConfigurationError("logits processors serve one request; submit several through an Engine")
        shared = [] if nested else [tuple(self.encode(p)) for p in cast("Sequence[Prompt]", prompts)]
        requests = []
        for member in range(bound.size):
            own = [tuple(self.encode(p)) for p in cast("Sequence[Prompt]", prompts[member])] if nested else shared
            requests.append(
                [
                    GenerationRequest(
                        ids, chosen, member=member, seed=seed * 1_000_003 + i, processors=tuple(processors)
                    )
                    for i, ids in enumerate(own)
                ]
            )
        with torch.inference_mode():
            return generate(causal_model(self.config), bound, requests, self.tokenizer, max_rows=max_rows)

    def score(
        self,
        prompts: Sequence[Prompt],
        continuations: Sequence[Prompt],
        *,
        members: MemberBlock | None = None,
        max_rows: int = 256,
    ) -> Score:
        """Log-probabilities of given continuations, for every member: a reward without generating.

        Args:
            continuations: one for each prompt. A text is encoded on its own and appended to the prompt's ids.
        """
        if len(prompts) != len(continuations):
            raise ConfigurationError(f"{len(prompts)} prompts and {len(continuations)} continuations")
        ends = []
        for text in continuations:
            if isinstance(text, str) and self.tokenizer is not None:
                ends.append(self.tokenizer.encode(text, special=False))
            else:
                ends.append(self.encode(text))
        with torch.inference_mode():
            return score(
                causal_model(self.config),
                self.bind(members),
                [self.encode(p) for p in prompts],
                ends,
                max_rows=max_rows,
            )


def _is_ids(value: object) -> bool:
    return isinstance(value, Sequence) and all(isinstance(v, int) for v in value)
