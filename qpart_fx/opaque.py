"""A part of a model that no graph can hold, kept as one node that calls the model's own code."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx.proxy import TraceError

from .structure import Part, take_apart


class Opaque(nn.Module):
    """One call of a method of ``owner``, whose path depends on the contents of tensors. It runs on the server only.

    Args:
        arguments: the positional and keyword arguments of the call without their tensors, which forward takes.
    """

    def __init__(self, owner: nn.Module, method: str, arguments: Part) -> None:
        super().__init__()
        self.owner = _twin(owner)
        self.method = method
        self.arguments = arguments

    def called_with(self, arguments: Part) -> Opaque:
        """Another call of the same method."""
        return Opaque(self.owner, self.method, arguments)

    def forward(self, *tensors: Any) -> Any:
        args, kwargs = self.arguments.build(tensors)
        before = _tensors((args, kwargs))
        result = getattr(self.owner, self.method)(*args, **kwargs)
        if _tensors((args, kwargs)) > before:  # it filled a cache, for example
            raise TraceError(f"{self.extra_repr()} keeps tensors in its arguments, where the graph does not see them")
        return result

    def extra_repr(self) -> str:
        return f"{type(self.owner).__name__}.{self.method}"


def _tensors(value: Any) -> int:
    found: list[Any] = []
    take_apart(value, found)
    return len(found)


def _twin(module: nn.Module) -> nn.Module:
    """The same module, parameters and submodules in another object: what is patched on one is not on the other."""
    twin: nn.Module = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    return twin
