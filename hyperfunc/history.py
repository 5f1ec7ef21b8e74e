"""What an optimization did, generation by generation, and what it ended with. Knows nothing of how."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from hyperfunc.errors import MissingDependencyError
from hyperfunc.export import ParetoPoint, diff_texts, export_result, pareto_front
from hyperfunc.parameters.theta import Theta
from hyperfunc.usage import Usage

__all__ = ["Generation", "History", "OptimizeResult"]


@dataclass(frozen=True)
class Generation:
    """One step of a run in numbers: a generation of tensors, or one proposal of texts.

    Attributes:
        index: 0 for the first.
        best, mean, worst: fitness over the members that have one; NaN if none has. Of a proposal, its mean score on the
            validation examples; NaN if it did not come so far.
        center: fitness of the centre on the selection data, where it was evaluated, else NaN.
        sigma: step size in latent units.
        dropped: members without fitness (a run or the metric raised), twins not counted.
        evaluations: (member, example) runs so far.
        seconds: wall-clock time since the run began.
        kind: ``"tensors"`` or ``"texts"``: what the step tried to improve.
        accepted: whether a proposal was accepted.
    """

    index: int
    best: float
    mean: float
    worst: float
    center: float
    sigma: float
    dropped: int
    evaluations: int
    seconds: float
    kind: str = "tensors"
    accepted: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def numbers(self) -> dict[str, float]:
        """The attributes that are numbers, for what draws curves."""
        return {name: value for name, value in self.to_dict().items() if name not in ("kind", "accepted")}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Generation:
        """What :meth:`to_dict` gave; ``None`` stands for NaN, which JSON does not have."""
        values: dict[str, Any] = {name: math.nan if value is None else value for name, value in record.items()}
        return cls(**values)


class History:
    """The generations of a run, in order."""

    def __init__(self, generations: list[Generation] | None = None) -> None:
        self.generations = generations if generations is not None else []

    def __len__(self) -> int:
        return len(self.generations)

    def __iter__(self) -> Iterator[Generation]:
        return iter(self.generations)

    def __getitem__(self, index: int) -> Generation:
        return self.generations[index]

    def column(self, name: str) -> list[float]:
        """One attribute of every generation."""
        return [float(getattr(g, name)) for g in self.generations]

    def to_csv(self) -> str:
        """All generations as CSV, with a header."""
        out = io.StringIO()
        writer = csv.DictWriter(out, [f.name for f in fields(Generation)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(g.to_dict() for g in self.generations)
        return out.getvalue()

    def plot(self, path: str | Path | None = None, *, title: str = "fitness", ylabel: str = "fitness") -> Any:
        """Fitness (best, mean, centre) and σ over generations, as a matplotlib figure.

        Args:
            path: also save it there (PNG, SVG, PDF by suffix).

        Raises:
            MissingDependencyError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingDependencyError("matplotlib", "plot") from error
        figure = Figure(figsize=(7.0, 4.0), dpi=120, layout="constrained")
        axes = figure.subplots()
        tensors = History([g for g in self if g.kind == "tensors"])
        steps = tensors.column("index")
        axes.fill_between(
            steps, tensors.column("worst"), tensors.column("best"), alpha=0.15, linewidth=0, label="population"
        )
        axes.plot(steps, tensors.column("mean"), linewidth=1.2, label="population mean")
        for n, g in enumerate(g for g in self if g.accepted):
            axes.axvline(g.index, color="tab:green", alpha=0.6, linewidth=1.0, label="" if n else "text accepted")
        center = [(g.index, g.center) for g in self if not math.isnan(g.center)]
        if center:
            axes.plot(*zip(*center, strict=True), linewidth=1.8, label="centre (selection data)")
        axes.set(xlabel="generation", ylabel=ylabel, title=title)
        sigma_axes = axes.twinx()
        sigma_axes.plot(steps, tensors.column("sigma"), linestyle=":", color="grey", linewidth=1.0, label="σ")
        sigma_axes.set_ylabel("σ")
        lines = [*axes.get_legend_handles_labels()[0], *sigma_axes.get_legend_handles_labels()[0]]
        names = [*axes.get_legend_handles_labels()[1], *sigma_axes.get_legend_handles_labels()[1]]
        axes.legend(lines, names, loc="lower right", frameon=False)
        if path is not None:
            target = Path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(target)
        return figure


@dataclass(frozen=True)
class OptimizeResult:
    """How an optimization ended.

    Attributes:
        theta: the θ that was adopted.
        best_fitness: its fitness on the selection data (validation, else training); NaN if never evaluated.
        initial_fitness: the fitness of the θ that the run began with, on the same data.
        history: every generation.
        finish_reason: ``"completed"``, ``"target"``, ``"patience"``, ``"callback"``, ``"budget:<limit>"``,
            ``"nothing to optimize"``, ``"no headroom"``, ``"all members failed"``.
        execution: ``"lifted"``, ``"gathered"``, ``"sequential"`` or ``"engine"``, and in ``reason`` why.
        notes: what else was noticed: operations that materialised a weight, components that appeared too late, …
        errors: examples of what runs raised, at most ten.
        dropped: members dropped over all generations.
        evaluations: (member, example) runs.
        seconds: wall-clock time.
        usage: tokens and money.
        block_size: members per block, part of what makes the run reproducible.
        initial_theta: the θ that the run began with.
        texts: what the prompt optimizer found, with every candidate in its ``pool``; ``None`` where none was at work.
    """

    theta: Theta
    best_fitness: float
    initial_fitness: float
    history: History
    finish_reason: str
    execution: str = ""
    reason: str = ""
    notes: tuple[str, ...] = ()
    errors: tuple[Exception, ...] = ()
    dropped: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    usage: Usage = field(default_factory=Usage)
    block_size: int = 0
    initial_theta: Theta = field(default_factory=Theta)
    texts: Any = None

    def diff(self) -> str:
        """What changed in the texts, as a unified diff; ``""`` if nothing did."""
        return diff_texts(self.initial_theta.texts, self.theta.texts)

    def pareto(self, cost: str = "usd") -> list[ParetoPoint]:
        """The candidates that are not beaten in both score and cost of a run, the cheapest first.

        Args:
            cost: ``"usd"``, ``"tokens"``, ``"calls"`` or ``"seconds"`` of one run of the program, as it would be
                without a call store.
        """
        return pareto_front([] if self.texts is None else self.texts.pool, cost)

    def export(self, folder: str | Path) -> Path:
        """Write what was found for production; see :func:`hyperfunc.export.export_result`."""
        return export_result(self, folder)

    @property
    def improved(self) -> bool:
        """Whether the adopted θ beats the initial one on the selection data."""
        return self.best_fitness > self.initial_fitness

    @property
    def runs_per_second(self) -> float:
        return self.evaluations / self.seconds if self.seconds > 0 else math.nan

    def __str__(self) -> str:
        return (
            f"{self.finish_reason}: fitness {self.initial_fitness:.4g} -> {self.best_fitness:.4g} in "
            f"{len(self.history)} generations, {self.evaluations} runs, {self.seconds:.1f} s "
            f"({self.execution or 'not run'}: {self.reason or '-'})"
        )
