"""What this plugin registers. Imports nothing heavy."""

from __future__ import annotations

from hyperfunc.hookspecs import Register, hookimpl

__all__: list[str] = []


@hookimpl
def hyperfunc_register_scorers(register: Register) -> None:
    for name, attribute in {
        "llm-judge": "LLMJudge",
        "summarization-judge": "SummarizationJudge",
        "code-correctness-judge": "CodeCorrectnessJudge",
        "conversation-judge": "ConversationJudge",
        "factual-accuracy-judge": "FactualAccuracyJudge",
        "instruction-following-judge": "InstructionFollowingJudge",
        "rubric-judge": "RubricJudge",
        "preference-judge": "PreferenceJudge",
        "verifier": "Verifier",
        "human-feedback": "HumanFeedback",
        "human-rubric": "HumanRubric",
        "human-preference": "HumanPreference",
    }.items():
        register(name, f"hyperfunc_judges:{attribute}")
