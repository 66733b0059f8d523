"""Integers of quantized weights, entropy-coded: each row by a model of its own scale, all rows in one stream.

The rows of a tensor differ in scale, and often its columns do: inputs that are never there, the rim of a filter. So
every row is of a class, which says how large its numbers are, four classes an octave; where it pays, a column is some
classes above or below; and the numbers of each class are coded by one model: a discretised Laplace or Gaussian
distribution, whichever the tensor's numbers are nearer to. A model's probabilities follow from its class by decimal
arithmetic, which rounds alike everywhere: no table is sent, and no machine disagrees. Numbers far larger than a byte
are coded without their lowest bits, which are as good as random and follow as they are.

Layout, little-endian: the shape of the models (1 byte; 2 more where columns differ); the least class of a row and the
number of classes (1 byte each); the largest number (4 bytes); the bytes of the lowest bits (4 bytes); these bits; and
the words of an ANS stream (Duda, 2009): the class of every row; where columns differ, the class of what they do by, and
this for each; then the numbers class by class.

Needs numpy and constriction only.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .bitpack import pack_bits, packed_size, unpack_bits
from .errors import ArtifactError, MissingDependencyError

Integers = NDArray[np.int32]

MOST = 2**20
"""No number is larger than this."""

_HEADER = struct.Struct("<BBBII")

_PER_OCTAVE = 4
_LEAST, _CLASSES = -7 * _PER_OCTAVE, 28 * _PER_OCTAVE
"""The first class has a mean magnitude of 2**-7; how many there are."""

_COLUMN_STEP, _MOST_COLUMN_STEPS = 2, 14
"""Columns are this many classes apart, or a multiple of it, up to so many times: half octaves."""

_LOOKED_AT = 1 << 17
"""Numbers that show whether columns differ."""

_COLUMNS_DIFFER = 2
"""Is added to the shape of the models then."""

_POWERS = (1, 2)
"""Shapes of the models: a density exp(-|x|**power), Laplace's and Gauss's."""

_DETAIL = 5
"""Lowest bits are left out of the models where those that stay have a mean magnitude of 2**_DETAIL still."""

_FLOOR = 2.0**-23
"""The least probability of a number, so that an outlier can be coded at all; above the coder's precision of 2**-24."""

_NEVER = 60
"""Where a density has fallen by exp(-60) it is taken for 0."""

_MOST_A_BYTE = 1024
"""No class makes a number so likely that more would fit: that of all zeros makes them 720 a byte."""


def encode(numbers: Integers) -> bytes:
    """Code ``numbers``, shape (rows, columns), each within :data:`MOST`.

    >>> decode(encode(np.array([[3, -1, 0], [0, 0, 0]], dtype=np.int32)), 2, 3).tolist()
    [[3, -1, 0], [0, 0, 0]]

    Raises:
        MissingDependencyError: constriction is not installed (the extras ``torch`` and ``device``).
        ValueError: a number is too large.
    """
    constriction = _constriction()
    if not numbers.size:
        return b""
    magnitude = np.abs(numbers)
    most = max(int(magnitude.max()), 1)  # a model is of two numbers at least
    if most > MOST:
        raise ValueError(f"a number of {most:,} is too large: {MOST:,} at most")
    best = _coded_by(_best_classes(numbers, magnitude, most), numbers, most)
    classes, shape = best.classes, best.shape
    coder = constriction.stream.stack.AnsCoder()
    for (kind, _), symbols in zip(reversed(best.groups), reversed(best.high), strict=True):
        model, first = _model(shape, kind, most >> _left_out(kind))
        coder.encode_reverse((symbols - first).astype(np.int32), model)
    if classes.columns is not None:
        of_steps = _class_of(np.abs(classes.columns).mean(keepdims=True))
        model, first = _model(0, int(of_steps[0]), _MOST_COLUMN_STEPS)
        coder.encode_reverse((classes.columns - first).astype(np.int32), model)
        coder.encode_reverse((of_steps - _LEAST).astype(np.int32), constriction.stream.model.Uniform(_CLASSES))
    least, used = int(classes.rows.min()), int(classes.rows.max() - classes.rows.min()) + 1
    if used > 1:
        coder.encode_reverse((classes.rows - least).astype(np.int32), constriction.stream.model.Uniform(used))
    low = b"".join(
        pack_bits((group & ((1 << bits) - 1)).astype(np.uint16), bits)
        for kind, group in best.groups
        if (bits := _left_out(kind))
    )
    words: bytes = coder.get_compressed().astype("<u4").tobytes()
    differ = 0 if classes.columns is None else _COLUMNS_DIFFER
    return _HEADER.pack(shape + differ, least - _LEAST, used - 1, most, len(low)) + low + words


def decode(data: bytes | memoryview, rows: int, columns: int, most_allowed: int = MOST) -> Integers:
    """The numbers that :func:`encode` coded, shape (rows, columns), none beyond ``most_allowed``.

    No more is allocated than they, and a model of so many numbers, take: nothing where the bytes are too few for them.

    Raises:
        ArtifactError: the bytes are not what ``encode`` makes of so many numbers.
        MissingDependencyError: as of ``encode``.
    """
    if not rows * columns:
        if len(data):
            raise ArtifactError(f"{len(data)} bytes are left where nothing was coded")
        return np.zeros((rows, columns), dtype=np.int32)
    if rows * columns > _MOST_A_BYTE * len(data):
        raise ArtifactError(f"{rows * columns:,} numbers are claimed to be coded in {len(data):,} bytes")
    constriction = _constriction()
    try:
        shape, least, used, most, size = _HEADER.unpack_from(data)
        differ, shape = shape >= _COLUMNS_DIFFER, shape % _COLUMNS_DIFFER
        if data[0] >= 2 * _COLUMNS_DIFFER or most > most_allowed or least + used >= _CLASSES:
            raise ArtifactError("coded weights claim a model that there is not")
        words = data[_HEADER.size + size :]
        if _HEADER.size + size > len(data) or len(words) % 4:
            raise ArtifactError("coded weights are cut short")
        coder = constriction.stream.stack.AnsCoder(np.frombuffer(words, dtype="<u4").astype(np.uint32))
        of_rows = np.full(rows, least + _LEAST)
        if used:
            of_rows += coder.decode(constriction.stream.model.Uniform(used + 1), rows)
        of_columns = None
        if differ:
            (number,) = coder.decode(constriction.stream.model.Uniform(_CLASSES), 1)
            model, first = _model(0, int(number) + _LEAST, _MOST_COLUMN_STEPS)
            of_columns = (coder.decode(model, columns) + first).astype(np.int64)
        classes = _Classes(of_rows, of_columns, columns)
        place = _HEADER.size
        found = []
        for kind, count in classes.counts():
            bits = _left_out(kind)
            model, first = _model(shape, kind, most >> bits)
            group = coder.decode(model, count) + first
            if bits:
                taken = packed_size(count, bits)
                group = (group << bits) | unpack_bits(data[place : place + taken], count, bits).astype(np.int32)
                place += taken
            found.append(group)
        numbers = classes.joined(found)
    except ArtifactError:
        raise
    except (struct.error, ValueError, AssertionError) as error:
        raise ArtifactError(f"coded weights are malformed: {error}") from None
    if place != _HEADER.size + size or not coder.is_empty():
        raise ArtifactError("coded weights do not end where they should")
    return numbers


@dataclass(frozen=True)
class _Classes:
    """The class of each of ``rows``, and by how many steps each of ``columns`` is above or below; None: none is."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64] | None
    width: int
    """Columns."""

    @classmethod
    def of_rows(cls, of_rows: NDArray[np.int64], width: int) -> _Classes:
        """From the sum of the magnitudes of each row."""
        return cls(_class_of(of_rows / width), None, width)

    @classmethod
    def of_both(cls, of_rows: NDArray[np.int64], of_columns: NDArray[np.int64]) -> _Classes:
        """As if a number's expected magnitude were the product of one of its row and one of its column."""
        relative = (of_columns + 0.3) / (of_rows.sum() + 0.3)  # a column of zeros might have held some
        steps = np.round(_PER_OCTAVE / _COLUMN_STEP * np.log2(relative))
        steps = np.clip(steps - np.median(steps), -_MOST_COLUMN_STEPS, _MOST_COLUMN_STEPS).astype(np.int64)
        total = (2.0 ** (steps * _COLUMN_STEP / _PER_OCTAVE)).sum()
        return cls(_class_of(of_rows / total), steps, len(steps))

    def counts(self) -> list[tuple[int, int]]:
        """The classes that there are, by size, and how many numbers are of each."""
        sizes: dict[int, int] = {}
        for kind, row, column in self._blocks:
            sizes[kind] = sizes.get(kind, 0) + len(row) * (column.stop - column.start)
        return sorted(sizes.items())

    def apart(self, numbers: Integers) -> list[tuple[int, Integers]]:
        """The numbers of each class, in the order of ``counts``."""
        ordered = numbers if self.columns is None else np.ascontiguousarray(numbers[:, self._order])
        pieces: dict[int, list[Integers]] = {}
        rows: dict[int, Integers] = {}
        for kind, row, column in self._blocks:
            if id(row) not in rows:
                rows = {id(row): ordered[row]}
            pieces.setdefault(kind, []).append(rows[id(row)][:, column].ravel())
        return [(kind, np.concatenate(pieces[kind])) for kind in sorted(pieces)]

    def joined(self, groups: list[Integers]) -> Integers:
        """What :meth:`apart` took apart."""
        ordered = np.empty((len(self.rows), self.width), dtype=np.int32)
        places = dict.fromkeys((kind for kind, _ in self.counts()), 0)
        by_kind = dict(zip(places, groups, strict=True))
        for kind, row, column in self._blocks:
            size = len(row) * (column.stop - column.start)
            piece = by_kind[kind][places[kind] : places[kind] + size]
            ordered[row, column] = piece.reshape(len(row), -1)
            places[kind] += size
        if self.columns is None:
            return ordered
        numbers = np.empty_like(ordered)
        numbers[:, self._order] = ordered
        return numbers

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        """Of columns that differ, by how much they do."""
        assert self.columns is not None
        return np.argsort(self.columns, kind="stable")

    @cached_property
    def _blocks(self) -> list[tuple[int, NDArray[np.int64], slice]]:
        """The class, the rows and the ordered columns of numbers that are of one class and lie together."""
        runs = [(0, slice(0, self.width))]
        if self.columns is not None:
            steps, starts = np.unique(self.columns[self._order], return_index=True)
            ends = [*starts[1:].tolist(), self.width]
            runs = [*zip(steps.tolist(), map(slice, starts.tolist(), ends), strict=True)]
        return [
            (min(max(kind + step * _COLUMN_STEP, _LEAST), _LEAST + _CLASSES - 1), rows, run)
            for kind, rows in ((kind, np.flatnonzero(self.rows == kind)) for kind in np.unique(self.rows).tolist())
            for step, run in runs
        ]

    @property
    def bits(self) -> float:
        """About what it takes to say them."""
        bits = len(self.rows) * math.log2(np.ptp(self.rows) + 1)
        if self.columns is not None:
            _, counts = np.unique(self.columns, return_counts=True)
            bits += float(counts @ np.log2(self.width / counts)) + 16
        return bits


class _Coded(NamedTuple):
    """How numbers would be coded: in ``groups`` of a class each, ``high`` without the bits left out; in ``bits``."""

    classes: _Classes
    groups: list[tuple[int, Integers]]
    high: list[Integers]
    shape: int
    bits: float


def _best_classes(numbers: Integers, magnitude: Integers, most: int) -> _Classes:
    """Whether columns differ, as some of the rows tell."""
    of_rows = magnitude.sum(axis=1, dtype=np.int64)
    classes = _Classes.of_rows(of_rows, numbers.shape[1])
    if min(numbers.shape) < 2:
        return classes
    columns = _Classes.of_both(of_rows, magnitude.sum(axis=0, dtype=np.int64))
    every = max(1, numbers.size // _LOOKED_AT)
    some = numbers[::every]
    bits = [
        _coded_by(_Classes(each.rows[::every], each.columns, each.width), some, most).bits * every + each.bits
        for each in (classes, columns)
    ]
    return classes if bits[0] <= bits[1] else columns


def _coded_by(classes: _Classes, numbers: Integers, most: int) -> _Coded:
    groups = classes.apart(numbers)
    high = [group >> left if (left := _left_out(kind)) else group for kind, group in groups]
    costs = np.zeros(len(_POWERS))
    low = 0
    for (kind, group), symbols in zip(groups, high, strict=True):
        left = _left_out(kind)
        low += left * len(group)
        least = int(symbols.min())
        counts = np.bincount(symbols - least)
        for shape in range(len(_POWERS)):
            costs[shape] += _bits(shape, kind, most >> left, least, counts)
    return _Coded(classes, groups, high, int(np.argmin(costs)), float(costs.min()) + low)


def _bits(shape: int, kind: int, most: int, least: int, counts: NDArray[np.int64]) -> float:
    """What ``counts`` of the numbers from ``least`` on take by :func:`_probabilities`, of which only these are made."""
    logarithms, total = _logarithms(shape, kind, most)
    numbers = np.arange(least, least + len(counts))
    places = np.abs(2 * numbers + 1) if _left_out(kind) else np.abs(2 * numbers)
    return float(counts.sum() * total - counts @ logarithms[np.minimum(places, len(logarithms) - 1)])


@lru_cache(maxsize=512)
def _logarithms(shape: int, kind: int, most: int) -> tuple[NDArray[np.float64], float]:
    """To base 2, of a density at 0, 1/2, 1, ... and of its sum over all numbers that there are."""
    bits = _left_out(kind)
    density = np.maximum(_density(shape, kind - _PER_OCTAVE * bits), _FLOOR)
    reach = most + 1 if bits else most
    side = density[1::2][:reach] if bits else density[2::2][:reach]
    total = 2 * (side.sum() + (reach - len(side)) * _FLOOR) + (0 if bits else density[0])
    return np.log2(density), float(np.log2(total))


def _class_of(mean: NDArray[np.float64]) -> NDArray[np.int64]:
    """The class of numbers of a mean magnitude."""
    found = np.round(_PER_OCTAVE * np.log2(np.maximum(mean, 1e-9))).astype(np.int64)
    return np.asarray(np.clip(found, _LEAST, _LEAST + _CLASSES - 1))


def _left_out(kind: int) -> int:
    """How many of the lowest bits the model of a class leaves out."""
    return min(max(kind // _PER_OCTAVE - _DETAIL, 0), 16)


def _model(shape: int, kind: int, most: int) -> tuple[Any, int]:
    """The coder's model of the numbers of a class, without the bits left out, and the first of them."""
    probabilities, first = _probabilities(shape, kind, most)
    return _constriction().stream.model.Categorical(probabilities, perfect=False), first


def _probabilities(shape: int, kind: int, most: int) -> tuple[NDArray[np.float64], int]:
    """Of each number from ``first`` to ``most``: a density at them, with the mean magnitude of the class.

    Rows below zero by the bits left out reach one further.
    """
    bits = _left_out(kind)
    first = -most - (1 if bits else 0)
    density = _density(shape, kind - _PER_OCTAVE * bits)
    numbers = np.arange(first, most + 1)
    # a number whose lowest bits are left out stands for those above it: its middle lies half above
    places = np.abs(2 * numbers + 1) if bits else np.abs(2 * numbers)
    probabilities = np.maximum(density[np.minimum(places, len(density) - 1)], _FLOOR)
    return probabilities / probabilities.sum(), first


@lru_cache(maxsize=1024)
def _density(shape: int, kind: int) -> NDArray[np.float64]:
    """A density at 0, 1/2, 1, ... until it is 0, of the class's mean magnitude once it is one of whole numbers."""
    with localcontext() as context:
        context.prec = 36  # products lose some of it
        mean = Decimal(2) ** (Decimal(kind) / _PER_OCTAVE)
        if _POWERS[shape] == 1:  # sum |n| t**|n| / sum t**|n| = 2 t / (1 - t**2)
            t = ((1 + mean * mean).sqrt() - 1) / mean
            rate = -t.ln() / 2
        else:
            rate = _gaussian_rate(mean) / 4
        density = [float(value) for value in _decay(rate, _POWERS[shape])]
    return np.array([*density, 0.0])


def _decay(rate: Decimal, power: int) -> Iterator[Decimal]:
    """exp(-rate * n**power) for n = 0, 1, ... until it is next to 0, by products: an exponential takes much longer."""
    value, number = Decimal(1), 0
    ratio = (-rate).exp()  # of a value to the one before
    change = ratio * ratio if power == 2 else Decimal(1)
    while rate * number**power < _NEVER:
        yield value
        value, ratio, number = value * ratio, ratio * change, number + 1


def _gaussian_rate(mean: Decimal) -> Decimal:
    """The a for which sum |n| exp(-a n**2) / sum exp(-a n**2) over all whole numbers is ``mean``, by bisection."""
    if mean > 4:  # sums are integrals
        return 1 / (Decimal("3.14159265358979323846") * mean * mean)
    low, high = Decimal("0.01"), Decimal(20)
    for _ in range(60):
        middle = (low + high) / 2
        above, total = Decimal(0), Decimal(-1)  # 0 is there once, all others twice
        for number, part in enumerate(_decay(middle, 2)):
            above, total = above + 2 * number * part, total + 2 * part
        low, high = (middle, high) if above / total > mean else (low, middle)
    return low


@lru_cache(maxsize=1)
def _constriction() -> Any:
    try:
        import constriction
    except ImportError as error:
        raise MissingDependencyError("entropy coding", extra="torch") from error
    return constriction
