"""Integers of quantized weights, entropy-coded: each row by a model of its own scale, all rows in one stream.

The rows of a tensor differ in scale by far more than the weights of one row do. So every row is of a class, which says
how large its numbers are, four classes an octave, and the numbers of each class are coded by one model: a discretised
Laplace or Gaussian distribution, whichever the tensor's numbers are nearer to. A model's probabilities follow from its
class by decimal arithmetic, which rounds alike everywhere: no table is sent, and no machine disagrees. Numbers far
larger than a byte are coded without their lowest bits, which are as good as random and follow as they are.

Layout, little-endian: the shape of the models (1 byte); the least class and the number of classes (1 byte each); the
largest number (4 bytes); the bytes of the lowest bits (4 bytes); these bits; and the words of an ANS stream
(Duda, 2009): the class of every row, then the numbers class by class.

Needs numpy and constriction only.
"""

from __future__ import annotations

import struct
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bitpack import pack_bits, packed_size, unpack_bits
from .errors import ArtifactError, MissingDependencyError

Integers = NDArray[np.int32]

MOST = 2**20
"""No number is larger than this."""

_HEADER = struct.Struct("<BBBII")

_PER_OCTAVE = 4
_LEAST, _CLASSES = -5 * _PER_OCTAVE, 26 * _PER_OCTAVE
"""The first class has a mean magnitude of 2**-5; how many there are."""

_POWERS = (1, 2)
"""Shapes of the models: a density exp(-|x|**power), Laplace's and Gauss's."""

_DETAIL = 5
"""Lowest bits are left out of the models where those that stay have a mean magnitude of 2**_DETAIL still."""

_FLOOR = 2.0**-23
"""The least probability of a number, so that an outlier can be coded at all; above the coder's precision of 2**-24."""

_NEVER = 60
"""Where a density has fallen by exp(-60) it is taken for 0."""

_MOST_A_BYTE = 256
"""No class makes a number so likely that more would fit: that of all zeros makes them 180 a byte."""


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
    classes = _classes(magnitude)
    least = int(classes.min())
    used = int(classes.max()) - least + 1
    groups = [(int(kind), np.flatnonzero(classes == kind)) for kind in np.unique(classes)]
    high = [(numbers[of_class] >> _left_out(kind)).ravel() for kind, of_class in groups]
    shape = _best_shape([kind for kind, _ in groups], high, most)
    coder = constriction.stream.stack.AnsCoder()
    for (kind, _), symbols in zip(reversed(groups), reversed(high), strict=True):
        model, first = _model(shape, kind, most >> _left_out(kind))
        coder.encode_reverse((symbols - first).astype(np.int32), model)
    if used > 1:
        coder.encode_reverse((classes - least).astype(np.int32), constriction.stream.model.Uniform(used))
    low = b"".join(
        pack_bits((numbers[of_class] & ((1 << bits) - 1)).ravel().astype(np.uint16), bits)
        for kind, of_class in groups
        if (bits := _left_out(kind))
    )
    words: bytes = coder.get_compressed().astype("<u4").tobytes()
    return _HEADER.pack(shape, least - _LEAST, used - 1, most, len(low)) + low + words


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
        if shape >= len(_POWERS) or most > most_allowed or least + used >= _CLASSES:
            raise ArtifactError("coded weights claim a model that there is not")
        words = data[_HEADER.size + size :]
        if _HEADER.size + size > len(data) or len(words) % 4:
            raise ArtifactError("coded weights are cut short")
        coder = constriction.stream.stack.AnsCoder(np.frombuffer(words, dtype="<u4").astype(np.uint32))
        classes = np.full(rows, least + _LEAST)
        if used:
            classes += coder.decode(constriction.stream.model.Uniform(used + 1), rows)
        numbers = np.empty((rows, columns), dtype=np.int32)
        place = _HEADER.size
        for kind in np.unique(classes):
            of_class, bits = np.flatnonzero(classes == kind), _left_out(int(kind))
            count = len(of_class) * columns
            model, first = _model(shape, int(kind), most >> bits)
            found = coder.decode(model, count) + first
            if bits:
                taken = packed_size(count, bits)
                found = (found << bits) | unpack_bits(data[place : place + taken], count, bits).astype(np.int32)
                place += taken
            numbers[of_class] = found.reshape(-1, columns)
    except ArtifactError:
        raise
    except (struct.error, ValueError, AssertionError) as error:
        raise ArtifactError(f"coded weights are malformed: {error}") from None
    if place != _HEADER.size + size or not coder.is_empty():
        raise ArtifactError("coded weights do not end where they should")
    return numbers


def _classes(magnitude: Integers) -> NDArray[np.int64]:
    mean = magnitude.mean(axis=1, dtype=np.float64)
    found = np.round(_PER_OCTAVE * np.log2(np.maximum(mean, 1e-9))).astype(np.int64)
    return np.asarray(np.clip(found, _LEAST, _LEAST + _CLASSES - 1))


def _left_out(kind: int) -> int:
    """How many of the lowest bits the model of a class leaves out."""
    return min(max(kind // _PER_OCTAVE - _DETAIL, 0), 16)


def _best_shape(kinds: list[int], symbols: list[Integers], most: int) -> int:
    costs = []
    for shape in range(len(_POWERS)):
        cost = 0.0
        for kind, numbers in zip(kinds, symbols, strict=True):
            probabilities, first = _probabilities(shape, kind, most >> _left_out(kind))
            counts = np.bincount(numbers - first, minlength=len(probabilities))
            cost -= float(counts @ np.log2(probabilities))
        costs.append(cost)
    return int(np.argmin(costs))


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
        context.prec = 24
        mean = Decimal(2) ** (Decimal(kind) / _PER_OCTAVE)
        if _POWERS[shape] == 1:  # sum |n| t**|n| / sum t**|n| = 2 t / (1 - t**2)
            t = ((1 + mean * mean).sqrt() - 1) / mean
            rate = -t.ln() / 2
        else:
            rate = _gaussian_rate(mean) / 4
        density: list[float] = []
        while (exponent := rate * len(density) ** _POWERS[shape]) < _NEVER:
            density.append(float((-exponent).exp()))
    return np.array([*density, 0.0])


def _gaussian_rate(mean: Decimal) -> Decimal:
    """The a for which sum |n| exp(-a n**2) / sum exp(-a n**2) over all whole numbers is ``mean``, by bisection."""
    if mean > 4:  # sums are integrals
        return 1 / (Decimal("3.14159265358979323846") * mean * mean)
    low, high = Decimal("0.01"), Decimal(20)
    for _ in range(60):
        middle = (low + high) / 2
        above, total, number = Decimal(0), Decimal(1), 1
        while (exponent := middle * number * number) < _NEVER:
            part = 2 * (-exponent).exp()
            above, total, number = above + number * part, total + part, number + 1
        low, high = (middle, high) if above / total > mean else (low, middle)
    return low


@lru_cache(maxsize=1)
def _constriction() -> Any:
    try:
        import constriction
    except ImportError as error:
        raise MissingDependencyError("entropy coding", extra="torch") from error
    return constriction
