"""Ways to reach a provider."""

from __future__ import annotations

from hyperfunc_llm.transports.base import OutgoingRequest, Reply, ReplyChunk, Transport

__all__ = ["OutgoingRequest", "Reply", "ReplyChunk", "Transport"]
