"""What had to be materialised: operations that know no factored form, by name, for whoever runs the program.

The executor opens a collector around an evaluation and puts what it holds on its result. A collector logs each
operation once. It does not know which operations are factored, nor what a result looks like.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

__all__ = ["MaterialisationReport", "collect_materialisations", "record_materialisation"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class MaterialisationReport:
    """How often each operation made a factored weight dense, in order of first appearance.

    One count is one call in Python: a lifted block is one call for all of its members, and as many dense copies.
    """

    counts: dict[str, int] = field(default_factory=dict)  # operation -> calls
    labels: dict[str, set[str]] = field(default_factory=dict)  # operation -> parameters that it touched

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations' names, each once."""
        return tuple(self.counts)

    def record(self, operation: str, label: str) -> None:
        if operation not in self.counts:
            logger.warning(
                "%s has no factored form: %s is made dense for it, member by member (said once)",
                operation,
                repr(label) if label else "a perturbed weight",
            )
        self.counts[operation] = self.counts.get(operation, 0) + 1
        self.labels.setdefault(operation, set()).update({label} if label else ())


_active: ContextVar[MaterialisationReport | None] = ContextVar("hyperfunc_materialisations", default=None)


@contextmanager
def collect_materialisations() -> Iterator[MaterialisationReport]:
    """Collect what is materialised in this context (and in tasks and copied contexts started inside it)."""
    report = MaterialisationReport()
    token = _active.set(report)
    try:
        yield report
    finally:
        _active.reset(token)


def record_materialisation(operation: str, label: str) -> None:
    """Tell the active collector; without one, a debug line is all that is left."""
    report = _active.get()
    if report is None:
        logger.debug("%s has no factored form: %r is made dense for it", operation, label)
    else:
        report.record(operation, label)
