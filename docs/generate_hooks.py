"""Writes docs/hooks.md from hyperfunc/hookspecs.py, which stays the only place where a hook is described.

python docs/generate_hooks.py           # write the page
python docs/generate_hooks.py --check   # exit 1 if the page is stale, or a hook has no description
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hyperfunc import hookspecs

__all__ = ["hooks", "page", "undocumented"]

PAGE = Path(__file__).with_name("hooks.md")
REGISTER = "hyperfunc_register_"

EXAMPLE = """\
```python
from hyperfunc import Example, HyperSystem, ScoreResult, hookimpl
from hyperfunc.plugins import load_plugins, use_plugins


class Politeness:
    def score(self, output, expected, inputs=None):
        return ScoreResult(float("please" in output))


class MyPlugin:
    @hookimpl
    def hyperfunc_register_scorers(self, register):
        register("politeness", Politeness)


class Program(HyperSystem):
    async def run(self, name):
        return f"please sit down, {name}"


with use_plugins(load_plugins([("my-plugin", MyPlugin())])):  # or an entry point, see below
    assert await Program().evaluate([Example({"name": "Anna"}, None)], "politeness") == 1.0
```

A package brings its plugin by an entry point, which names a light module:

```toml
[project.entry-points.hyperfunc]
my-plugin = "my_package.plugin"
```

`hyperfunc plugins` lists what is installed and what it provides; `hyperfunc plugins doctor` imports all of it.
`HYPERFUNC_LOAD_PLUGINS`, `HYPERFUNC_DISABLE_PLUGINS` (names, separated by commas) choose among them, and
`HYPERFUNC_STRICT_PLUGINS=1` makes the first broken one an error.
"""


def hooks() -> list[tuple[str, Callable[..., Any]]]:
    """Every hook, in the order of the file."""
    return [(n, f) for n, f in vars(hookspecs).items() if hasattr(f, f"{hookspecs.PROJECT}_spec")]


def undocumented() -> list[str]:
    """Hooks whose docstring does not begin with when they fire, or that leave an argument of an event unexplained."""
    missing = []
    for name, hook in hooks():
        text = inspect.getdoc(hook) or ""
        described = text.partition("Args:")[2]
        arguments = [] if name.startswith(REGISTER) else list(inspect.signature(hook).parameters)
        if not text.startswith("Fires ") or not all(re.search(rf"\b{a}\b", described) for a in arguments):
            missing.append(name)
    return missing


def _as_markdown(text: str) -> str:
    """A docstring's reStructuredText, as far as this project uses it."""
    text = re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", text)
    return re.sub(r"``(.+?)``", r"`\1`", text, flags=re.S)


def _entry(name: str, hook: Callable[..., Any]) -> str:
    summary, _, arguments = (inspect.getdoc(hook) or "").partition("\n\nArgs:\n")
    arguments = inspect.cleandoc(arguments) if arguments else ""
    lines = [f"### `{name}({', '.join(inspect.signature(hook).parameters)})`", "", _as_markdown(summary)]
    if arguments:
        items = re.findall(r"^(\w[\w, ]*): (.+(?:\n +.+)*)", arguments, re.M)
        lines += ["", *(f"- `{names}`: {_as_markdown(' '.join(said.split()))}" for names, said in items)]
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    introduction = _as_markdown(inspect.getdoc(hookspecs) or "")
    register = [_entry(n, f) for n, f in hooks() if n.startswith(REGISTER)]
    events = [_entry(n, f) for n, f in hooks() if not n.startswith(REGISTER)]
    return (
        "\n\n".join(
            [
                "# Hooks",
                "<!-- Written by docs/generate_hooks.py from hyperfunc/hookspecs.py; do not edit. -->",
                introduction,
                EXAMPLE.strip(),
                "## Registering things",
                *register,
                "## Run events",
                *events,
            ]
        )
        + "\n"
    )


def main() -> int:
    missing = undocumented()
    if missing:
        print(f"without a description that begins with 'Fires …': {', '.join(missing)}", file=sys.stderr)
        return 1
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page(), "utf-8")
        return 0
    if not PAGE.is_file() or PAGE.read_text("utf-8") != page():
        print("docs/hooks.md is stale; run: python docs/generate_hooks.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
