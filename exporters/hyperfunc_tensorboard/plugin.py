"""Registers the tracker ``tensorboard``."""

from __future__ import annotations

from hyperfunc.hookspecs import Register, hookimpl

__all__: list[str] = []


@hookimpl
def hyperfunc_register_trackers(register: Register) -> None:
    register("tensorboard", "hyperfunc_tensorboard.tracker:TensorBoardTracker")
