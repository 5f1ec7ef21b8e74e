"""Images in messages. Knows nothing of models."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperfunc.errors import ConfigurationError

__all__ = ["image_part", "user_message"]

_KINDS = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}


def image_part(image: bytes | str | Path, *, detail: str | None = None) -> dict[str, Any]:
    """An image as a part of a message's content.

    Args:
        image: the file's bytes, its path, or an http(s) or data URL (passed on as it is).
        detail: ``"low"``, ``"high"`` or ``"auto"``, for providers that know it.

    Raises:
        ConfigurationError: no PNG, JPEG, GIF or WebP, or the file cannot be read.
    """
    if isinstance(image, str) and image.startswith(("http://", "https://", "data:")):
        url = image
    else:
        try:
            data = image if isinstance(image, bytes) else Path(image).read_bytes()
        except OSError as error:
            raise ConfigurationError(f"the image {image!s} cannot be read: {error}") from error
        kind = next((kind for magic, kind in _KINDS.items() if data.startswith(magic)), None)
        if kind is None:
            raise ConfigurationError("expected a PNG, JPEG, GIF or WebP image; its first bytes say otherwise")
        url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url, **({"detail": detail} if detail else {})}}


def user_message(text: str, *images: bytes | str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """A user's message of a text and images (parts made by :func:`image_part`, or what that takes)."""
    parts = [image if isinstance(image, Mapping) else image_part(image) for image in images]
    return (
        {"role": "user", "content": [{"type": "text", "text": text}, *parts]}
        if parts
        else {
            "role": "user",
            "content": text,
        }
    )
