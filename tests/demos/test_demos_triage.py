"""A prompt and weights are learned together, from requests that a real HTTP server counts."""

from __future__ import annotations

from pathlib import Path

from demos.triage import __main__ as triage


async def test_prompt_and_weights_improve_together(tmp_path: Path, capsys) -> None:
    result = await triage.main(12, 0, "joint", tmp_path, {"reader": None, "writer": None})
    shown = capsys.readouterr().out
    assert result.best_fitness > result.initial_fitness + 0.3
    assert any(g.accepted for g in result.history)
    assert "+Read the ticket and say what it says. " in shown
    assert {line.split()[0] for line in shown.splitlines() if line.startswith(("weights ", "prompt "))} == {
        "weights",
        "prompt",
    }
    assert result.usage.calls < 1500 < result.evaluations
    assert (tmp_path / "export" / "prompts" / "ReadTicket.prompt.txt").read_text() == result.theta["ReadTicket.prompt"]
