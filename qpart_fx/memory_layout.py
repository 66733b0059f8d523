"""Where the elements of a tensor lie in memory, and what of that memory has to be sent.

A strided tensor may leave gaps, repeat its elements, or lie in any order of its dimensions. Needs nothing but Python.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod

_MOST_MEMORY, _MOST_ELEMENTS = 2**24, 2**28
"""Elements that a few values may be spread over, and repeated to: a message of some bytes must not exhaust a server."""


class MemoryLayout:
    """Where the elements of a tensor lie; sizes and strides in elements.

    Attributes:
        shape: the tensor's sizes.
        strides: its strides.
        loops: sizes and strides that visit all of its memory, nearest elements last, without what repeats elements.
        overlaps: whether elements share memory in another way than by a stride of 0, as sliding windows may.
        span: elements of memory, from the first to the last.
        count: values to send.

    >>> MemoryLayout((1000, 3), (0, 1)).count  # that of torch.arange(3.0).expand(1000, 3)
    3
    """

    def __init__(self, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.shape, self.strides = shape, strides
        both = [(stride, size) for size, stride in zip(shape, strides, strict=True) if size > 1 and stride]
        both = [(1, 0)] if 0 in shape else sorted(both, reverse=True)
        self.loops = tuple(size for _, size in both), tuple(stride for stride, _ in both)
        self.overlaps, self.span = False, 1
        for stride, size in reversed(both):
            self.overlaps |= stride < self.span
            self.span += (size - 1) * stride
        self.count = self.span if self.overlaps else prod(self.loops[0])

    @classmethod
    def contiguous(cls, shape: tuple[int, ...]) -> MemoryLayout:
        """That of a tensor of ``shape`` without gaps, the last dimension nearest: torch's own order.

        >>> MemoryLayout.contiguous((2, 3, 4)).strides
        (12, 4, 1)
        """
        return _contiguous(shape)

    @property
    def can_be_kept(self) -> bool:
        """Whether it costs no more to send it as it is than element by element, and nothing of size to rebuild it."""
        return (
            self.count <= prod(self.shape) <= max(self.count, _MOST_ELEMENTS)
            and self.span <= max(4 * self.count, _MOST_MEMORY)
            and all(stride < 2**32 for stride in self.strides)
        )


@lru_cache(maxsize=256)
def _contiguous(shape: tuple[int, ...]) -> MemoryLayout:
    """Kept, since the calls of a head are all of a few shapes."""
    strides, stride = [], 1
    for size in reversed(shape):
        strides.append(stride)
        stride *= max(size, 1)
    return MemoryLayout(shape, tuple(reversed(strides)))
