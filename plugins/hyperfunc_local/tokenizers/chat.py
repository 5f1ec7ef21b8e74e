"""Chat templates: a conversation as one prompt, through the model's own Jinja template in a sandbox.

Templates come with downloaded models: the sandbox has no access to Python objects, and what a template raises on
purpose (``raise_exception``) becomes a :class:`TokenizerError`. Knows nothing of tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from hyperfunc.errors import MissingDependencyError
from hyperfunc_local.errors import TokenizerError

__all__ = ["DEFAULT_TEMPLATE", "ChatTemplate"]

DEFAULT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""For models without a template of their own: plain role headings."""


class ChatTemplate:
    """A compiled template.

    Args:
        source: Jinja source, as in ``tokenizer_config.json``.
        names: special tokens that templates use by name (``bos_token``, ``eos_token``).

    Raises:
        MissingDependencyError: Jinja is not installed.
        TokenizerError: the source is no valid template.
    """

    def __init__(self, source: str = DEFAULT_TEMPLATE, names: Mapping[str, str] | None = None) -> None:
        try:
            import jinja2
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError:
            raise MissingDependencyError("jinja2", "local") from None
        self.source = source
        self.names = dict(names or {})
        self._error: type[Exception] = jinja2.TemplateError
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise TokenizerError(f"the chat template is no valid Jinja template: {error}") from error

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """The conversation as one text.

        Raises:
            TokenizerError: the template refuses these messages.
        """
        try:
            return self._template.render(
                messages=[dict(m) for m in messages],
                add_generation_prompt=add_generation_prompt,
                **{**self.names, **variables},
            )
        except self._error as error:
            raise TokenizerError(f"the chat template refuses this conversation: {error}") from error
        except (TypeError, AttributeError, KeyError, IndexError, ValueError, ArithmeticError, RecursionError) as error:
            raise TokenizerError(f"the chat template fails on this conversation: {error}") from error


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _refuse(message: str) -> None:
    raise TokenizerError(message)
