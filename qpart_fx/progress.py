"""Progress of long work, where there is a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def progress_bar(items: Sequence[T], what: str, *, enabled: bool, unit: str = "batch") -> Iterable[T]:
    """``items``, while a bar called ``what`` shows how many have been taken."""
    from tqdm import tqdm

    bar: Iterable[T] = tqdm(items, desc=what, unit=unit, leave=False, disable=None if enabled else True)
    return bar
