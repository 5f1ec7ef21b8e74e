"""Two texts as HTML with what went struck out and what came underlined, word by word."""

from __future__ import annotations

import difflib
import json
import re
from html import escape
from typing import Any

__all__ = ["text_diff"]

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")


def text_diff(before: Any, after: Any) -> str:
    """A ``pre`` element; values that are not texts are compared as indented JSON, ``None`` as nothing."""
    old, new = _text(before), _text(after)
    # Words of one line are compared with words of the other; whole lines first keeps long prompts legible and fast.
    old_lines, new_lines = old.splitlines(keepends=True), new.splitlines(keepends=True)
    parts = []
    matcher = difflib.SequenceMatcher(None, old_lines, new_lines, autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            parts.append(escape("".join(old_lines[a:b])))
        else:
            parts.append(_words("".join(old_lines[a:b]), "".join(new_lines[c:d])))
    return f'<pre class="diff">{"".join(parts)}</pre>'


def _words(before: str, after: str) -> str:
    old, new = _WORDS.findall(before), _WORDS.findall(after)
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    if matcher.ratio() < 0.3:  # a confetti of chance matches tells less than the two texts
        return _mark("del", before) + _mark("ins", after)
    parts = []
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            parts.append(escape("".join(old[a:b])))
        else:
            parts.append(_mark("del", "".join(old[a:b])) + _mark("ins", "".join(new[c:d])))
    return "".join(parts)


def _mark(tag: str, text: str) -> str:
    return f"<{tag}>{escape(text)}</{tag}>" if text else ""


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
