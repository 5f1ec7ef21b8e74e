"""The errors of local models.

    HyperfuncError
    ├── LocalModelError               a local model cannot be used as asked
    │   ├── ModelFileError                a model file cannot be read
    │   │   ├── FileFormatError               wrong magic, broken header or broken metadata
    │   │   ├── FileVersionError              a version of the format that is not supported
    │   │   ├── TruncatedFileError            the file ends before its data does
    │   │   ├── UnsupportedTensorTypeError    a tensor type that cannot be dequantised
    │   │   ├── MissingTensorError            a tensor that the model needs is not in the files
    │   │   └── UnexpectedTensorError         a tensor that the model has no place for
    │   ├── UnsupportedArchitectureError  no implementation for this kind of model
    │   ├── TokenizerError                a tokenizer is broken, or the text cannot be encoded
    │   ├── SamplingError                 decoding parameters are out of range or contradictory
    │   ├── GrammarError                  a JSON schema or grammar cannot be enforced
    │   └── ContextLengthError            prompt and answer do not fit the model or the cache

A tensor whose shape is not what the configuration says raises :class:`hyperfunc.errors.ShapeError`.
"""

from __future__ import annotations

from hyperfunc.errors import HyperfuncError

__all__ = [
    "ContextLengthError",
    "FileFormatError",
    "FileVersionError",
    "GrammarError",
    "LocalModelError",
    "MissingTensorError",
    "ModelFileError",
    "SamplingError",
    "TokenizerError",
    "TruncatedFileError",
    "UnexpectedTensorError",
    "UnsupportedArchitectureError",
    "UnsupportedTensorTypeError",
]


class LocalModelError(HyperfuncError):
    """A local model cannot be used as asked."""


class ModelFileError(LocalModelError):
    """A model file cannot be read."""


class FileFormatError(ModelFileError):
    """Wrong magic, broken header or broken metadata."""


class FileVersionError(ModelFileError):
    """A version of the format that is not supported."""


class TruncatedFileError(ModelFileError):
    """The file ends before its data does."""


class UnsupportedTensorTypeError(ModelFileError):
    """A tensor type that cannot be dequantised."""


class MissingTensorError(ModelFileError):
    """A tensor that the model needs is not in the files."""


class UnexpectedTensorError(ModelFileError):
    """A tensor that the model has no place for."""


class UnsupportedArchitectureError(LocalModelError):
    """No implementation for this kind of model."""


class TokenizerError(LocalModelError):
    """A tokenizer is broken, or the text cannot be encoded."""


class SamplingError(LocalModelError):
    """Decoding parameters are out of range or contradictory."""


class GrammarError(LocalModelError):
    """A JSON schema or grammar cannot be enforced."""


class ContextLengthError(LocalModelError):
    """Prompt and answer do not fit the model or the cache."""
