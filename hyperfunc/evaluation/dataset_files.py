"""Examples as JSONL, CSV and parquet files. Knows the formats and :class:`Example`, not data sets.

Files are read whole, and written to a neighbour first which then takes their place: a reader never sees half a file.
"""

from __future__ import annotations

import base64
import csv
import importlib
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyperfunc.errors import EvaluationError, MissingDependencyError
from hyperfunc.evaluation.example import Example
from hyperfunc.files import write_atomically

__all__ = [
    "read_csv",
    "read_jsonl",
    "read_parquet",
    "write_csv",
    "write_jsonl",
    "write_parquet",
    "write_whole",
]

_MARK = "$hyperfunc"  # an object with this key stands for a value that JSON does not have
_LABELS = ("id", "tags", "weight")
_KEYS = {"inputs", "expected", "id", "tags", "weight", "metadata"}


def read_jsonl(path: Path) -> Iterator[Example]:
    """Examples, one JSON object per line; blank lines are skipped.

    Raises:
        EvaluationError: a line that is no JSON, or whose keys are not those of an example; it names file and line.
    """
    # Not splitlines(): JSON strings may hold U+2028 and other breaks that only Python counts as line ends.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise EvaluationError(f"{where}: no JSON ({error})") from error
        if not isinstance(row, dict) or not {"inputs", "expected"} <= row.keys() or row.keys() - _KEYS:
            found = sorted(row) if isinstance(row, dict) else type(row).__name__
            raise EvaluationError(
                f"{where}: expected an object with inputs and expected (and perhaps id, tags, weight, metadata), "
                f"got {found}"
            )
        values = {key: _from_json(value) for key, value in row.items()}
        yield _example(where, values.pop("inputs"), values.pop("expected"), values)


def write_jsonl(path: Path, examples: Iterable[Example]) -> None:
    """The inverse of :func:`read_jsonl`.

    Raises:
        EvaluationError: a value that cannot be written; nothing is written then.
    """
    lines = []
    for example in examples:
        row: dict[str, Any] = {"inputs": _to_json(example.inputs), "expected": _to_json(example.expected)}
        if example.given_id is not None:
            row["id"] = example.given_id
        if example.tags:
            row["tags"] = list(example.tags)
        if example.weight != 1.0:
            row["weight"] = example.weight
        if example.metadata:
            row["metadata"] = _to_json(example.metadata)
        line = json.dumps(row, ensure_ascii=False, allow_nan=False)
        try:
            lines.append(line.encode())
        except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 has no bytes for
            lines.append(json.dumps(row, allow_nan=False).encode())
    write_whole(path, b"".join(line + b"\n" for line in lines))


def read_csv(
    path: Path,
    inputs: Sequence[str] | Mapping[str, str] | None,
    expected: str,
    types: Mapping[str, Callable[[str], Any]],
    delimiter: str,
) -> Iterator[Example]:
    """Examples of a table; the arguments are those of ``Dataset.from_csv``.

    Raises:
        EvaluationError: a column is missing, a row has another number of cells than the header, or a cell cannot be
            converted; it names file, line and column.
    """
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), delimiter=delimiter)
    header = next(reader, [])
    columns = _columns(path, header, inputs, expected)
    _require_columns(path, header, types)
    for cells in reader:
        where = f"{path}, line {reader.line_num}"
        if not cells:
            continue
        if len(cells) != len(header):
            raise EvaluationError(f"{where}: {len(cells)} cells, but the header has {len(header)}")
        row: dict[str, Any] = dict(zip(header, cells, strict=True))
        for column, convert in types.items():
            try:
                row[column] = convert(row[column])
            except (ValueError, TypeError, ArithmeticError) as error:
                raise EvaluationError(f"{where}, column {column!r}: cannot convert {row[column]!r}: {error}") from error
        yield _table_row(where, row, columns, expected)


def write_csv(path: Path, examples: Sequence[Example]) -> None:
    """One column per input name, then ``expected``, ``id``, ``tags`` and ``weight``."""
    names = _input_names(examples)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "expected", *_LABELS])
    for example in examples:
        cells = [_cell(example.inputs.get(name)) for name in names]
        writer.writerow([*cells, _cell(example.expected), example.given_id or "", _joined(example), example.weight])
    write_whole(path, text.getvalue().encode())


def read_parquet(path: Path, inputs: Sequence[str] | Mapping[str, str] | None, expected: str) -> Iterator[Example]:
    """Examples of a parquet table; the arguments are those of ``Dataset.from_parquet``.

    Raises:
        MissingDependencyError: ``pyarrow`` is not installed.
        EvaluationError: the file is missing or no parquet, or a column is missing.
    """
    arrow, parquet = _pyarrow()
    try:
        table = parquet.read_table(path)
    except (OSError, arrow.ArrowInvalid) as error:
        raise EvaluationError(f"cannot read {path} as parquet: {error}") from error
    header = table.column_names
    columns = _columns(path, header, inputs, expected)
    for number, row in enumerate(table.to_pylist(), start=1):
        yield _table_row(f"{path}, row {number}", row, columns, expected)


def write_parquet(path: Path, examples: Sequence[Example]) -> None:
    """The columns of :func:`write_csv`, with the types of their values; tensors and arrays become lists.

    Raises:
        MissingDependencyError: ``pyarrow`` is not installed.
        EvaluationError: a column holds values of types that parquet cannot put into one column.
    """
    arrow, parquet = _pyarrow()
    names = _input_names(examples)
    data: dict[str, list[Any]] = {name: [_plain(e.inputs.get(name)) for e in examples] for name in names}
    data["expected"] = [_plain(example.expected) for example in examples]
    data["id"] = [example.given_id for example in examples]
    data["tags"] = [_joined(example) for example in examples]
    data["weight"] = [example.weight for example in examples]
    try:
        table = arrow.table(data)
    except (arrow.ArrowInvalid, arrow.ArrowTypeError, arrow.ArrowNotImplementedError) as error:
        raise EvaluationError(f"cannot write {path} as parquet: {error}; write JSONL instead") from error
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    write_whole(path, sink.getvalue())


def write_whole(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` at once: a crash leaves the old file, never a half one."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise EvaluationError(f"cannot write {path}: {error}") from error


# --- tables -----------------------------------------------------------------------------------------------------------


def _columns(
    path: Path, header: Sequence[str], inputs: Sequence[str] | Mapping[str, str] | None, expected: str
) -> dict[str, str]:
    """Column → input name."""
    if len(set(header)) != len(header):
        raise EvaluationError(f"{path}: two columns have one name: {list(header)}")
    if isinstance(inputs, str):
        raise EvaluationError(f"inputs must be a list of columns or a mapping of columns to names, got {inputs!r}")
    if inputs is None:
        columns = {name: name for name in header if name != expected and name not in _LABELS}
    elif isinstance(inputs, Mapping):
        columns = dict(inputs)
    else:
        columns = {name: name for name in inputs}
    _require_columns(path, header, [*columns, expected])
    return columns


def _require_columns(path: Path, header: Sequence[str], wanted: Iterable[str]) -> None:
    for column in wanted:
        if column not in header:
            raise EvaluationError(f"{path}: no column {column!r}; the header has {', '.join(map(repr, header))}")


def _table_row(where: str, row: Mapping[str, Any], columns: Mapping[str, str], expected: str) -> Example:
    labels: dict[str, Any] = {
        name: row[name] for name in _LABELS if name in row and name not in columns and name != expected
    }
    labels = {name: value for name, value in labels.items() if value is not None and value != ""}
    if isinstance(labels.get("tags"), str):
        labels["tags"] = [tag.strip() for tag in labels["tags"].split(";") if tag.strip()]
    if "id" in labels:
        labels["id"] = str(labels["id"])
    if "weight" in labels:
        try:
            labels["weight"] = float(labels["weight"])
        except (TypeError, ValueError) as error:
            raise EvaluationError(f"{where}, column 'weight': {error}") from error
    return _example(where, {name: row[column] for column, name in columns.items()}, row[expected], labels)


def _example(where: str, inputs: Any, expected: Any, labels: Mapping[str, Any]) -> Example:
    try:
        return Example(inputs, expected, **labels)
    except (EvaluationError, TypeError) as error:
        raise EvaluationError(f"{where}: {error}") from error


def _input_names(examples: Iterable[Example]) -> list[str]:
    names = list(dict.fromkeys(name for example in examples for name in example.inputs))
    clash = [name for name in names if name in ("expected", *_LABELS)]
    if clash:
        raise EvaluationError(
            f"a table cannot hold an input named {clash[0]!r}, which is a column of its own; use JSONL"
        )
    return names


def _joined(example: Example) -> str:
    broken = [tag for tag in example.tags if ";" in tag or tag != tag.strip()]
    if broken:
        raise EvaluationError(f"a table separates tags by ';' and strips them, it cannot hold {broken[0]!r}; use JSONL")
    return ";".join(example.tags)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else str(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        return value.tolist()
    return value


# --- JSON -------------------------------------------------------------------------------------------------------------


def _to_json(value: Any) -> Any:
    match value:
        case None | bool() | str():
            return value
        case np.generic():
            return _to_json(value.item())
        case int():
            return int(value)
        case float():
            return value if math.isfinite(value) else {_MARK: "float", "value": repr(value)}
        case torch.Tensor():
            flat = value.detach().cpu().contiguous().reshape(-1)
            data = base64.b64encode(flat.view(torch.uint8).numpy().tobytes()).decode()
            return {_MARK: "tensor", "dtype": str(value.dtype)[6:], "shape": list(value.shape), "data": data}
        case np.ndarray() if value.dtype.kind in "biufc":
            data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
            return {_MARK: "array", "dtype": value.dtype.str, "shape": list(value.shape), "data": data}
        case bytes():
            return {_MARK: "bytes", "data": base64.b64encode(value).decode()}
        case tuple():
            return {_MARK: "tuple", "items": [_to_json(item) for item in value]}
        case list():
            return [_to_json(item) for item in value]
        case Mapping() if all(isinstance(key, str) and key != _MARK for key in value):
            return {key: _to_json(item) for key, item in value.items()}
        case _:
            raise EvaluationError(
                f"cannot write a {type(value).__qualname__} as JSON ({value!r}); use None, numbers, strings, bytes, "
                "tensors, arrays, or lists, tuples and string-keyed dicts of these"
            )


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _MARK not in value:
        return {key: _from_json(item) for key, item in value.items()}
    try:
        match value[_MARK]:
            case "float":
                return float(value["value"])
            case "tuple":
                return tuple(_from_json(item) for item in value["items"])
            case "bytes":
                return base64.b64decode(value["data"])
            case "array":
                raw = base64.b64decode(value["data"])
                return np.frombuffer(raw, np.dtype(value["dtype"])).reshape(value["shape"]).copy()
            case "tensor":
                dtype = getattr(torch, value["dtype"])
                if not isinstance(dtype, torch.dtype):
                    raise ValueError(f"{value['dtype']!r} is no dtype of torch")
                data = np.frombuffer(base64.b64decode(value["data"]), np.uint8).copy()
                return torch.from_numpy(data).view(dtype).reshape(value["shape"])
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise EvaluationError(f"a damaged {value[_MARK]} in JSON: {error}") from error
    raise EvaluationError(f"unknown kind of value in JSON: {value[_MARK]!r}")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # spreadsheets put a byte-order mark in front
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"cannot read {path}: {error}") from error


def _pyarrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise MissingDependencyError("pyarrow", "parquet") from error
