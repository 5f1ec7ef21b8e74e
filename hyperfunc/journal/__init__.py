"""What runs did, kept so that a killed run goes on and pays for nothing twice; see :class:`Journal`.

Names are imported at first use, so that commands which only read a journal start without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperfunc.lazy import lazy_names

if TYPE_CHECKING:  # what the table below says, for type checkers and editors
    from hyperfunc.journal.calls import JournalCallStore as JournalCallStore
    from hyperfunc.journal.fingerprint import Fingerprint as Fingerprint
    from hyperfunc.journal.fingerprint import fingerprint_data as fingerprint_data
    from hyperfunc.journal.fingerprint import fingerprint_program as fingerprint_program
    from hyperfunc.journal.fingerprint import fingerprint_system as fingerprint_system
    from hyperfunc.journal.journal import Journal as Journal
    from hyperfunc.journal.records import CandidateRecord as CandidateRecord
    from hyperfunc.journal.records import EventRecord as EventRecord
    from hyperfunc.journal.records import GenerationRecord as GenerationRecord
    from hyperfunc.journal.records import PaidCallRecord as PaidCallRecord
    from hyperfunc.journal.records import ResumePoint as ResumePoint
    from hyperfunc.journal.records import RunHandle as RunHandle
    from hyperfunc.journal.records import RunRecord as RunRecord
    from hyperfunc.journal.records import ScoreRecord as ScoreRecord

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
    "fingerprint_system",
]

__getattr__ = lazy_names(
    __name__,
    {
        "hyperfunc.journal.calls": ["JournalCallStore"],
        "hyperfunc.journal.fingerprint": [
            "Fingerprint",
            "fingerprint_data",
            "fingerprint_program",
            "fingerprint_system",
        ],
        "hyperfunc.journal.journal": ["Journal"],
        "hyperfunc.journal.records": [
            "CandidateRecord",
            "EventRecord",
            "GenerationRecord",
            "PaidCallRecord",
            "ResumePoint",
            "RunHandle",
            "RunRecord",
            "ScoreRecord",
        ],
    },
)
