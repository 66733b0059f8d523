"""Entropy coding: every matrix comes back, near its entropy; damaged bytes are refused or are another matrix."""

from __future__ import annotations

import math
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from qpart_fx import ArtifactError, entropy_coding
from qpart_fx.entropy_coding import MOST, Integers, decode, encode

HEADER = struct.Struct("<BBBII")
shapes = st.tuples(st.integers(0, 9), st.integers(0, 60))


def same(numbers: Integers) -> bool:
    coded = encode(numbers)
    again = decode(coded, *numbers.shape)
    return again.dtype == np.int32 and again.shape == numbers.shape and np.array_equal(again, numbers)


@st.composite
def matrices(draw: st.DrawFn) -> Integers:
    """Of any shape; rows of scales of their own, constant ones and outliers among them."""
    rows, columns = draw(shapes)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scales = np.array(draw(st.lists(st.floats(-6, 21), min_size=rows, max_size=rows)))
    noise = random.laplace(size=(rows, columns)) if draw(st.booleans()) else random.normal(size=(rows, columns))
    numbers = np.clip(np.round(noise * 2.0 ** scales.reshape(-1, 1)), -MOST, MOST).astype(np.int32)
    for row in range(rows):
        match draw(st.integers(0, 5)):
            case 0:
                numbers[row] = draw(st.integers(-MOST, MOST))
            case 1:
                numbers[row] = 0
            case 2 if columns:
                numbers[row, draw(st.integers(0, columns - 1))] = draw(st.integers(-MOST, MOST))
    return numbers


@settings(max_examples=50, deadline=None)
@given(matrices())
def test_rows_of_any_scale_come_back(numbers: Integers) -> None:
    assert same(numbers)


@settings(max_examples=50, deadline=None)
@given(matrices(), st.integers(0, 2**32 - 1))
def test_columns_of_any_scale_come_back(numbers: Integers, seed: int) -> None:
    shrunk = np.random.default_rng(seed).integers(0, 12, size=numbers.shape[1])
    assert same(numbers >> shrunk)
    assert same(np.ascontiguousarray((numbers >> shrunk).T))


def test_columns_of_many_scales_take_as_many_bytes_as_rows_of_them() -> None:
    random = np.random.default_rng(0)
    numbers = np.round(random.laplace(size=(500, 300)) * np.geomspace(0.1, 30, 300)).astype(np.int32)
    numbers[:, ::7] = 0
    assert same(numbers)
    assert len(encode(numbers)) < 1.01 * len(encode(np.ascontiguousarray(numbers.T)))


@settings(max_examples=150, deadline=None)
@given(npst.arrays(np.int32, shapes, elements=st.integers(-MOST, MOST)))
@example(np.zeros((0, 5), np.int32))
@example(np.zeros((5, 0), np.int32))
@example(np.zeros((0, 0), np.int32))
@example(np.zeros((1, 1), np.int32))
@example(np.full((3, 1), -MOST, np.int32))
@example(np.array([[MOST, -MOST, 0]], np.int32))
def test_any_numbers_come_back(numbers: Integers) -> None:
    assert same(numbers)


@pytest.mark.parametrize("value", [0, 1, -1, 63, 64, -65, 2**15, -(2**15), MOST, -MOST])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (20, 20)])
def test_one_value_everywhere_comes_back(value: int, shape: tuple[int, int]) -> None:
    assert same(np.full(shape, value, np.int32))


def test_a_lone_outlier_costs_little() -> None:
    numbers = np.zeros((64, 1000), np.int32)
    without = len(encode(numbers))
    numbers[17, 500] = 2**10
    assert same(numbers)
    assert len(encode(numbers)) < without + 300


def test_a_view_with_strides_of_its_own_is_coded_as_its_copy_is() -> None:
    numbers = np.arange(-60, 60, dtype=np.int32).reshape(8, 15)
    assert encode(numbers.T) == encode(numbers.T.copy())
    assert same(numbers[::2, ::-3])


def test_the_bytes_follow_from_the_numbers_alone() -> None:
    numbers = np.random.default_rng(0).laplace(scale=3, size=(9, 50)).astype(np.int32)
    expected = encode(numbers)
    encode(np.random.default_rng(1).normal(scale=900, size=(5, 70)).astype(np.int32))  # another model in between
    assert encode(numbers) == expected


def test_bytes_and_memoryviews_are_decoded_alike() -> None:
    numbers = np.arange(-300, 300, dtype=np.int32).reshape(4, 150)
    assert np.array_equal(decode(memoryview(encode(numbers)), 4, 150), numbers)


@pytest.mark.parametrize("value", [MOST + 1, -MOST - 1, 2**31 - 1])
def test_a_number_that_is_too_large_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="too large"):
        encode(np.array([[0, value]], np.int32))


def entropy(numbers: Integers) -> float:
    """Bits of all numbers at their frequencies: no code that knows them as one sort does better, its table free."""
    _, counts = np.unique(numbers, return_counts=True)
    return float(counts @ np.log2(numbers.size / counts))


@pytest.mark.parametrize("spread", [0.5, 0.8, 1.0, 2.0, 5.0, 20.0, 100.0, 1000.0])
@pytest.mark.parametrize("density", ["normal", "laplace"])
def test_the_size_is_the_entropy_and_one_percent(density: str, spread: float) -> None:
    random = np.random.default_rng(0)
    unit = random.normal(size=(64, 4096)) if density == "normal" else random.laplace(size=(64, 4096)) / np.sqrt(2)
    numbers = np.round(unit * spread).astype(np.int32)
    classes = 64 * 4  # bits that say of which class each row is
    assert 8 * len(encode(numbers)) <= 1.01 * entropy(numbers) + classes + 8 * HEADER.size + 64


@pytest.mark.parametrize("density", ["normal", "laplace"])
def test_rows_of_many_scales_take_their_own_entropies_and_one_percent(density: str) -> None:
    random = np.random.default_rng(0)
    scales = np.geomspace(0.5, 500, 64)[:, None]
    unit = random.normal(size=(64, 4096)) if density == "normal" else random.laplace(size=(64, 4096)) / np.sqrt(2)
    numbers = np.round(unit * scales).astype(np.int32)
    alone = sum(entropy(row) for row in numbers)
    # a row's frequencies are fitted to its 4096 numbers: they gain half a bit of log2(e) for every value seen
    fitted = sum(len(np.unique(row)) for row in numbers) / 2 * np.log2(np.e)
    assert 8 * len(encode(numbers)) <= 1.01 * (alone + fitted) + 64 * 8 + 8 * HEADER.size


def test_small_tensors_take_few_bytes_beside_their_numbers() -> None:
    assert len(encode(np.zeros((1, 1), np.int32))) <= HEADER.size + 8
    numbers = np.random.default_rng(0).integers(-7, 8, size=(4, 9)).astype(np.int32)
    assert len(encode(numbers)) <= HEADER.size + 4 * 9 * 4.5 / 8 + 12


@pytest.mark.parametrize("shape", [(64, 4096), (1, 200_000), (200_000, 1)])
def test_the_densest_code_there_is_can_be_decoded(shape: tuple[int, int]) -> None:
    """What refuses claims of too many numbers in too few bytes must not refuse these."""
    assert same(np.zeros(shape, np.int32))


def decoded(data: bytes, numbers: Integers) -> NDArray[np.int32] | None:
    """What ``data`` give for the shape of ``numbers``; None where they are refused, as only an ArtifactError may."""
    try:
        found = decode(data, *numbers.shape)
    except ArtifactError:
        return None
    assert found.shape == numbers.shape
    assert found.dtype == np.int32
    return found


MIXED = np.round(
    np.random.default_rng(0).laplace(size=(6, 30)) * np.array([0.1, 1, 5, 60, 400, 9000]).reshape(-1, 1)
).astype(np.int32)


def test_bytes_cut_short_anywhere_are_refused_or_give_other_numbers() -> None:
    coded = encode(MIXED)
    for length in range(len(coded)):
        found = decoded(coded[:length], MIXED)
        assert found is None or not np.array_equal(found, MIXED)


def test_bytes_too_many_are_refused() -> None:
    coded = encode(MIXED)
    for more in range(1, 9):
        assert decoded(coded + bytes(more), MIXED) is None
        assert decoded(coded + b"\x01" * more, MIXED) is None


def test_any_flipped_bit_is_refused_or_gives_numbers_of_the_same_shape() -> None:
    coded = encode(MIXED)
    for bit in range(8 * len(coded)):
        data = bytearray(coded)
        data[bit // 8] ^= 1 << bit % 8
        decoded(bytes(data), MIXED)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 255), st.integers(0, 255), st.integers(0, 255),
    st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 2000), st.just(MOST)),
    st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 40)),
    st.binary(max_size=80),
)  # fmt: skip
def test_a_header_that_lies_is_refused_or_gives_other_numbers(
    shape: int, least: int, used: int, most: int, size: int, rest: bytes
) -> None:
    decoded(HEADER.pack(shape, least, used, most, size) + rest, MIXED)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(0, 1), st.integers(0, 103), st.integers(0, 2**15))
def test_words_at_random_under_a_sound_header_are_refused_or_give_other_numbers(
    data: st.DataObject, shape: int, least: int, most: int
) -> None:
    used = data.draw(st.integers(0, 103 - least))
    words = data.draw(st.binary(max_size=160).map(lambda each: each[: len(each) // 4 * 4]))
    decoded(HEADER.pack(shape, least, used, most, 0) + words, MIXED)


@pytest.mark.parametrize("shape", [(2**40, 1), (1, 2**40), (2**20, 2**20), (2**62, 2**62), (10**30, 7)])
def test_more_numbers_than_the_bytes_can_hold_are_refused_before_anything_is_allocated(shape: tuple[int, int]) -> None:
    for data in (b"", bytes(15), encode(MIXED)):
        with pytest.raises(ArtifactError, match="claimed"):
            decode(data, *shape)


def test_a_header_that_lies_of_the_largest_number_leaves_no_memory_taken() -> None:
    """The models of forty classes, each of two million numbers, would take gigabytes if they were kept."""
    data = HEADER.pack(0, 0, 43, MOST, 0) + np.random.default_rng(0).bytes(400)
    tracemalloc.start()
    try:
        for columns in range(1, 4):
            decoded(data, np.zeros((60, columns), np.int32))
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 10e6
    assert most < 200e6


def test_bytes_where_nothing_was_coded_are_refused() -> None:
    for shape in ((0, 4), (4, 0), (0, 0)):
        with pytest.raises(ArtifactError, match="nothing was coded"):
            decode(b"\0", *shape)


def test_numbers_of_another_shape_are_refused() -> None:
    coded = encode(MIXED)
    for rows, columns in ((5, 30), (7, 30), (6, 29), (6, 31), (30, 6)):
        with pytest.raises(ArtifactError):
            decode(coded, rows, columns)


def test_numbers_beyond_what_the_caller_allows_are_refused() -> None:
    coded = encode(np.array([[100, -3]], np.int32))
    assert decode(coded, 1, 2, 100).tolist() == [[100, -3]]
    with pytest.raises(ArtifactError, match="claim"):
        decode(coded, 1, 2, 99)


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
@pytest.mark.parametrize("shape", ["normal", "laplace"])
def test_coded_weights_are_near_the_shannon_bound(shape: str, bits: int) -> None:
    """A uniform step and an ideal coder are 0.254 bit a weight above it: log2(2 pi e / 12) / 2."""
    random = np.random.default_rng(0)
    values = getattr(random, shape)(0.0, 1.0, (64, 4096))
    entropy = math.log2(2 * math.pi * math.e) / 2 if shape == "normal" else math.log2(2 * math.e)
    step = 2.0 ** (entropy - bits)
    numbers = np.round(values / step).astype(np.int32)
    noise = float(np.square(numbers * step - values).mean())
    bound = entropy - math.log2(2 * math.pi * math.e * noise) / 2
    rate = 8 * len(encode(numbers)) / numbers.size
    assert rate > 2.9
    assert rate - bound < 0.3  # at few bits the bound for Laplacian weights is not reached by any coder


@pytest.mark.parametrize("shape", [0, 1])
@pytest.mark.parametrize("kind", [-28, -5, 0, 10, 24, 30, 60])
@pytest.mark.parametrize("most", [1, 3, 40, 5000])
def test_what_numbers_take_follows_from_their_histogram(shape: int, kind: int, most: int) -> None:
    probabilities, first = entropy_coding._probabilities(shape, kind, most)
    numbers = np.random.default_rng(0).integers(first, most + 1, 20)
    least = int(numbers.min())
    found = entropy_coding._bits(shape, kind, most, least, np.bincount(numbers - least))
    assert found == pytest.approx(-np.log2(probabilities[numbers - first]).sum(), rel=1e-9)
