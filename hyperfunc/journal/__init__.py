"""What runs did, kept so that a killed run goes on and pays for nothing twice; see :class:`Journal`."""

from __future__ import annotations

from hyperfunc.journal.calls import JournalCallStore
from hyperfunc.journal.fingerprint import Fingerprint, fingerprint_data, fingerprint_program
from hyperfunc.journal.journal import Journal
from hyperfunc.journal.records import (
    CandidateRecord,
    EventRecord,
    GenerationRecord,
    PaidCallRecord,
    ResumePoint,
    RunHandle,
    RunRecord,
    ScoreRecord,
)

__all__ = [
    "CandidateRecord",
    "EventRecord",
    "Fingerprint",
    "GenerationRecord",
    "Journal",
    "JournalCallStore",
    "PaidCallRecord",
    "ResumePoint",
    "RunHandle",
    "RunRecord",
    "ScoreRecord",
    "fingerprint_data",
    "fingerprint_program",
]
