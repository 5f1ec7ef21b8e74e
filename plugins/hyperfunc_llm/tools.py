"""Tools: hyperfunctions that a model may call, and the loop in which it does.

    ask the model → it asks for tools → they run, at the same time → results go back → … → it answers

Knows nothing of transports; every request goes through the runtime.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyperfunc.batch import FatalError
from hyperfunc.errors import BindingError, BudgetError, ConfigurationError, MissingDependencyError
from hyperfunc.function import HyperFunction
from hyperfunc.parameters.lm import LMParam
from hyperfunc_llm.completion import llm_completion
from hyperfunc_llm.errors import ToolLoopError
from hyperfunc_llm.functions import LLMFunction
from hyperfunc_llm.types import LLMResponse, Message, ToolCall, as_messages

__all__ = ["AgentResult", "Tool", "make_llm_agent", "run_tool_loop"]


class Tool:
    """A function that a model may call.

    Args:
        function: a hyperfunction or an async or plain function with annotated arguments. Its docstring tells the model
            what it is for.
        name, description: instead of the function's own.

    Raises:
        ConfigurationError: no docstring and no description, or arguments that cannot be described.
    """

    def __init__(
        self, function: Callable[..., Any], *, name: str | None = None, description: str | None = None
    ) -> None:
        self._function = function
        plain = function.fn if isinstance(function, HyperFunction) else function
        self.name: str = name or (function.name if isinstance(function, HyperFunction) else function.__name__)
        self.description = description or inspect.cleandoc(plain.__doc__ or "")
        if not self.description:
            raise ConfigurationError(f"tool {self.name}: needs a docstring or description=, for the model to read")
        injected = function.injected_names if isinstance(function, HyperFunction) else frozenset()
        self._arguments = _argument_model(self.name, plain, injected)

    def schema(self) -> dict[str, Any]:
        """The tool in the form that requests carry."""
        parameters = self._arguments.model_json_schema()
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}

    async def call(self, arguments: str) -> str:
        """The result for the model, as text: the function's, or what is wrong with the call.

        Errors of the function are told to the model. Cancellation, an exhausted budget, a missing binding and dead
        keys are not its business and pass through.
        """
        from pydantic import ValidationError

        try:
            values = self._arguments.model_validate_json(arguments or "{}")
        except ValidationError as error:
            return f"error: invalid arguments: {error.errors(include_url=False, include_context=False)}"
        given = {name: getattr(values, name) for name in type(values).model_fields}
        try:
            result = self._function(**given)
            if isinstance(result, Awaitable):
                result = await result
        except (BudgetError, BindingError, FatalError):
            raise
        except Exception as error:
            return f"error: {type(error).__name__}: {error}"
        return result if isinstance(result, str) else json.dumps(result, default=str, ensure_ascii=False)


def _argument_model(name: str, function: Callable[..., Any], injected: frozenset[str]) -> Any:
    try:
        from pydantic import ConfigDict, create_model
    except ImportError:
        raise MissingDependencyError("pydantic", "llm") from None
    fields: dict[str, Any] = {}
    try:
        signature = inspect.signature(function, eval_str=True)
    except (NameError, TypeError, ValueError) as error:
        raise ConfigurationError(f"tool {name}: its annotations cannot be read: {error}") from error
    for parameter in signature.parameters.values():
        if parameter.name in injected:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise ConfigurationError(
                f"tool {name}: *{parameter.name} cannot be described to a model; name its arguments"
            )
        kind = str if parameter.annotation is parameter.empty else parameter.annotation
        fields[parameter.name] = (kind, ... if parameter.default is parameter.empty else parameter.default)
    return create_model(name, __config__=ConfigDict(extra="forbid"), **fields)


@dataclass(frozen=True)
class AgentResult:
    """What an agent did.

    Attributes:
        response: the model's final answer.
        messages: the whole conversation, to be continued.
        rounds: requests to the model.
        tool_calls: tools run, in order, with their results.
    """

    response: LLMResponse
    messages: tuple[Message, ...]
    rounds: int
    tool_calls: tuple[tuple[ToolCall, str], ...]

    @property
    def content(self) -> str:
        return self.response.content

    def __str__(self) -> str:
        return self.content


Ask = Callable[[Sequence[Message]], Awaitable[Any]]


async def run_tool_loop(
    ask: Ask, messages: Sequence[Message], tools: Sequence[Tool], *, max_rounds: int = 8, max_tool_calls: int = 64
) -> AgentResult:
    """Ask, run the tools that the answer wants, and ask again, until an answer wants none.

    Args:
        ask: sends messages, with the tools described, and returns an :class:`LLMResponse`.
        messages: the conversation so far.
        tools: what may be called.
        max_rounds: most requests to the model.
        max_tool_calls: most tools run.

    Raises:
        ToolLoopError: a limit is reached; the note holds what was done so far.
    """
    by_name = {tool.name: tool for tool in tools}
    if len(by_name) < len(tools):
        raise ConfigurationError(f"two tools have one name: {[tool.name for tool in tools]}")
    conversation, done = list(messages), list[tuple[ToolCall, str]]()
    for number in range(1, max_rounds + 1):
        response: LLMResponse = await ask(conversation)
        conversation.append(response.message())
        if not response.tool_calls:
            return AgentResult(response, tuple(conversation), number, tuple(done))
        if len(done) + len(response.tool_calls) > max_tool_calls:
            raise ToolLoopError(f"the agent wants more than max_tool_calls={max_tool_calls} tool calls")
        results = await _run_tools(response.tool_calls, by_name)
        for call, result in zip(response.tool_calls, results, strict=True):
            done.append((call, result))
            conversation.append({"role": "tool", "tool_call_id": call.id, "content": result})
    raise ToolLoopError(f"the agent gave no answer within max_rounds={max_rounds} rounds ({len(done)} tool calls)")


async def _run_tools(calls: Sequence[ToolCall], tools: Mapping[str, Tool]) -> list[str]:
    async def one(call: ToolCall) -> str:
        tool = tools.get(call.name)
        if tool is None:
            return f"error: there is no tool {call.name!r}; there are: {', '.join(sorted(tools))}"
        return await tool.call(call.arguments)

    tasks = [asyncio.ensure_future(one(call)) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def make_llm_agent(
    model: str,
    tools: Sequence[Tool | Callable[..., Any]],
    *,
    system_prompt: str | None = None,
    name: str | None = None,
    max_rounds: int = 8,
    max_tool_calls: int = 64,
    retries: int | None = None,
    timeout_s: float | None = None,
    **default_kwargs: Any,
) -> LLMFunction[..., Any]:
    """A component that answers with the help of tools: ``await agent("question") -> AgentResult``.

    Args:
        model: an alias or a model.
        tools: hyperfunctions or functions.
        system_prompt: the component's text parameter ``prompt``.
        name: the component's name.
        max_rounds, max_tool_calls: limits of one answer.
        retries, timeout_s: limits of each model call.
        default_kwargs: as for :func:`~hyperfunc_llm.completion.make_llm_completion`.
    """
    known = [tool if isinstance(tool, Tool) else Tool(tool) for tool in tools]
    schemas = [tool.schema() for tool in known]

    async def agent(
        message: str | Sequence[Message], hp: LMParam | None = None, prompt: str | None = None
    ) -> AgentResult:
        messages = as_messages(message)
        if prompt:
            messages = [{"role": "system", "content": prompt}, *messages]

        async def ask(conversation: Sequence[Message]) -> Any:
            return await llm_completion.fn(model, conversation, hp, tools=schemas, **default_kwargs)

        return await run_tool_loop(ask, messages, known, max_rounds=max_rounds, max_tool_calls=max_tool_calls)

    return LLMFunction(
        agent,
        hp_type=LMParam,
        optimize_hparams=True,
        optimize_prompt=system_prompt is not None,
        prompt=system_prompt,
        name=name or "agent",
        retries=retries,
        timeout_s=timeout_s,
        aliases=(model,),
    )
