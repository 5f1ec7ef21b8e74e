"""An OpenAI-compatible server for local models, with true dynamic batching. Needs the extra ``serve``."""

from __future__ import annotations

from hyperfunc_serve.settings import ServerSettings

__all__ = ["ServerSettings"]
