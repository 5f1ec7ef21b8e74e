"""Adam, SGD and ClipUp on tensors and a plain state, without a ``torch.optim.Optimizer``.

Making the first ``Optimizer`` of a process imports torch's compiler: more than a second, in every first run. The
arithmetic itself does not need it: it is torch's own functional form, so the bits are those of the objects, and the
state is their ``state_dict``, so that either may go on from the other.

References: Kingma and Ba 2015 (arXiv:1412.6980) for Adam; see :mod:`hyperfunc.evolution.clipup` for ClipUp.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, float32, no_grad, zeros, zeros_like
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from hyperfunc.evolution.clipup import clip_up

__all__ = ["OptimizerName", "first_state", "step_by_name"]

OptimizerName = Literal["adam", "clipup", "sgd"]

_UNUSED = {"foreach": None, "differentiable": False, "maximize": True}
_GROUPS: dict[OptimizerName, dict[str, Any]] = {
    "adam": {
        **_UNUSED,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0,
        "amsgrad": False,
        "capturable": False,
        "fused": True,  # one pass over memory
        "decoupled_weight_decay": False,
    },
    "clipup": {"momentum": 0.9, "max_speed_ratio": 2.0},
    "sgd": {**_UNUSED, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False, "fused": None},
}


def first_state(name: OptimizerName, lr: float, count: int) -> dict[str, Any]:
    """The ``state_dict`` of the optimizer called ``name`` over ``count`` parameters before its first step."""
    return {"state": {}, "param_groups": [{"lr": lr, **_GROUPS[name], "params": list(range(count))}]}


@no_grad()
def step_by_name(
    name: OptimizerName,
    parameters: list[Tensor],  # each [*shape]; written into
    gradients: list[Tensor],  # of the same shapes and dtypes; the direction of ascent
    state: dict[str, Any],  # a state_dict; its tensors are written into
) -> None:
    """One step up the gradient."""
    group, kept = state["param_groups"][0], state["state"]
    if name == "sgd":
        sgd(
            parameters,
            gradients,
            [None] * len(parameters),
            weight_decay=0.0,
            momentum=0.0,
            lr=group["lr"],
            dampening=0.0,
            nesterov=False,
            maximize=True,
        )
        return
    for index, parameter in enumerate(parameters):
        entry = kept.setdefault(index, {})
        for key in ("velocity",) if name == "clipup" else ("exp_avg", "exp_avg_sq"):
            entry[key] = _like(entry[key], parameter) if key in entry else zeros_like(parameter)
        if name == "adam":
            step = entry.get("step")
            entry["step"] = (zeros((), dtype=float32) if step is None else step).to(parameter.device)
    entries = [kept[index] for index in range(len(parameters))]
    if name == "clipup":
        clip_up(parameters, gradients, [entry["velocity"] for entry in entries], group)
        return
    adam(
        parameters,
        gradients,
        [entry["exp_avg"] for entry in entries],
        [entry["exp_avg_sq"] for entry in entries],
        [],
        [entry["step"] for entry in entries],
        fused=True,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=0.0,
        eps=group["eps"],
        maximize=True,
    )


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    return value.to(device=parameter.device, dtype=parameter.dtype)
