"""The prompt demo finds the failing prompt and teaches it the house's rules."""

from __future__ import annotations

from demos.prompt_tuning.__main__ import curve, tune
from demos.prompt_tuning.model import KINDS, running
from hyperfunc_prompts import PromptSearchResult


async def test_the_failing_prompt_learns_every_rule_and_the_other_stays() -> None:
    with running() as provider:
        tuned = await tune(provider)
    assert tuned.blame.order[0] == "decide"
    assert tuned.blame["extract"].effect == 0
    assert tuned.before < 0.4
    assert tuned.after == 1
    text = str(tuned.result.export()["decide.prompt"])
    assert all(f"If the kind is {kind}: {action}." in text.splitlines() for kind, action in KINDS.items())
    assert "extract" not in tuned.result.diff()
    assert provider.requests["reflect"] <= 12
    # Every request is paid once, and the calls of a run are those of the three models.
    assert set(provider.requests) == {"extract", "decide", "reflect"}
    check_curve(tuned.result)


def check_curve(result: PromptSearchResult) -> None:
    lines = curve(result).splitlines()
    assert lines[0].split()[0] == "0"
    assert lines[-1].split()[1] == "1.00"
    accepted = [float(line.split()[1]) for line in lines if line.endswith("accepted")]
    assert accepted == sorted(accepted)
