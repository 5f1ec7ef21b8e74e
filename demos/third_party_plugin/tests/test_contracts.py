"""All five things keep hyperfunc's contracts."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from hyperfunc_wordplay.csv_exporter import CSVExporter
from hyperfunc_wordplay.edit_similarity import EditSimilarity
from hyperfunc_wordplay.hill_climb import HillClimb
from hyperfunc_wordplay.ram_memory import RAMBackend
from hyperfunc_wordplay.second_thought import SecondThought

from hyperfunc.testing import (
    AgentCase,
    AgentTypeContract,
    ExporterCase,
    ExporterContract,
    MemoryBackendContract,
    ScorerCase,
    ScorerContract,
    StrategyContract,
)


class TestSecondThought(AgentTypeContract):
    @pytest.fixture
    def agent_case(self) -> AgentCase:
        async def run(text: str, draft: str | None) -> str:
            return text.upper() if draft is None else f"{draft}!"

        return AgentCase(SecondThought, run, [{"text": "one"}, {"text": "two"}])


class TestEditSimilarity(ScorerContract):
    @pytest.fixture
    def scorer_case(self) -> ScorerCase:
        return ScorerCase(EditSimilarity(), ("kitten", "kitten"), ("sitting", "kitten"))


class TestHillClimb(StrategyContract):
    @pytest.fixture
    def strategy(self) -> HillClimb:
        return HillClimb(population_size=20, block_size=8)


class TestRAMBackend(MemoryBackendContract):
    @pytest.fixture
    def memory_backend(self) -> Iterator[RAMBackend]:
        backend = RAMBackend()
        yield backend
        backend.close()


class TestCSVExporter(ExporterContract):
    @pytest.fixture
    def exporter_case(self, tmp_path: Path) -> ExporterCase:
        file = tmp_path / "calls.csv"

        def delivered() -> list[str]:
            with open(file, newline="", encoding="utf-8") as lines:
                return [row["fn_name"] for row in csv.DictReader(lines)]

        return ExporterCase(CSVExporter(file), delivered)
