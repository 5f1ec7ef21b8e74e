"""Registers the tracker ``mlflow``."""

from __future__ import annotations

from hyperfunc.hookspecs import Register, hookimpl

__all__: list[str] = []


@hookimpl
def hyperfunc_register_trackers(register: Register) -> None:
    register("mlflow", "hyperfunc_mlflow.tracker:MLflowTracker")
