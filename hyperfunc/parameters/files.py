"""θ on disk: tensors in ``NAME.safetensors``, texts in ``NAME.json`` beside it. Knows nothing of systems."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from hyperfunc.errors import ParameterError
from hyperfunc.files import write_atomically
from hyperfunc.parameters.theta import Theta

__all__ = ["load_theta", "save_theta"]

_FORMAT = 1


def _paths(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    base = Path(path)
    if base.suffix in {".safetensors", ".json"}:
        base = base.with_suffix("")
    return base.with_name(base.name + ".safetensors"), base.with_name(base.name + ".json")


def save_theta(theta: Theta, path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Save θ as ``path.safetensors`` (tensors) and ``path.json`` (texts and the content hash); returns both paths."""
    tensor_path, text_path = _paths(path)
    tensor_path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in theta.tensors.items()}
    write_atomically(tensor_path, save_tensors(tensors))
    document = {"format": _FORMAT, "content_hash": theta.content_hash, "texts": theta.texts}
    write_atomically(text_path, json.dumps(document, ensure_ascii=False, indent=2).encode())
    return tensor_path, text_path


def load_theta(path: str | os.PathLike[str]) -> Theta:
    """Load what :func:`save_theta` wrote.

    Raises:
        ParameterError: a file is missing or damaged, or the two files do not belong together.
    """
    tensor_path, text_path = _paths(path)
    try:
        tensors = load_tensors(tensor_path.read_bytes())
        document: dict[str, Any] = json.loads(text_path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ParameterError(
            f"no saved θ at {path}: expected {tensor_path.name} and {text_path.name} ({error})"
        ) from error
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ParameterError(f"the saved θ at {path} is damaged: {error}") from error
    if document.get("format") != _FORMAT:
        raise ParameterError(f"{text_path}: expected format {_FORMAT}, got {document.get('format')!r}")
    theta = Theta({**tensors, **document["texts"]})
    if theta.content_hash != document["content_hash"]:
        raise ParameterError(f"{tensor_path.name} and {text_path.name} do not belong together (content hash differs)")
    return theta
