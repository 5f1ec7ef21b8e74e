"""``Predict``: a signature asked of a model, as a component. Its task text and its demos are parameters.

Knows nothing of how they are learned.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from hyperfunc.binding import active_frame
from hyperfunc.parameters.lm import LMParam
from hyperfunc.parameters.text import TextParam
from hyperfunc.parameters.theta import JSONValue
from hyperfunc_llm.endpoints import Endpoint
from hyperfunc_llm.functions import LLMFunction, bound_endpoint
from hyperfunc_llm.runtime import current_runtime
from hyperfunc_llm.structured import repair_messages
from hyperfunc_llm.types import LLMRequest, LLMResponse
from hyperfunc_prompts.adapters import Adapter, Messages, adapter_named, as_json_value
from hyperfunc_prompts.errors import SignatureError
from hyperfunc_prompts.signatures import Signature

__all__ = ["Predict", "Prediction"]


class Prediction(Mapping[str, Any]):
    """Typed outputs, as a mapping in the signature's order and as attributes: ``prediction.answer``.

    Attributes:
        response: the model's whole reply (what it used, why it finished).
    """

    __slots__ = ("_values", "response")

    response: LLMResponse | None

    def __init__(self, values: Mapping[str, Any], response: LLMResponse | None = None) -> None:
        object.__setattr__(self, "_values", dict(values))
        object.__setattr__(self, "response", response)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._values:
            raise AttributeError(f"no output {name!r}")
        return self._values[name]

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Prediction is frozen")

    def __deepcopy__(self, memo: dict[int, Any]) -> Prediction:
        """Itself where all values are immutable: members of a population share it."""
        if all(isinstance(value, (str, int, float, bool, type(None))) for value in self._values.values()):
            return self
        return type(self)(copy.deepcopy(self._values, memo), self.response)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (dict(self._values), self.response))

    def __repr__(self) -> str:
        return f"Prediction({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"


class Predict(LLMFunction[..., Prediction]):
    """A component that asks ``model`` for a signature's outputs: ``await answer(question="…") -> Prediction``.

    Its texts are ``prompt`` (the task, at first the signature's docstring) and ``demos`` (a list of objects with values
    by field name). Both can be learned; :meth:`explain` shows what would be sent.

    Args:
        signature: what goes in and what comes out.
        model: an alias or a model of the LLM runtime.
        rate_limit, api_key: as in :func:`hyperfunc_llm.make_llm_completion`.
        adapter: ``"chat"``, ``"json"`` or an adapter.
        demos: initial examples, values by field name.
        name: the component's name (default: the signature's).
        optimize_prompt, optimize_demos, optimize_hparams: what may be learned.
        retries, timeout_s, max_calls, endpoint: limits of its calls; a reply that does not validate is sent back with
            the complaint, as often as the endpoint's ``content_retries`` allows.
        default_kwargs: request parameters for every call.

    Raises:
        SignatureError: not a signature, or a demo with unknown or missing fields.
    """

    def __init__(
        self,
        signature: type[Signature],
        model: str = "gpt-4",
        *,
        rate_limit: bool = True,
        api_key: str | None = None,
        adapter: str | Adapter = "chat",
        demos: Sequence[Mapping[str, Any]] = (),
        name: str | None = None,
        optimize_prompt: bool = True,
        optimize_demos: bool = False,
        optimize_hparams: bool = False,
        retries: int | None = None,
        timeout_s: float | None = None,
        max_calls: int | None = None,
        endpoint: Endpoint | None = None,
        **default_kwargs: Any,
    ) -> None:
        if not (isinstance(signature, type) and issubclass(signature, Signature)) or signature is Signature:
            raise SignatureError(f"Predict needs a subclass of Signature, got {signature!r}")
        self.predicted = signature
        self.adapter = adapter_named(adapter)
        self._initial_demos = [self._checked_demo(demo) for demo in demos]
        connection = Endpoint.connection(api_key=api_key, base_url=None, limited=None if rate_limit else False)
        bound = connection if endpoint is None else connection.over(endpoint)
        task = signature.instructions()
        texts = {
            "prompt": TextParam(task, f"the task text of {signature.__name__}", trainable=optimize_prompt),
            "demos": TextParam(self._initial_demos, f"examples for {signature.__name__}", trainable=optimize_demos),
        }

        async def predict(
            *, hp: LMParam | None = None, prompt: str | None = None, demos: Any = None, **inputs: Any
        ) -> Prediction:
            shown = self._initial_demos if demos is None else demos
            messages = self._messages(task if prompt is None else prompt, shown, inputs)
            params = {**self.adapter.request_params(signature), **default_kwargs}
            if hp is not None:
                limit = current_runtime().endpoint(model, None, bound_endpoint()).max_output_tokens
                params = {**hp.to_litellm_kwargs(model_max_tokens=limit or 4096), **params}
            response = await current_runtime().complete(
                model, LLMRequest(messages, params), bound=bound_endpoint(), judge=self._judge, repair=repair_messages
            )
            return Prediction(response.parsed, replace(response, parsed=None))

        predict.__doc__ = None
        super().__init__(
            predict,
            # Without learned sampling settings the provider's own defaults hold; seeded random ones would not.
            hp_type=LMParam if optimize_hparams else None,
            optimize_hparams=optimize_hparams,
            texts=texts,
            name=name or signature.__name__,
            retries=retries,
            timeout_s=timeout_s,
            max_calls=max_calls,
            endpoint=None if bound == Endpoint() else bound,
            aliases=(model,),
            shares_replies=True,
        )

    def explain(self, **inputs: Any) -> Messages:
        """The exact messages that a call with these inputs would send; nothing is sent.

        Inside a run or ``with system.binding():`` with the texts of that θ, else with the initial ones.
        """
        return self._messages(str(self._text("prompt")), self._text("demos"), inputs)

    def _text(self, name: str) -> Any:
        frame = active_frame.get()
        if frame is None:
            return self.texts[name].value
        component = frame.prefix + frame.scope.component_name(self)
        return frame.binding.value(f"{component}.{name}")

    def _messages(self, instructions: str, demos: Any, inputs: Mapping[str, Any]) -> Messages:
        expected = self.predicted.input_fields()
        if inputs.keys() != expected.keys():
            raise SignatureError(f"{self.predicted.__name__} takes {list(expected)}, got {sorted(inputs)}")
        return self.adapter.messages(self.predicted, instructions, demos, inputs)

    def _judge(self, response: LLMResponse) -> LLMResponse:
        return replace(response, parsed=self.adapter.read(self.predicted, response.content))

    def _checked_demo(self, demo: Mapping[str, Any]) -> dict[str, JSONValue]:
        types = self.predicted.types()
        unknown = sorted(demo.keys() - types.keys())
        missing = [name for name in self.predicted.input_fields() if name not in demo]
        outputs = [name for name in self.predicted.output_fields() if name in demo]
        if unknown or missing or not outputs:
            raise SignatureError(
                f"a demo of {self.predicted.__name__} needs {list(self.predicted.input_fields())} and at least one of "
                f"{list(self.predicted.output_fields())}, got {sorted(demo)}"
            )
        return {name: as_json_value(types[name], demo[name]) for name in types if name in demo}
