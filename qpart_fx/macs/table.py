"""The table from operations to the functions that count their multiply-adds, and what such a function sees."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn
from torch.overrides import resolve_name

from qpart_fx.errors import InternalError, ModelError, QPartError, RequestError
from qpart_fx.meta import TensorInfo


@dataclass(frozen=True, slots=True)
class Call:
    """One call in a graph, as a handler sees it: every tensor is replaced by its :class:`~qpart_fx.meta.TensorInfo`.

    ``args`` and ``kwargs`` are as written in the graph (a method's tensor is ``args[0]``), ``output`` is what the call
    returned, and ``module`` the module that was called, or None for a function or method. A shape that was never
    propagated is None.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any
    module: nn.Module | None

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """The argument at ``position`` or, if it was not given there, the one called ``name``.

        >>> Call(args=(1,), kwargs={"dim": 2}, output=None, module=None).argument(1, "dim", default=0)
        2
        """
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)

    def tensor(self, position: int, name: str) -> TensorInfo | None:
        """The argument there if it is a tensor of known shape, else None."""
        found = self.argument(position, name)
        return found if isinstance(found, TensorInfo) else None


Operation: TypeAlias = Callable[..., Any]
"""A function, an unbound method, a type of module or, in a graph, a module."""

Handler: TypeAlias = Callable[[Call], "int | None"]
"""Multiply-adds of a call; None if they cannot be known from it."""

_handlers: dict[Operation, Handler] = {}


class HandlerError(Exception):
    """A handler that raised or returned nonsense; ``kind`` is the public error to raise once the node is known."""

    def __init__(self, message: str, kind: type[QPartError]) -> None:
        super().__init__(message)
        self.kind = kind


def register_macs(*operations: Operation) -> Callable[[Handler], Handler]:
    """Make the decorated function the one that counts the multiply-adds (MACs) of ``operations``.

    Args:
        operations: functions as they stand in the graph (``torch.matmul``, ``operator.matmul``), unbound tensor
            methods (``torch.Tensor.bmm``), or subclasses of ``nn.Module``. A later registration replaces an earlier
            one, ours too.

    The handler takes a :class:`Call` and returns the multiply-adds of the whole call, batch included, counting
    contractions only (one multiply-add each), or None if it cannot know. A module's handler serves subclasses too,
    as long as they do not override ``forward``.

    >>> class Scale(nn.Module): ...
    >>> @register_macs(Scale)
    ... def scale_macs(call: Call) -> int | None:
    ...     return 0

    Raises:
        RequestError: an operation is neither a function nor a type of module.
    """
    if not operations:
        raise RequestError("register_macs needs at least one function or type of module")
    for operation in operations:
        _require_operation(operation)

    def register(handler: Handler) -> Handler:
        _require_handler(handler)
        _handlers.update(dict.fromkeys(operations, handler))
        return handler

    return register


def _require_operation(given: Any) -> None:
    if isinstance(given, nn.Module):
        raise RequestError(f"register_macs takes types of modules, not modules: pass {type(given).__name__}")
    if not callable(given) or not _is_hashable(given):
        raise RequestError(f"register_macs takes functions and types of modules, not {given!r}")


def _require_handler(given: Any) -> None:
    if not callable(given):
        raise RequestError(f"a MAC handler is a function of one Call, not {given!r}")


def handler_of(operation: Operation) -> Handler | None:
    """The handler of a function, of a module, or of the nearest base of its type whose ``forward`` it still runs."""
    if not isinstance(operation, nn.Module):
        return _handlers.get(operation) if _is_hashable(operation) else None
    for kind in type(operation).__mro__:
        if kind in _handlers:
            return _handlers[kind]
        if "forward" in vars(kind):
            return None
    return None


def count(operation: Operation, call: Call) -> int | None:
    """Multiply-adds of ``call``, or None where no handler knows them.

    Raises:
        HandlerError: the handler raised, or what it returned is no number of multiply-adds.
    """
    handler = handler_of(operation)
    if handler is None:
        return None
    try:
        macs = handler(call)
    except HandlerError:
        raise
    except Exception as error:
        raise _failure(handler, operation, f"raised {error!r}") from error
    if macs is not None and (type(macs) is not int or macs < 0):
        raise _failure(handler, operation, f"returned {macs!r}, which is neither a non-negative int nor None")
    return macs


def name_of(operation: Operation | str) -> str:
    """A readable name: ``torch.fft.rfft``, ``torch.Tensor.cov``, ``torch.nn.modules.rnn.LSTM``."""
    described: Any = type(operation) if isinstance(operation, nn.Module) else operation
    known = resolve_name(described) if _is_hashable(described) else None
    name = getattr(described, "__qualname__", None)
    return str(known or (f"{described.__module__}.{name}" if name else described))


def _is_hashable(given: Any) -> bool:
    return isinstance(given, Hashable)


def _failure(handler: Handler, operation: Operation, what: str) -> HandlerError:
    ours = str(getattr(handler, "__module__", "")).startswith(f"{__package__}.")
    kind, remedy = (InternalError, "please report it") if ours else (ModelError, "correct it")
    message = f"the MAC handler {name_of(handler)} of {name_of(operation)} {what}; {remedy}, or register another"
    return HandlerError(f"{message} with qpart.register_macs", kind)
