"""Fingerprints of programs and data: what counts as a change, what does not, and how a change is named."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from hyperfunc.errors import JournalError
from hyperfunc.evaluation.example import Example
from hyperfunc.function import hyperfunction
from hyperfunc.journal.fingerprint import Fingerprint, fingerprint_data, fingerprint_program
from hyperfunc.system import HyperSystem

BASE = """
import math
from hyperfunc.function import hyperfunction
from hyperfunc.system import HyperSystem

LIMIT = 3
WORDS = {"a": [1, 2]}

def helper(x):
    return math.floor(x) + LIMIT

def unused(x):
    return x

class Tool:
    def use(self, x):
        return helper(x)

@hyperfunction
async def answer(question: str) -> str:
    '''Answer briefly.'''
    return question + str(WORDS)

class Program(HyperSystem):
    def __init__(self, depth=2):
        super().__init__()
        self.depth = depth
        self.tools = [Tool()]

    async def run(self, question):
        # a comment
        reply = await answer(question)
        return self.tools[0].use(len(reply))
"""


def load(folder: Path, text: str, name: str = "fingerprinted") -> ModuleType:
    path = folder / f"{name}_{abs(hash(text))}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where inspect finds the source of a class
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _forget_loaded_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fingerprinted", None)


def changes(folder: Path, old: str, new: str) -> list[str]:
    assert old in BASE
    before = fingerprint_program(load(folder, BASE).Program())
    return before.diff(fingerprint_program(load(folder, BASE.replace(old, new)).Program()))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("math.floor(x) + LIMIT", "math.ceil(x) + LIMIT", "function helper changed"),
        ("LIMIT = 3", "LIMIT = 4", "constant LIMIT changed"),
        ('"a": [1, 2]', '"a": [1, 3]', "constant WORDS changed"),
        ("Answer briefly.", "Answer at length.", "function answer changed"),
        ("question + str(WORDS)", "question + str(WORDS) + '!'", "function answer changed"),
        ("return helper(x)", "return -helper(x)", "class Tool changed"),
        ("depth=2", "depth=3", "constant Program.depth changed"),
        ("use(len(reply))", "use(len(reply) + 1)", "class Program changed"),
    ],
)
def test_every_change_of_meaning_is_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    lines = changes(tmp_path, old, new)
    assert any(line.startswith(named) for line in lines), lines


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# a comment", "# another one"),
        ("return math.floor(x) + LIMIT", "return (math.floor( x )\n        + LIMIT)"),
        ("def unused(x):\n    return x", "def unused(x):\n    return -x"),
    ],
)
def test_comments_formatting_and_unused_code_do_not_count(tmp_path: Path, old: str, new: str) -> None:
    assert changes(tmp_path, old, new) == []


def test_classes_without_source_are_what_their_attributes_are() -> None:
    def make(body: str) -> Any:
        names: dict[str, Any] = {"__name__": "typed_in"}
        exec(f"class Typed:\n{body}", names)
        return names["Typed"]

    bodies = ["    limit = 3\n    def f(self): return 1", "    limit = 4\n    def f(self): return 1"]
    bodies += ["    limit = 3\n    def f(self): return 2"]
    assert len({fingerprint_program(make(body)).hash for body in [*bodies, bodies[0]]}) == 3


def test_a_change_shows_the_lines(tmp_path: Path) -> None:
    (line,) = changes(tmp_path, "math.floor(x) + LIMIT", "math.ceil(x) + LIMIT")
    assert "-    return math.floor(x) + LIMIT" in line
    assert "+    return math.ceil(x) + LIMIT" in line


def test_it_is_the_same_in_another_process(tmp_path: Path) -> None:
    text = BASE + "\n\nFLAGS = {'x', 'y', 'z'}\n\ndef entry(x):\n    return x in {'p', 'q', 'r'} and FLAGS\n"
    text += "\nparts = (Program(), entry, (lambda y: y in {'s', 't', 'u'}))\n"
    (tmp_path / "program.py").write_text(text)
    script = textwrap.dedent(
        """
        import sys; sys.path.insert(0, sys.argv[1])
        import program
        from hyperfunc.journal.fingerprint import fingerprint_program
        print(fingerprint_program(*program.parts).hash)
        """
    )
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"  # sets are ordered otherwise there
    other = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert other == fingerprint_program(*load(tmp_path, text).parts).hash


def test_json_keeps_it(tmp_path: Path) -> None:
    fingerprint = fingerprint_program(load(tmp_path, BASE).Program())
    again = Fingerprint.from_json(fingerprint.to_json())
    assert again.hash == fingerprint.hash
    assert fingerprint.diff(again) == []


def scaled(x: float, *, by: float) -> float:
    return x * by


def test_partials_closures_defaults_and_lambdas_count() -> None:
    def closure(factor: float) -> Any:
        return lambda x: x * factor

    def default(x: float, factor: float = 2.0) -> float:
        return x * factor

    pairs: list[tuple[Any, Any]] = [
        (functools.partial(scaled, by=1.0), functools.partial(scaled, by=2.0)),
        (closure(1.0), closure(2.0)),
        (lambda x: x + 1, lambda x: x + 2),
    ]
    for one, other in pairs:
        assert fingerprint_program(one).diff(fingerprint_program(other))
        assert not fingerprint_program(one).diff(fingerprint_program(one))
    before = fingerprint_program(default)
    default.__defaults__ = (3.0,)
    assert before.diff(fingerprint_program(default))


def test_modules_count_by_structure_not_by_weights() -> None:
    def system(width: int) -> HyperSystem:
        made = HyperSystem()
        made.layer = hyperfunction(optimize_hparams=True)(torch.nn.Linear(3, width))  # type: ignore[attr-defined]
        return made

    same = fingerprint_program(system(4)).diff(fingerprint_program(system(4)))
    assert same == []  # fresh random weights: θ says what they were
    assert fingerprint_program(system(4)).diff(fingerprint_program(system(5)))


def test_cycles_and_objects_that_cannot_be_hashed_are_no_trouble() -> None:
    @dataclass
    class Node:
        name: str
        other: Any = None

    one = Node("one")
    one.other = one
    system = HyperSystem()
    system.node = one  # type: ignore[attr-defined]
    system.handle = open(__file__)  # type: ignore[attr-defined] # noqa: SIM115
    system.itself = [system]  # type: ignore[attr-defined]
    before = fingerprint_program(system)
    one.name = "two"
    assert [line.partition(" changed")[0] for line in before.diff(fingerprint_program(system))] == [
        "constant HyperSystem.node.name"
    ]
    system.handle.close()  # type: ignore[attr-defined]


def test_attributes_can_be_left_out() -> None:
    one, other = HyperSystem(), HyperSystem()
    other.prompt_optimizer = {"model": "big"}
    assert fingerprint_program(one).diff(fingerprint_program(other))
    leave_out = ["prompt_optimizer"]
    left_out = fingerprint_program(one, leave_out=leave_out).diff(fingerprint_program(other, leave_out=leave_out))
    assert left_out == []


def test_data_changes_are_named_by_position() -> None:
    examples = [Example({"x": torch.tensor([float(i)])}, i) for i in range(4)]
    before = fingerprint_data(train=examples, validation=None)
    changed = [*examples[:2], examples[2].replace(expected=9), examples[3], Example({"x": 1}, 1)]
    assert before.diff(fingerprint_data(train=changed)) == ["examples changed: train[2]", "examples added: train[4]"]
    assert before.diff(fingerprint_data(train=list(examples))) == []
    assert before.diff(fingerprint_data(train=examples, validation=examples[:1])) == ["examples added: validation[0]"]


def test_large_data_is_told_apart_in_chunks() -> None:
    before = fingerprint_data(train=list(range(2500)))
    assert sorted(before.parts) == ["train[0:1000]", "train[1000:2000]", "train[2000:2500]"]
    changed = list(range(2500))
    changed[1700] = -1
    assert before.diff(fingerprint_data(train=changed)) == ["examples changed: train[1000:2000]"]


def test_examples_without_content_or_id_are_refused() -> None:
    with pytest.raises(JournalError, match="example 1 of 'train'"):
        fingerprint_data(train=[1, object()])
    named = [Example({"x": object()}, None, id="a")]
    assert fingerprint_data(train=named).hash == fingerprint_data(train=[Example({"x": object()}, None, id="a")]).hash


VALUES = """
import enum
import functools
from dataclasses import dataclass

import numpy as np
import torch

KIND = torch.float32

class Mode(enum.Enum):
    FAST = 1

@dataclass(frozen=True)
class Rule:
    limit: int = 2

    def holds(self, x):
        return x > self.limit

@dataclass(slots=True)
class Slotted:
    rule: object
    lock: object

class Holder:
    def __init__(self):
        self.act = torch.tanh
        self.norm = torch.nn.functional.normalize
        self.kind = KIND
        self.ufunc = np.tanh
        self.make = functools.partial(torch.optim.RMSprop, lr=0.01)
        self.mode = Mode.FAST
        self.rules = [Rule(2)]
        self.slotted = Slotted({3}, object())
"""


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("torch.tanh", "torch.relu", "object Holder.act changed: was"),
        ("functional.normalize", "functional.softmax", "object Holder.norm changed: was"),
        ("torch.float32", "torch.float64", "constant KIND changed: was torch.float32"),
        ("np.tanh", "np.exp", "object Holder.ufunc changed: was"),
        ("RMSprop", "SGD", "object Holder.make changed: was torch.optim.rmsprop.RMSprop, is torch.optim.sgd.SGD"),
        ("FAST = 1", "FAST = 2", "class Mode changed"),
        ("x > self.limit", "x >= self.limit", "class Rule changed"),
        ("Rule(2)", "Rule(3)", "constant Holder.rules changed"),
        ("Slotted({3}", "Slotted({4}", "constant Holder.slotted.rule changed"),
    ],
)
def test_values_count_by_what_they_are_and_by_what_they_do(tmp_path: Path, old: str, new: str, named: str) -> None:
    assert old in VALUES
    before = fingerprint_program(load(tmp_path, VALUES).Holder())
    lines = before.diff(fingerprint_program(load(tmp_path, VALUES.replace(old, new)).Holder()))
    assert any(named in line for line in lines), lines


def test_texts_come_back_as_they_were() -> None:
    whole = fingerprint_program(functools.partial(max, 1))
    assert Fingerprint.from_texts(whole.texts()).hash == whole.hash
    assert Fingerprint.from_texts(whole.texts()).diff(whole) == []
