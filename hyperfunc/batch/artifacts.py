"""Results of a batch as JSON lines, so that a killed run does not start again from nothing.

One line per finished input; the newest line of a key counts. A line that was being written when the process died (the
last one, without its newline) is dropped; anything malformed before that is an error, since then something else wrote
here. Inputs themselves are not written, only the hash of input and identity.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from hyperfunc.batch.results import BatchResult, FatalError
from hyperfunc.calls import content_key
from hyperfunc.errors import ConfigurationError, ExecutionError, JournalError
from hyperfunc.usage import Usage

__all__ = ["Artifacts", "ReplayedError"]

_log = logging.getLogger(__name__)
_HEADER = {"format": "hyperfunc-batch", "version": 1}


class ReplayedError(ExecutionError):
    """A failure read back from artifacts; ``kind`` is the name of the original exception type."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(f"{kind}: {message}")


@dataclass
class Artifacts:
    """Where a batch writes its results and finds those of earlier runs.

    Args:
        path: the JSON-lines file; made when missing.
        identity: everything beside the input that the output depends on: θ's hash, model, settings, seed. Other
            identity, other keys: nothing is reused.
        reuse: which earlier results stand: ``"successes"``, ``"all"`` (failures too) or ``"none"``.
        key: makes the JSON value that stands for an input; by default the input itself.
        encode, decode: output to JSON value and back.
    """

    path: str | Path
    identity: Mapping[str, Any] = field(default_factory=dict)
    reuse: Literal["successes", "all", "none"] = "successes"
    key: Callable[[Any], Any] | None = None
    encode: Callable[[Any], Any] | None = None
    decode: Callable[[Any], Any] | None = None

    def open(self) -> OpenArtifacts:
        """Read what is there and continue it.

        Raises:
            JournalError: the file is malformed before its last line.
        """
        return OpenArtifacts(self)


class OpenArtifacts:
    """An open artifacts file: look up, append, close."""

    def __init__(self, settings: Artifacts) -> None:
        self._settings = settings
        self._path = Path(settings.path)
        self._occurrences: Counter[str] = Counter()
        self._complained = False
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._known, end = _read(self._path)
        self._file: BinaryIO = self._path.open("r+b" if self._path.exists() else "wb")
        self._file.truncate(end)
        self._file.seek(end)
        if end == 0:
            self._write(_HEADER)

    def key(self, item: Any) -> str:
        """The key of this input; the n-th equal input of a batch has a key of its own."""
        value = item if self._settings.key is None else self._settings.key(item)
        try:
            base = content_key("batch", {"input": value, "identity": dict(self._settings.identity)})
        except TypeError as error:
            raise ConfigurationError(
                f"artifacts: the input {item!r:.80} (or the identity) is no JSON value ({error}); "
                "give Artifacts(key=...) a function that makes one"
            ) from error
        self._occurrences[base] += 1
        return f"{base}-{self._occurrences[base]}"

    def find(self, key: str, index: int, item: Any) -> BatchResult[Any, Any] | None:
        """The earlier result that stands for this key, or ``None``."""
        line = self._known.get(key)
        if line is None or self._settings.reuse == "none" or not line.get("stored", True):
            return None
        if not line["ok"] and self._settings.reuse != "all":
            return None
        usage = Usage.from_dict(line["usage"])
        if not line["ok"]:
            error = ReplayedError(line["error"]["kind"], line["error"]["message"])
            return BatchResult(index, item, error=error, usage=usage, replayed=True)
        output = line["output"] if self._settings.decode is None else self._settings.decode(line["output"])
        return BatchResult(index, item, output=output, usage=usage, replayed=True)

    def append(self, key: str, result: BatchResult[Any, Any]) -> None:
        """Write a result; when this returns it survives the death of the process (not of the machine)."""
        line: dict[str, Any] = {"key": key, "index": result.index, "ok": result.ok, "usage": result.usage.to_dict()}
        line["seconds"] = result.seconds
        if result.error is not None:
            line["error"] = {"kind": type(result.error).__name__, "message": str(result.error)}
            # What stopped the batch says nothing about this input.
            line["stored"] = not isinstance(result.error, FatalError)
        else:
            line["output"] = result.output if self._settings.encode is None else self._settings.encode(result.output)
        try:
            self._write(line)
        except TypeError as error:
            self._write({**line, "output": None, "stored": False})
            if not self._complained:
                self._complained = True
                _log.warning(
                    "%s: outputs are no JSON values (%s) and cannot be replayed; use encode=", self._path, error
                )

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _read(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Lines by key, and the length of the file up to the last whole line."""
    known: dict[str, dict[str, Any]] = {}
    if not path.exists():
        return known, 0
    end = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.endswith(b"\n"):
                break
            try:
                line = json.loads(raw)
                if number == 1 and line != _HEADER:
                    raise ValueError("no header of ours")
                if number > 1:
                    known[line["key"]] = line
            except (ValueError, KeyError, TypeError) as error:
                raise JournalError(
                    f"{path}: line {number} is no batch result ({error}); move the file away or repair it"
                ) from error
            end += len(raw)
    return known, end
