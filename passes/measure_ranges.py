"""Calibration: the least and greatest value of what may cross a cut."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from qpart_fx.replay import Replay

Range = tuple[float, float]


def widen_ranges(ranges: dict[str, Range], replay: Replay, names: Iterable[str]) -> None:
    """Widen ``ranges`` to hold the values of the nodes ``names`` in one more run; nodes of integers are passed over."""
    for name in names:
        value = replay.value(name)
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            # numpy's are several times as quick as torch's, most of all where channels lie last
            array = (value if value.dtype in (torch.float32, torch.float64) else value.float()).cpu().numpy()
            low, high = float(array.min()), float(array.max())
            before = ranges.get(name, (low, high))
            ranges[name] = (min(low, before[0]), max(high, before[1]))
