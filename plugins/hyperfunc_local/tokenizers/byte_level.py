"""The byte-to-character table of byte-level BPE (GPT-2): every byte has a printable stand-in."""

from __future__ import annotations

__all__ = ["BYTE_OF_CHARACTER", "bytes_of_token"]


def _table() -> dict[str, int]:
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(b): b for b in printable}
    others = [b for b in range(256) if b not in set(printable)]
    return table | {chr(256 + i): b for i, b in enumerate(others)}


BYTE_OF_CHARACTER = _table()


def bytes_of_token(token: str) -> bytes | None:
    """Bytes that a byte-level token stands for; ``None`` if it is not written in that alphabet."""
    try:
        return bytes(BYTE_OF_CHARACTER[c] for c in token)
    except KeyError:
        return None
