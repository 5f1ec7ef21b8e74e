"""What every exporter must do, as tests: override the fixture ``exporter_case``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from hyperfunc.observability.records import ObservationRecord, summarize
from hyperfunc.testing.contracts._values import copy_of

__all__ = ["ExporterCase", "ExporterContract", "sample_observations"]


@dataclass(frozen=True)
class ExporterCase:
    """An exporter and how to see what arrived.

    Attributes:
        exporter: new, nothing exported yet.
        delivered: names (``fn_name``) of the observations at the receiver after ``shutdown``, in any order. ``None``
            where that cannot be seen from here; the test is then skipped.
    """

    exporter: Any
    delivered: Callable[[], Sequence[str]] | None = None


def sample_observations() -> list[ObservationRecord]:
    """A run with a generation, nested calls, an error, a model call, events and awkward values."""

    def record(number: int, name: str, parent: int = 0, **more: Any) -> ObservationRecord:
        start = 1_800_000_000_000_000_000 + number * 1_000_000
        return ObservationRecord(
            name,
            "2027-01-15T08:00:00+00:00",
            0.001,
            trace_id=f"{1:032x}",
            span_id=f"{number:016x}",
            parent_id=f"{parent:016x}" if parent else "",
            start_ns=start,
            end_ns=start + 1_000_000,
            **more,
        )

    return [
        record(1, "run", kind="run", attributes={"hyperfunc.strategy": "snes"}),
        record(2, "generation", 1, kind="generation", attributes={"hyperfunc.best": 0.5, "hyperfunc.mean": "nan"}),
        record(3, "encode", 2, attributes={"text": 'Zürich "🙂"\n\t\x00', "empty": "", "flag": True, "list": ["a"]}),
        record(4, "judge", 3, success=False, error_type="ValueError", error_message="no <answer> & more"),
        record(
            5,
            "model",
            3,
            gen_ai_system="openai",
            gen_ai_request_model="m",
            gen_ai_usage_input_tokens=3,
            gen_ai_usage_output_tokens=2,
            cost_usd=0.0,
            events=[(1_800_000_000_005_500_000, "queue", {"value": 3}), (1_800_000_000_005_600_000, "retry", {})],
        ),
    ]


class ExporterContract:
    """Tests of one exporter."""

    @pytest.fixture
    def exporter_case(self) -> ExporterCase:
        """A new exporter. Override this."""
        raise NotImplementedError("override the fixture exporter_case with an ExporterCase")

    def test_batches_then_a_summary_then_the_end(self, exporter_case: ExporterCase) -> None:
        records = sample_observations()
        exporter_case.exporter.export(records[:2])
        exporter_case.exporter.export(records[2:], summarize(records, "session"))
        exporter_case.exporter.shutdown()

    def test_every_observation_arrives_once(self, exporter_case: ExporterCase) -> None:
        if exporter_case.delivered is None:
            pytest.skip("what arrived cannot be seen; give ExporterCase(delivered=...)")
        records = sample_observations()
        exporter_case.exporter.export(records[:2])
        exporter_case.exporter.export(())
        exporter_case.exporter.export(records[2:])
        exporter_case.exporter.shutdown()
        assert sorted(exporter_case.delivered()) == sorted(record.fn_name for record in records)

    def test_nothing_to_export_is_no_error(self, exporter_case: ExporterCase) -> None:
        exporter_case.exporter.export(())
        exporter_case.exporter.export([], summarize([], "empty"))
        exporter_case.exporter.shutdown()

    def test_the_end_may_come_first_and_twice(self, exporter_case: ExporterCase) -> None:
        exporter_case.exporter.shutdown()
        exporter_case.exporter.shutdown()

    def test_observations_are_left_alone(self, exporter_case: ExporterCase) -> None:
        records = sample_observations()
        before = copy_of(records)
        exporter_case.exporter.export(records, summarize(records))
        exporter_case.exporter.shutdown()
        assert records == before

    def test_it_works_in_a_thread_of_its_own(self, exporter_case: ExporterCase) -> None:
        errors: list[BaseException] = []

        def deliver() -> None:
            try:
                exporter_case.exporter.export(sample_observations())
                exporter_case.exporter.shutdown()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=deliver)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        assert errors == []
