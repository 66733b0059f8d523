"""What a tail takes and gives, and whether its samples know of each other: found out by running it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from ..backends.packed import pack_tail
from ..errors import ModelError, RequestError
from ..inputs import copied, example_inputs
from ..quantized import payload_quantizers
from ..serving_protocol import output_names
from .output_structure import values_of
from .planner import Grid, Signature, Tail, Value

_SAMPLES = 3
_TOLERANCE = 1e-3
"""Of sums in another order, relative to the largest value."""


@torch.no_grad()
def probed(head: GraphModule | None, tail: GraphModule) -> Tail:
    """The tail of a split with this head; without one, a whole model.

    Raises:
        ModelError: it cannot run on what it was captured with, or returns what cannot be sent.
    """
    try:
        given = _inputs(tail if head is None else head)
        payload = given if head is None else head(*copied(given))
        together: list[Any] = []
        taken = copied(payload)
        outputs = values_of(tail(*taken), together)
    except (RuntimeError, IndexError, ValueError, TypeError, RequestError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"the model does not run on inputs like those it was captured with: {error}") from error
    batches = _batches(tail, payload, together)
    grids = [None] * len(payload) if head is None else [
        None if each is None else Grid(each.bits, each.step, each.zero_point) for each in payload_quantizers(head)
    ]  # fmt: skip
    names = [str(node.target).lstrip("*") for node in tail.graph.nodes if node.op == "placeholder"]
    signature = Signature(
        takes=tuple(_value(*each, batches) for each in zip(names, payload, grids, strict=True)),
        gives=tuple(_value(*each, None, batches) for each in zip(output_names(outputs), together, strict=True)),
        outputs=outputs,
        batches=batches,
        alone=None if head is None else _alone(taken, together),
    )
    return Tail(pack_tail(tail), signature)


def _alone(taken: Sequence[Any], given: Sequence[Any]) -> tuple[int, ...] | None:
    """Which of the values that a tail took those are that it gave, if it did nothing to any."""
    places = [next((place for place, value in enumerate(taken) if value is each), None) for each in given]
    return None if None in places else tuple(place for place in places if place is not None)


def _inputs(graph: GraphModule) -> Sequence[Any]:
    """Values that the graph runs on: some samples that differ, where it takes them."""
    zeros = example_inputs(graph)
    random = torch.Generator().manual_seed(0)

    def varied(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.dim():
            return value
        shape = (_SAMPLES, *value.shape[1:])
        if value.is_floating_point() or value.is_complex():
            return torch.randn(shape, generator=random, dtype=torch.float32).to(value.dtype)
        return torch.randint(0, 2, shape, generator=random).to(value.dtype)

    several = tuple(map(varied, zeros))
    try:
        graph(*copied(several))
    except Exception:
        return zeros
    return several


def _batches(tail: GraphModule, payload: Sequence[Any], together: Sequence[Any]) -> bool:
    """Whether the samples of ``payload`` give the same one by one."""

    def is_batch(value: Any) -> bool:
        return isinstance(value, Tensor) and value.dim() > 0 and len(value) == _SAMPLES

    if not all(map(is_batch, (*payload, *together))):
        return False
    for part in (slice(0, 1), slice(1, _SAMPLES)):
        alone: list[Any] = []
        try:
            values_of(tail(*(value[part].clone() for value in payload)), alone)
        except Exception:
            return False
        if not all(_near(one, whole[part]) for one, whole in zip(alone, together, strict=True)):
            return False
    return True


def _near(one: Any, other: Tensor) -> bool:
    if not isinstance(one, Tensor) or one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    scale = float(other.abs().nan_to_num(0, 0, 0).amax()) if other.numel() else 0.0
    return torch.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE * scale, equal_nan=True)


def _value(name: str, value: Any, grid: Grid | None, batches: bool) -> Value:
    if not isinstance(value, Tensor):
        return Value(name, None, (), None, value)
    shape = tuple(value.shape[1:]) if batches else tuple(value.shape)
    return Value(name, str(value.dtype).removeprefix("torch."), shape, grid)
