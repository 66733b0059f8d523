"""Calibration data: read from whatever iterable the caller has, checked, and split into parts that do not overlap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import map_aggregate

from .errors import CalibrationError, RequestError
from .inputs import copied, describe_inputs

HOW = (
    "give an iterable of batches, each `inputs` or `(inputs, targets)`; inputs are a tensor, a tuple, or a dict of "
    "keyword arguments"
)


@dataclass(frozen=True, slots=True)
class Batch:
    """One call of the model, ``size`` samples, and what it should answer (None when unlabelled)."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    targets: Tensor | None
    size: int

    def select(self, indices: slice) -> Batch:
        """The samples at ``indices`` of the first dimension; what does not have the batch's size stays as it is."""

        def pick(value: Any) -> Any:
            batched = isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == self.size
            return value[indices] if batched else value

        size = len(range(self.size)[indices])
        args, kwargs = map_aggregate(self.args, pick), map_aggregate(dict(self.kwargs), pick)
        return Batch(tuple(args), dict(kwargs), None if self.targets is None else self.targets[indices], size)

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""

        def move(value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor) else value

        args, kwargs = map_aggregate(self.args, move), map_aggregate(dict(self.kwargs), move)
        return Batch(tuple(args), dict(kwargs), move(self.targets), self.size)

    def copy(self) -> Batch:
        """The same batch in memory of its own, for a model that may write to its inputs."""
        args, kwargs = map_aggregate(self.args, copied), map_aggregate(dict(self.kwargs), copied)
        return Batch(tuple(args), dict(kwargs), self.targets, self.size)

    def chunks(self, size: int) -> Iterator[Batch]:
        """The batch in pieces of at most ``size`` samples."""
        for start in range(0, self.size, size):
            yield self.select(slice(start, start + size))


def read_batches(calibration: Iterable[Any] | None, *, max_samples: Any) -> list[Batch]:
    """The first ``max_samples`` samples of ``calibration``, checked.

    Raises:
        CalibrationError: there are none, or a batch is not of a known form, not finite, or not as long as its targets.
    """
    if not isinstance(max_samples, int) or max_samples < 1:
        raise RequestError(f"max_samples = {max_samples!r}: must be a whole number from 1")
    if calibration is None:
        raise CalibrationError(f"no calibration data: {HOW}, as `calibration=`")
    if isinstance(calibration, Tensor | Mapping) or not isinstance(calibration, Iterable):
        raise CalibrationError(f"calibration is a {type(calibration).__name__}: {HOW}; put a single batch in a list")
    batches: list[Batch] = []
    left = max_samples
    for number, item in enumerate(calibration):
        batch = _read(item, number)
        if batch.size:
            batches.append(batch.select(slice(0, left)))
            left -= batches[-1].size
        if left <= 0:
            break
    if not batches:
        raise CalibrationError(f"the calibration data hold no sample: {HOW}")
    if len({batch.targets is None for batch in batches}) > 1:
        raise CalibrationError(
            "some calibration batches have targets and some have none: give targets to all or to none"
        )
    return batches


def alternate(batches: Iterable[Batch]) -> tuple[list[Batch], list[Batch]]:
    """The samples in two parts that do not overlap, one by one in turn, so that sorted data are shared fairly.

    A single sample has to serve as both.
    """
    parts: tuple[list[Batch], list[Batch]] = ([], [])
    seen = 0
    for batch in batches:
        for part in (0, 1):
            picked = batch.select(slice((part - seen) % 2, None, 2))
            if picked.size:
                parts[part].append(picked)
        seen += batch.size
    return (parts[0], parts[1] or parts[0])


def spread(batches: Sequence[Batch], samples: int, size: int) -> list[Batch]:
    """At most ``samples`` samples, at even distances over all ``batches``, since data may be sorted; in batches of at
    most ``size``."""
    step = -(-sum(batch.size for batch in batches) // samples)
    groups: dict[tuple[Any, ...], list[list[Any]]] = {}
    seen = 0
    for batch in batches:
        picked = batch.select(slice(-seen % step, None, step))
        seen += batch.size
        if picked.size:
            groups.setdefault(_signature(batch), []).append([batch, picked])
    if size == 1:  # nothing is joined, and so nothing copied
        return [chunk for parts in groups.values() for _, picked in parts for chunk in picked.chunks(1)]
    joined = [_join(parts) for parts in groups.values()]
    return [chunk for batch in joined for chunk in batch.chunks(size)]


def _signature(batch: Batch) -> tuple[Any, ...]:
    """Equal for batches that can be joined: what does not have the batch's size has to be the same thing."""
    found: list[Any] = []

    def look(value: Any) -> Any:
        batched = isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == batch.size
        found.append((value.shape[1:], value.dtype, value.device) if batched else id(value))
        return value

    structure = str(map_aggregate((batch.args, dict(batch.kwargs)), lambda value: type(value).__name__))
    map_aggregate((batch.args, dict(batch.kwargs)), look)
    return structure, *found


def _join(parts: Sequence[Sequence[Batch]]) -> Batch:
    """Some samples of each of several batches in one; ``parts``: a batch, and those picked from it."""
    places = iter(zip(*(_leaves(picked) for _, picked in parts), strict=True))
    whole, first = parts[0]
    originals = iter(_leaves(whole))

    def join(_: Any) -> Any:
        values = next(places)
        return values[0] if values[0] is next(originals) else torch.cat(values)

    args, kwargs = map_aggregate(first.args, join), map_aggregate(dict(first.kwargs), join)
    targets = (
        None
        if first.targets is None
        else torch.cat([picked.targets for _, picked in parts if picked.targets is not None])
    )
    return Batch(tuple(args), dict(kwargs), targets, sum(picked.size for _, picked in parts))


def _leaves(batch: Batch) -> list[Any]:
    found: list[Any] = []
    map_aggregate((batch.args, dict(batch.kwargs)), found.append)
    return found


def _read(item: Any, number: int) -> Batch:
    inputs, targets = item, None
    if isinstance(item, tuple | list) and len(item) == 2:
        inputs, targets = item
    if isinstance(inputs, Mapping):
        args, kwargs = (), dict(inputs)
    else:
        args, kwargs = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,), {}
    tensors = _tensors((args, kwargs), number)
    if not tensors:
        raise CalibrationError(
            f"calibration batch {number} holds no tensor, but {describe_inputs(args, kwargs)}: {HOW}"
        )
    size = tensors[0].shape[0] if tensors[0].dim() else 0
    if targets is not None:
        if not isinstance(targets, Tensor):
            try:
                targets = torch.as_tensor(targets)
            except (TypeError, ValueError, RuntimeError) as error:
                raise CalibrationError(f"calibration batch {number} has targets that are no tensor: {error}") from error
        if targets.dim() == 0 or targets.shape[0] != size:
            raise CalibrationError(
                f"calibration batch {number} has {size} samples and targets of shape {list(targets.shape)}. A pair is "
                "read as (inputs, targets); write two inputs without targets as ((first, second), None)"
            )
    return Batch(args, kwargs, targets, size)


def _tensors(inputs: Any, number: int) -> list[Tensor]:
    found: list[Tensor] = []

    def look(value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.layout is not torch.strided or value.is_meta:
                raise CalibrationError(f"calibration batch {number} holds a tensor that is sparse or without storage")
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                bad = int((~torch.isfinite(value)).sum())
                raise CalibrationError(f"calibration batch {number} holds {bad} NaN or infinite values: clean the data")
            found.append(value)
        elif hasattr(value, "__array__"):
            raise CalibrationError(
                f"calibration batch {number} holds a {type(value).__name__}: use torch.as_tensor on it"
            )
        return value

    map_aggregate(inputs, look)
    return found
