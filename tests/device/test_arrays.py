"""Messages without torch: the bytes that torch packs, and what it makes of these."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from qpart_fx import ArtifactError, RequestError
from qpart_fx.backends.activation import pack_payload, unpack_payload
from qpart_fx.checksum import checksum
from qpart_fx.device import pack_arrays, unpack_arrays
from qpart_fx.device.arrays import Rounded, rounded
from qpart_fx.message import write_message
from qpart_fx.passes.quantize_payload import QuantizePayload
from qpart_fx.quantizer import UniformQuantizer

DTYPES = "float32 float64 float16 int64 int32 int16 int8 uint8 bool complex64 complex128 uint16 uint32 uint64".split()


def head(count: int, grid: UniformQuantizer | None = None) -> GraphModule:
    """One that hands its inputs on, the first rounded to a grid."""
    graph = Graph()
    graph.output(tuple(graph.placeholder(f"x{place}") for place in range(count)))
    made = GraphModule(nn.Module(), graph)
    return made if grid is None else QuantizePayload({"x0": grid}).run(made).graph_module


def same(first: NDArray[Any], second: NDArray[Any]) -> bool:
    return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()


any_array = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)


@settings(max_examples=150, deadline=None)
@given(st.lists(any_array, max_size=4))
def test_arrays_arrive_as_they_were_and_as_torch_s(values: list[NDArray[Any]]) -> None:
    message = pack_arrays(values)
    made = unpack_arrays(message)
    assert len(made) == len(values)
    assert all(map(same, made, values))
    tensors = tuple(map(torch.from_numpy, values))
    if all(value.size for value in values):  # of empty ones torch says strides of its own
        assert message == pack_payload(head(len(values)), tensors)
    received = unpack_payload(head(len(values)), message)
    assert all(same(each.numpy(), value) for each, value in zip(received, values, strict=True))


def test_what_arrives_does_not_change_with_the_message() -> None:
    message = bytearray(pack_arrays([np.arange(6)]))
    (made,) = unpack_arrays(bytes(message))
    made += 1
    assert made.tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", ["transposed", "repeated", "channels last", "every other", "windows", "empty"])
def test_tensors_of_any_strides_arrive(name: str) -> None:
    values = torch.arange(48.0).reshape(2, 3, 4, 2)
    tensors: dict[str, Tensor] = {
        "transposed": values.transpose(1, 3),
        "repeated": values[:1].expand(5, 3, 4, 2),
        "channels last": values.to(memory_format=torch.channels_last),
        "every other": values[:, ::2, 1:],
        "windows": torch.arange(9.0).unfold(0, 4, 1),
        "empty": values[:0].transpose(0, 1),
    }
    given, grid = tensors[name], UniformQuantizer.from_range(0.0, 48.0, 7)
    (made,) = unpack_arrays(pack_payload(head(1), (given,)))
    assert np.array_equal(made, given.numpy())
    module = head(1, grid)
    payload = module(given)
    for rate in (None, 1.0):
        message = pack_payload(module, payload, rate)
        (made,) = unpack_arrays(message, [Rounded(grid.bits, grid.step, grid.zero_point)])
        assert np.array_equal(made, payload[0].numpy())


@pytest.mark.parametrize("value", [3, -(2**62), 2.5, float("inf"), True, None])
def test_plain_numbers_arrive(value: Any) -> None:
    (made,) = unpack_arrays(pack_payload(head(1), (value,)))
    assert made == value
    assert type(made) is type(value)


def test_arrays_of_another_order_of_bytes_are_sent_in_ours() -> None:
    assert pack_arrays([np.arange(3, dtype=">i4")]) == pack_arrays([np.arange(3, dtype="<i4")])


@pytest.mark.parametrize("dtype", ["datetime64[s]", "S3", "U2", object, "longdouble", [("a", "f4")]])
def test_arrays_that_no_message_holds_are_refused(dtype: Any) -> None:
    with pytest.raises(RequestError, match="cannot be sent: convert it"):
        pack_arrays([np.zeros(3, dtype=dtype)])


# Rounded values


floats = arrays.arrays(np.float32, st.integers(0, 30), elements=st.floats(-5, 5, width=32))


@settings(max_examples=150, deadline=None)
@given(floats, st.floats(-1e4, 1e4, width=32), st.floats(0, 10, width=32), st.integers(2, 16))
def test_codes_and_bytes_are_the_quantizer_s(values: NDArray[np.float32], low: float, span: float, bits: int) -> None:
    quantizer = UniformQuantizer.from_range(low, low + span, bits)
    grid = Rounded(quantizer.bits, quantizer.step, quantizer.zero_point)
    tensor = torch.from_numpy(values) + low
    codes, expected = grid.encode(tensor.numpy()), quantizer.encode(tensor)
    assert np.array_equal(codes, expected.numpy())
    assert np.array_equal(grid.decode(codes), quantizer.decode(expected).numpy())
    module = head(1, quantizer)
    payload = module(tensor)
    for rate in (None, 1.0):
        message = write_message([rounded(codes, grid, rate)])
        assert message == pack_payload(module, payload, rate)
        (made,) = unpack_arrays(message, [grid])
        assert np.array_equal(made, payload[0].numpy())


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_values_keep_within_their_dtype(dtype: str) -> None:
    quantizer = UniformQuantizer.from_range(-65504.0, 65504.0, 4)
    grid = Rounded(4, quantizer.step, quantizer.zero_point, dtype)
    values = np.linspace(-65504, 65504, 50).astype(dtype)
    expected = quantizer(torch.from_numpy(values)).numpy()
    assert same(grid.decode(grid.encode(values)), expected)
    assert np.isfinite(expected).all()


# Damage


def message_of(*values: NDArray[Any]) -> bytes:
    return pack_arrays(list(values))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 255))
def test_a_flipped_byte_is_noticed(place: int, change: int) -> None:
    message = bytearray(message_of(np.arange(12.0).reshape(3, 4), np.arange(3)))
    message[place % len(message)] ^= change
    with pytest.raises(ArtifactError):
        unpack_arrays(bytes(message))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 3))
def test_forged_messages_give_arrays_or_are_refused(content: bytes, count: int) -> None:
    start = b"QPA4" + struct.pack("<H", count) + content
    try:
        made = unpack_arrays(start + struct.pack("<I", checksum(start)))
    except ArtifactError:
        return
    assert len(made) == count


@pytest.mark.parametrize("length", range(0, 40, 3))
def test_a_message_cut_short_is_refused(length: int) -> None:
    with pytest.raises(ArtifactError):
        unpack_arrays(message_of(np.arange(5.0))[:length])


def test_a_message_of_other_values_is_refused() -> None:
    grid = Rounded(4, 0.5, 0)
    with pytest.raises(ArtifactError, match="holds 1 values, and this head sends 2"):
        unpack_arrays(message_of(np.zeros(3)), [None, None])
    with pytest.raises(ArtifactError, match="comes from another head"):
        unpack_arrays(message_of(np.zeros(3)), [grid])
    with pytest.raises(ArtifactError, match="comes from another head"):
        unpack_arrays(write_message([rounded(np.zeros(3), grid, None)]))
