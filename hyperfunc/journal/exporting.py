"""A run as a folder of plain files that need no hyperfunc to be read: JSON, JSON lines, safetensors."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from hyperfunc.errors import JournalError
from hyperfunc.journal.history import JournalHistory
from hyperfunc.journal.records import TracedCall
from hyperfunc.parameters.files import save_theta
from hyperfunc.usage import Usage

__all__ = ["export_run"]


def export_run(history: JournalHistory, name: str, folder: str | os.PathLike[str], *, results: bool = True) -> Path:
    """Write a run to ``folder``, which must not exist; it appears whole or not at all.

    Files: ``run.json``, ``generations.jsonl``, ``candidates.jsonl``, ``scores.jsonl``, ``events.jsonl``,
    ``traces.jsonl``, ``paid_calls.jsonl``, and ``initial`` and ``best`` parameters as safetensors and JSON.

    Args:
        results: write the replies of paid calls too.

    Raises:
        JournalError: there is no such run, ``folder`` exists, or it cannot be written.
    """
    target = Path(folder)
    if target.exists():
        raise JournalError(f"{target} already exists; export to a new folder")
    run = history.run(name)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir(parents=True)
        _write_json(temporary / "run.json", run)
        generations = history.generations(name)
        _write_lines(temporary / "generations.jsonl", generations)
        _write_lines(temporary / "candidates.jsonl", history.candidates(name))
        _write_lines(temporary / "scores.jsonl", history.scores(name))
        _write_lines(temporary / "events.jsonl", history.events(name))
        _write_lines(temporary / "traces.jsonl", history.traces(name))
        _write_lines(temporary / "paid_calls.jsonl", _calls(history, run.id, results))
        first = next((g.theta for g in generations if g.theta is not None), None)
        if first is not None:
            save_theta(history.load_theta(first), temporary / "initial")
        if first is not None or run.best_theta is not None:
            save_theta(history.best_theta(name), temporary / "best")
        os.replace(temporary, target)
    except OSError as error:
        raise JournalError(f"cannot export to {target}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _calls(history: JournalHistory, run_id: int, results: bool) -> Iterable[dict[str, Any]]:
    rows = history.read(
        lambda connection: connection.execute(
            "SELECT sequence, key, kind, component, usage, created_at, times_paid, CASE WHEN ? THEN result END "
            "FROM paid_calls WHERE run_id = ? ORDER BY sequence",
            (results, run_id),
        ).fetchall()
    )
    for sequence, key, kind, component, usage, created_at, times_paid, result in rows:
        call = {
            "sequence": sequence,
            "key": key,
            "kind": kind,
            "component": component,
            "usage": json.loads(usage),
            "created_at": created_at,
            "times_paid": times_paid,
        }
        yield {**call, "result": json.loads(result)} if result is not None else call


def _plain(value: Any) -> Any:
    if isinstance(value, (Usage, TracedCall)):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(item) for name, item in ((f, getattr(value, f)) for f in value.__dataclass_fields__)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(_plain(value), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_lines(path: Path, values: Iterable[Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for value in values:
            file.write(json.dumps(_plain(value), sort_keys=True) + "\n")
