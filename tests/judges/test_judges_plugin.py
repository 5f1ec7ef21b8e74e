"""The plugin: light to load, complete in its names."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hyperfunc_judges
from hyperfunc import Example, HyperSystem
from hyperfunc.errors import ConfigurationError
from hyperfunc.evaluation import Scorer
from hyperfunc_judges import plugin


def test_loading_the_plugin_loads_no_torch():
    program = "import sys, hyperfunc_judges.plugin; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=120, check=False).returncode == 0


def test_every_public_name_exists_where_the_table_says():
    assert hyperfunc_judges.__all__ == sorted(hyperfunc_judges.__all__)
    assert set(hyperfunc_judges.__all__) == set(hyperfunc_judges._MODULES)
    for name in hyperfunc_judges.__all__:
        thing = getattr(hyperfunc_judges, name)
        module = sys.modules[f"hyperfunc_judges.{hyperfunc_judges._MODULES[name]}"]
        assert name in module.__all__
        assert thing is getattr(module, name)
    assert set(hyperfunc_judges.__all__) <= set(dir(hyperfunc_judges))
    with pytest.raises(AttributeError, match="LLMJugde"):
        _ = hyperfunc_judges.LLMJugde


def test_registered_names_are_scorers_of_this_plugin():
    registered = {}
    plugin.hyperfunc_register_scorers(registered.__setitem__)
    assert registered["llm-judge"] == "hyperfunc_judges:LLMJudge"
    for target in registered.values():
        package, _, attribute = target.partition(":")
        assert package == "hyperfunc_judges"
        assert callable(getattr(hyperfunc_judges, attribute).score)
    assert isinstance(hyperfunc_judges.LLMJudge(), Scorer)


async def test_a_judge_that_needs_more_than_its_name_says_so() -> None:
    with pytest.raises(
        ConfigurationError, match=r"the scorer 'rubric-judge' cannot be made with no arguments: .*it takes"
    ):
        await HyperSystem().evaluate([Example({"x": 1}, 1)], "rubric-judge")
