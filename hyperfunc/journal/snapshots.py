"""Tensors and texts in files named by their content, one safetensors file each.

A file appears whole or not at all, and equal content is written once. What was damaged on disk is noticed when it is
read. Knows nothing of runs: who refers to a snapshot is in the journal's tables.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hyperfunc.errors import JournalError
from hyperfunc.journal.headers import snapshot_path, unreadable

__all__ = ["Snapshot", "SnapshotStore"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Named tensors and JSON values."""

    tensors: Mapping[str, Tensor]
    values: Any


def _content_key(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{len(name)}:{name}{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    digest.update(f"J{len(text)}:{text}".encode())
    return digest.hexdigest()


class SnapshotStore:
    """A folder of snapshots.

    Args:
        folder: made when the first snapshot is saved.
        sync: flush each file to the disk before it gets its name.
    """

    def __init__(self, folder: Path, *, sync: bool = False) -> None:
        self._folder = folder
        self._sync = sync

    def path(self, key: str) -> Path:
        """Where the snapshot ``key`` is, or would be."""
        return snapshot_path(self._folder, key)

    def save(self, tensors: Mapping[str, Tensor], values: Any = None) -> str:
        """Keep the content and return its key, 64 hex digits. Safe from several threads and processes.

        Args:
            tensors: of any device and dtype, each at least one name; copied, never changed.
            values: JSON values.

        Raises:
            JournalError: ``values`` is not JSON, or the file cannot be written.
        """
        try:
            text = json.dumps(values, sort_keys=True)  # ASCII: lone surrogates survive it
        except (TypeError, ValueError) as error:
            raise JournalError(f"a snapshot's values must be JSON values: {error}") from error
        flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        key = _content_key(flat, text)
        path = self.path(key)
        if path.exists():
            os.utime(path)  # a prune in another process spares what was just used
            return key
        # Tied tensors share storage, which the format refuses; a copy of each is what content means here.
        content = save({name: tensor.clone() for name, tensor in flat.items()}, metadata={"hyperfunc": text})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(path, content)
        except OSError as error:
            raise JournalError(f"cannot write the snapshot {path}: {error}") from error
        return key

    def load(self, key: str) -> Snapshot:
        """The content of ``key``.

        Raises:
            JournalError: it is missing, or is not what was saved.
        """
        path = self.path(key)
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
                text = (file.metadata() or {})["hyperfunc"]
        except (OSError, KeyError, SafetensorError) as error:
            raise unreadable(path, error) from error
        if _content_key(tensors, text) != key:
            raise JournalError(f"the snapshot {path} is damaged: its content does not match its name; restore a backup")
        return Snapshot(tensors, json.loads(text))

    def remove_unreferenced(self, referenced: Collection[str], *, grace_seconds: float) -> int:
        """Delete files that nobody refers to and that are older than ``grace_seconds``; returns the bytes freed.

        The grace spares what another process has written and is about to refer to.
        """
        freed = 0
        newest = time.time() - grace_seconds
        for path in sorted(self._folder.glob("*/*")):
            key = path.name.removesuffix(".safetensors")
            try:
                status = path.stat()
                if key in referenced or status.st_mtime > newest:
                    continue
                path.unlink()
            except FileNotFoundError:  # another prune was faster
                continue
            freed += status.st_size
        return freed

    def _write(self, path: Path, content: bytes) -> None:
        temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                if self._sync:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
            if self._sync:
                self._sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)

    @staticmethod
    def _sync_folder(folder: Path) -> None:
        if os.name == "nt":  # a folder cannot be opened there; NTFS journals renames itself
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
