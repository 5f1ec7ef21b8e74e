"""``injected``: the default value of an argument that the framework fills in.

    @hyperfunction(hp_type=LoRAWeight, optimize_hparams=True)
    async def project(x: Tensor, hp: LoRAWeight = injected) -> Tensor: ...

    y = await project(x)  # type checkers ask for no hp, and readers see who gives it

Where nobody fills it in (the bare ``project.fn``, called by hand) its first use says so. Knows nothing of bindings.
"""

from __future__ import annotations

from typing import Any, NoReturn

from hyperfunc.errors import UnboundError

__all__ = ["injected"]


class _Injected:
    """Stands where a value is missing; whatever is done with it raises :class:`~hyperfunc.errors.UnboundError`."""

    __slots__ = ()

    def _missing(self, *_: Any, **__: Any) -> NoReturn:
        raise UnboundError(
            "an argument that hyperfunc injects was used without a value: call the hyperfunction itself, not its .fn, "
            "inside a HyperSystem's run() or under `with system.binding():`; or give the argument"
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what copy, pickle and inspect look for
            raise AttributeError(name)
        self._missing()

    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> NoReturn:
        injected._missing()
        raise AssertionError("unreachable")

    __call__ = __getitem__ = __iter__ = __len__ = __contains__ = __bool__ = __float__ = __int__ = __index__ = _missing
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _missing
    __matmul__ = __rmatmul__ = __pow__ = __rpow__ = __lt__ = __le__ = __gt__ = __ge__ = __neg__ = __abs__ = _missing
    __str__ = __format__ = _missing

    def __repr__(self) -> str:
        return "injected"

    def __reduce__(self) -> str:
        return "injected"


injected: Any = _Injected()
