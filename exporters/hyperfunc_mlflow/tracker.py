"""Logs a run to MLflow: a local store, or a tracking server."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from hyperfunc.errors import MissingDependencyError

__all__ = ["MLflowTracker"]

_MOST_VALUE = 500  # characters of a parameter that every version of MLflow takes


class MLflowTracker:
    """Parameters, metrics and the end of a run, through MLflow's client; no global run is touched.

    Args:
        tracking_uri: a server's address or a local store; ``None`` takes MLflow's own default.
        experiment: made when missing.
    """

    def __init__(self, tracking_uri: str | None = None, experiment: str = "hyperfunc") -> None:
        self._uri = tracking_uri
        self._experiment = experiment
        self._client: Any = None
        self._entities: Any = None
        self._run_id = ""

    def start(self, run: str, configuration: Mapping[str, Any] | None = None) -> None:
        """Begin a run.

        Raises:
            MissingDependencyError: mlflow is not installed.
        """
        try:
            self._entities = import_module("mlflow.entities")
            tracking = import_module("mlflow.tracking")
        except ImportError as error:
            raise MissingDependencyError("mlflow-skinny", "mlflow") from error
        self._client = tracking.MlflowClient(tracking_uri=self._uri)
        experiment = self._client.get_experiment_by_name(self._experiment)
        identity = experiment.experiment_id if experiment else self._client.create_experiment(self._experiment)
        self._run_id = self._client.create_run(identity, run_name=run).info.run_id
        params = [self._entities.Param(k, str(v)[:_MOST_VALUE]) for k, v in (configuration or {}).items()]
        if params:
            self._client.log_batch(self._run_id, params=params)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each metric in one request; what is not a finite number is left out."""
        now = int(time.time() * 1000)
        metrics = [
            self._entities.Metric(name, float(value), now, step)
            for name, value in values.items()
            if isinstance(value, (int, float)) and math.isfinite(value)
        ]
        if metrics:
            self._client.log_batch(self._run_id, metrics=metrics)

    def finish(self, result: Mapping[str, Any] | None = None) -> None:
        """End the run; the result becomes tags."""
        if self._client is None:
            return
        for name, value in (result or {}).items():
            self._client.set_tag(self._run_id, f"hyperfunc.{name}", str(value)[:_MOST_VALUE])
        self._client.set_terminated(self._run_id)
        self._client = None
