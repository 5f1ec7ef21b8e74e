"""An immutable sequence of examples: version, splits, tags, minibatches. Knows nothing of files, programs or scorers.

Whatever is drawn is a pure function of content and seed: a split does not depend on the order of the examples, and
minibatch ``n`` can be had without drawing the ``n - 1`` before it, so that a resumed run goes on with the same batches.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation import dataset_files
from hyperfunc.evaluation.content import content_digest
from hyperfunc.evaluation.example import Example

__all__ = ["Dataset", "Split"]


class Split(NamedTuple):
    """Three parts of a data set that share no inputs; a part of which the fraction is 0 is ``None``."""

    train: Dataset
    val: Dataset | None
    test: Dataset | None


class Dataset(Sequence[Example]):
    """Examples in a fixed order, at least one.

    Args:
        examples: the examples; ids must be unique when they are given.
        name: a name for reports.

    Raises:
        EvaluationError: no examples, something that is no :class:`Example`, or two examples with one given id.
    """

    def __init__(self, examples: Iterable[Example], *, name: str = "dataset") -> None:
        self._examples = tuple(examples)
        self.name = name
        self._version: str | None = None
        self._latest_epoch: tuple[tuple[int, int], list[int]] | None = None
        if not self._examples:
            raise EvaluationError(f"{name!r} has no examples; a data set needs at least one")
        for position, example in enumerate(self._examples):
            if not isinstance(example, Example):
                raise EvaluationError(f"{name!r}[{position}] must be an Example, got {type(example).__qualname__}")
        given = Counter(example.given_id for example in self._examples if example.given_id is not None)
        twice = [id for id, count in given.items() if count > 1]
        if twice:
            raise EvaluationError(f"ids must be unique in {name!r}; {twice[0]!r} stands {given[twice[0]]} times")

    # --- a sequence ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> Dataset: ...

    def __getitem__(self, index: int | slice) -> Example | Dataset:
        if isinstance(index, slice):
            return self._part(self._examples[index], f"the slice {index.start}:{index.stop}:{index.step}")
        return self._examples[index]

    def __iter__(self) -> Iterator[Example]:
        return iter(self._examples)

    def __add__(self, other: Dataset) -> Dataset:
        return Dataset((*self, *other), name=self.name) if isinstance(other, Dataset) else NotImplemented

    def __eq__(self, other: object) -> bool:
        return self.version == other.version if isinstance(other, Dataset) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.version)

    def __repr__(self) -> str:
        return f"Dataset({len(self)} examples, name={self.name!r})"

    # --- what it holds ------------------------------------------------------------------------------------------------

    @property
    def version(self) -> str:
        """Hash (32 hex characters) of all examples in order: inputs, expected values, ids, tags and weights.

        Metadata and the name of the data set do not count.
        """
        if self._version is None:
            rows = [[e.content_id, e.given_id, sorted(e.tags), e.weight] for e in self._examples]
            self._version = content_digest(rows)
        return self._version

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """The inputs of every example."""
        return [example.inputs for example in self._examples]

    @property
    def expected(self) -> list[Any]:
        """The expected value of every example."""
        return [example.expected for example in self._examples]

    @property
    def weights(self) -> list[float]:
        """The weight of every example."""
        return [example.weight for example in self._examples]

    @property
    def tags(self) -> dict[str, int]:
        """How many examples have each tag, in the tags' order."""
        return dict(sorted(Counter(tag for example in self._examples for tag in example.tags).items()))

    # --- other data sets ----------------------------------------------------------------------------------------------

    def filter(self, keep: Callable[[Example], bool]) -> Dataset:
        """The examples for which ``keep`` is true; at least one."""
        return self._part((e for e in self._examples if keep(e)), "the filter")

    def with_tags(self, *tags: str, match: Literal["all", "any"] = "all") -> Dataset:
        """The examples that have all (or any) of ``tags``."""
        self._require_tags(tags)
        wanted = all if match == "all" else any
        return self._part((e for e in self._examples if wanted(tag in e.tags for tag in tags)), f"{match} of {tags}")

    def without_tags(self, *tags: str) -> Dataset:
        """The examples that have none of ``tags``."""
        self._require_tags(tags)
        return self._part((e for e in self._examples if not set(tags) & set(e.tags)), f"none of {tags}")

    def map(self, change: Callable[[Example], Example]) -> Dataset:
        """``change(example)`` for every example."""
        return Dataset((change(example) for example in self._examples), name=self.name)

    def deduplicated(self) -> Dataset:
        """The first of every set of examples with equal inputs and expected value."""
        first: dict[str, Example] = {}
        for example in self._examples:
            first.setdefault(example.content_id, example)
        return Dataset(first.values(), name=self.name)

    def shuffled(self, seed: int) -> Dataset:
        """All examples in an order drawn from ``seed``."""
        return self._pick(_order(len(self), "shuffle", seed))

    def sample(self, count: int, seed: int) -> Dataset:
        """``count`` different examples drawn from ``seed``, in the order of the data set."""
        if not 1 <= count <= len(self):
            raise EvaluationError(f"a sample of {self!r} has 1 to {len(self)} examples, got count={count}")
        return self._pick(sorted(_order(len(self), "sample", seed)[:count]))

    def split(self, train: float = 0.8, val: float = 0.1, test: float = 0.1, *, seed: int = 0) -> Split:
        """Three data sets that have no inputs in common.

        Exact duplicates are dropped first; examples with equal inputs and different expected values stay together.
        Which part an example comes to depends on its inputs and the seed, not on its place. Sizes follow the fractions
        to the nearest example where all inputs differ.

        Args:
            train: share of the examples, > 0.
            val: share of the examples; 0 gives no such part.
            test: share of the examples; 0 gives no such part.
            seed: any integer.

        Raises:
            EvaluationError: fractions that do not sum to 1, or too few examples for a part to have one.
        """
        fractions = {"train": train, "val": val, "test": test}
        if train <= 0 or val < 0 or test < 0 or abs(sum(fractions.values()) - 1) > 1e-9:
            raise EvaluationError(f"fractions must be ≥ 0 (train > 0) and sum to 1, got {fractions}")
        unique = self.deduplicated()
        digests = [content_digest(example.inputs) for example in unique]
        ranks = {digest: _rank("split", seed, digest) for digest in digests}
        order = sorted(range(len(unique)), key=lambda position: (ranks[digests[position]], position))
        cuts = {"train": train * len(unique), "val": (train + val) * len(unique), "test": float(len(unique))}
        parts: dict[str, list[int]] = {name: [] for name in fractions}
        open_parts = [name for name, fraction in fractions.items() if fraction > 0]
        for place, position in enumerate(order):
            same_inputs = place > 0 and digests[position] == digests[order[place - 1]]
            while not same_inputs and len(open_parts) > 1 and place + 0.5 > cuts[open_parts[0]]:
                open_parts.pop(0)
            parts[open_parts[0]].append(position)
        made: dict[str, Dataset | None] = {}
        for name, fraction in fractions.items():
            if fraction > 0 and not parts[name]:
                raise EvaluationError(
                    f"{len(ranks)} different inputs are too few for a {name} part of {fraction:g}; "
                    "set its fraction to 0 or add examples"
                )
            positions = sorted(parts[name])
            made[name] = Dataset((unique[p] for p in positions), name=f"{self.name}/{name}") if positions else None
        assert made["train"] is not None  # its fraction is > 0
        return Split(made["train"], made["val"], made["test"])

    # --- minibatches --------------------------------------------------------------------------------------------------

    def minibatch(self, index: int, size: int, seed: int) -> Dataset:
        """Minibatch number ``index`` (from 0) of an endless stream of epochs, each shuffled anew.

        An epoch has ``len(self) // size`` whole batches, in which no example comes twice; where ``size`` does not
        divide the number of examples, those left over sit that epoch out, others in the next one.

        Args:
            index: ≥ 0.
            size: examples per batch, from 1 to all of them.
            seed: any integer.
        """
        self._require_size(size)
        if index < 0:
            raise EvaluationError(f"index of a minibatch must be ≥ 0, got {index}")
        epoch, batch = divmod(index, len(self) // size)
        return self._pick(self._epoch_order(seed, epoch)[batch * size : (batch + 1) * size])

    def minibatches(self, size: int, seed: int, *, epochs: int = 1, drop_last: bool = False) -> Iterator[Dataset]:
        """``epochs`` passes over the examples in batches of ``size``; the batches of :meth:`minibatch`, and the rest.

        Args:
            size: examples per batch, from 1 to all of them.
            seed: any integer.
            epochs: how many passes, ≥ 1.
            drop_last: leave the smaller last batch of a pass out.
        """
        self._require_size(size)
        if epochs < 1:
            raise EvaluationError(f"epochs must be ≥ 1, got {epochs}")
        return self._passes(size, seed, epochs, drop_last)

    def _passes(self, size: int, seed: int, epochs: int, drop_last: bool) -> Iterator[Dataset]:
        for epoch in range(epochs):
            order = self._epoch_order(seed, epoch)
            for start in range(0, len(order), size):
                chosen = order[start : start + size]
                if len(chosen) == size or not drop_last:
                    yield self._pick(chosen)

    def _epoch_order(self, seed: int, epoch: int) -> list[int]:
        latest = self._latest_epoch
        if latest is None or latest[0] != (seed, epoch):
            latest = (seed, epoch), _order(len(self), "epoch", seed, epoch)
            self._latest_epoch = latest  # a pure function of its key: threads may race for it
        return latest[1]

    # --- files --------------------------------------------------------------------------------------------------------

    @classmethod
    def from_jsonl(cls, path: str | Path, *, name: str | None = None) -> Dataset:
        """Read what :meth:`to_jsonl` wrote: one object per line with ``inputs`` and ``expected``."""
        return cls(dataset_files.read_jsonl(Path(path)), name=name or Path(path).stem)

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        *,
        inputs: Sequence[str] | Mapping[str, str] | None = None,
        expected: str = "expected",
        types: Mapping[str, Callable[[str], Any]] | None = None,
        delimiter: str = ",",
        name: str | None = None,
    ) -> Dataset:
        """Read a table with a header line.

        Args:
            path: the file (UTF-8).
            inputs: columns that are inputs, or column → argument name; without it all columns but the others.
            expected: the column of the expected value.
            types: column → function of its text (``{"age": int}``); texts stay texts otherwise.
            delimiter: what stands between the cells.
            name: name of the data set; without it the file's.

        The columns ``id``, ``tags`` (separated by ``;``) and ``weight`` are read where they exist and are no inputs.
        """
        rows = dataset_files.read_csv(Path(path), inputs, expected, types or {}, delimiter)
        return cls(rows, name=name or Path(path).stem)

    @classmethod
    def from_parquet(
        cls,
        path: str | Path,
        *,
        inputs: Sequence[str] | Mapping[str, str] | None = None,
        expected: str = "expected",
        name: str | None = None,
    ) -> Dataset:
        """Read a parquet table (needs ``pyarrow``); arguments as for :meth:`from_csv`, types are the file's."""
        return cls(dataset_files.read_parquet(Path(path), inputs, expected), name=name or Path(path).stem)

    def to_jsonl(self, path: str | Path) -> None:
        """Write one JSON object per line; tensors, arrays, tuples and non-finite numbers come back as they were."""
        dataset_files.write_jsonl(Path(path), self._examples)

    def to_csv(self, path: str | Path) -> None:
        """Write a table: a column per input, then ``expected``, ``id``, ``tags`` and ``weight``; cells as text."""
        dataset_files.write_csv(Path(path), self._examples)

    def to_parquet(self, path: str | Path) -> None:
        """Write a parquet table (needs ``pyarrow``) with the columns of :meth:`to_csv`, typed."""
        dataset_files.write_parquet(Path(path), self._examples)

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _pick(self, positions: Iterable[int]) -> Dataset:
        return Dataset((self._examples[position] for position in positions), name=self.name)

    def _part(self, examples: Iterable[Example], what: str) -> Dataset:
        kept = tuple(examples)
        if not kept:
            raise EvaluationError(f"{what} keeps none of the {len(self)} examples of {self.name!r}")
        return Dataset(kept, name=self.name)

    def _require_tags(self, tags: Sequence[str]) -> None:
        known = self.tags
        unknown = [tag for tag in tags if tag not in known]
        if unknown or not tags:
            named = f"no example of {self.name!r} has the tag {unknown[0]!r}" if unknown else "name at least one tag"
            raise EvaluationError(f"{named}; known: {', '.join(known) or 'none'}")

    def _require_size(self, size: int) -> None:
        if not 1 <= size <= len(self):
            raise EvaluationError(f"a minibatch of {self!r} has 1 to {len(self)} examples, got size={size}")


def _rank(*name: int | str) -> bytes:
    return hashlib.blake2b("\0".join(map(str, name)).encode(), digest_size=16).digest()


def _order(count: int, *name: int | str) -> list[int]:
    """``range(count)`` in an order that ``name`` decides.

    NumPy promises that the streams of its legacy generator never change, which it does not for the newer one.
    """
    generator = np.random.RandomState(np.frombuffer(_rank(*name), dtype="<u4"))
    order: list[int] = generator.permutation(count).tolist()
    return order
