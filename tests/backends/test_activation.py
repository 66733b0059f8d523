"""What crosses the wire: every payload back to the last bit, every damage noticed."""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from qpart_fx import ArtifactError, RequestError
from qpart_fx.backends.activation import pack_payload, unpack_payload
from qpart_fx.bitpack import packed_size
from qpart_fx.passes.quantize_payload import QuantizePayload
from qpart_fx.quantizer import UniformQuantizer

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip


def head(*bits: int | None) -> GraphModule:
    """A head that hands its inputs on, those with bits quantized over [-1, 2]."""
    graph = Graph()
    nodes = [graph.placeholder(f"x{place}") for place in range(len(bits))]
    graph.output(tuple(nodes))
    quantizers = {
        node.name: UniformQuantizer.from_range(-1.0, 2.0, width)
        for node, width in zip(nodes, bits, strict=True)
        if width is not None
    }
    return QuantizePayload(quantizers).run(GraphModule(nn.Module(), graph)).graph_module


def same(first: Any, second: Any) -> bool:
    """Equal in type, dtype, shape and every bit."""
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return type(first) is type(second) and (first == second or (math.isnan(first) and math.isnan(second)))
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and first.contiguous().reshape(-1).view(torch.uint8).equal(second.contiguous().reshape(-1).view(torch.uint8))
    )


def sent(module: GraphModule, *inputs: Any) -> None:
    """``inputs`` through the head and over the wire arrive as the head made them."""
    payload = module(*inputs)
    received = unpack_payload(module, pack_payload(module, payload))
    assert len(received) == len(payload)
    assert all(same(first, second) for first, second in zip(payload, received, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 16), st.lists(st.integers(0, 5), max_size=4), st.integers(0, 2**32))
def test_a_quantized_tensor_arrives_bit_for_bit(bits: int, shape: list[int], seed: int) -> None:
    values = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 4 - 1.5
    sent(head(bits), values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_quantized_tensor_keeps_its_dtype(dtype: torch.dtype) -> None:
    sent(head(6), torch.linspace(-1, 2, 40).to(dtype))


@pytest.mark.parametrize(
    ("low", "high", "bits"), [(3.25, 3.25315260887146, 13), (0.9975, 1.0025, 16), (-3e38, 3e38, 2)]
)
def test_a_range_that_is_hard_to_tell_apart_arrives_bit_for_bit(low: float, high: float, bits: int) -> None:
    module = head(None)
    QuantizePayload({"x0": UniformQuantizer.from_range(low, high, bits)}).run(module)
    values = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    sent(module, (low * (1 - values) + high * values).to(torch.float32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_a_tensor_that_is_not_quantized_arrives_as_it_is(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    sent(head(None), torch.randint(0, 2, shape, generator=generator).to(dtype))


def test_numbers_that_are_not_finite_arrive_as_they_are() -> None:
    sent(head(None), torch.tensor([math.nan, math.inf, -math.inf, -0.0]))


@pytest.mark.parametrize("value", [None, True, False, 0, -7, 2**62, 0.1, -math.inf, math.nan])
def test_plain_numbers_arrive_with_their_type(value: Any) -> None:
    sent(head(None), value)


def test_a_payload_of_many_kinds_arrives_in_order() -> None:
    sent(
        head(4, None, None, None, 9, None, None),
        torch.rand(3, 5), torch.arange(7), None, 3, torch.rand(2, 2, 2).transpose(0, 2), torch.rand(4) > 0.5, 2.5,
    )  # fmt: skip


@pytest.mark.parametrize("bits", [2, 5, 16])
def test_a_tensor_costs_its_bits_and_a_few_bytes(bits: int) -> None:
    module = head(bits)
    packed = pack_payload(module, module(torch.rand(1, 64, 8, 8)))
    assert 0 <= len(packed) - packed_size(4096, bits) <= 32


def damaged_file() -> tuple[GraphModule, bytes]:
    module = head(3, None)
    return module, pack_payload(module, module(torch.rand(2, 5), torch.arange(3)))


@pytest.mark.parametrize("change", [0x01, 0x20, 0xFF])
def test_any_changed_byte_is_noticed(change: int) -> None:
    module, data = damaged_file()
    for place in range(len(data)):
        with pytest.raises(ArtifactError, match="damaged: send it again"):
            unpack_payload(module, data[:place] + bytes([data[place] ^ change]) + data[place + 1 :])


def test_an_activation_cut_short_anywhere_is_refused() -> None:
    module, data = damaged_file()
    for length in range(len(data)):
        with pytest.raises(ArtifactError, match="cut short"):
            unpack_payload(module, data[:length])


def forged(header: bytes, values: bytes = b"") -> bytes:
    content = b"QPA1" + header + values
    return content + struct.pack("<I", zlib.crc32(content))


@pytest.mark.parametrize(
    "data",
    [
        forged(b"\x01"),  # no header of the value
        forged(b"\x01\x00\x01"),  # no sizes
        forged(b"\x01\x00\x01" + struct.pack("<I", 2), bytes(4)),  # too few bytes
        forged(b"\x01\x00\x01" + struct.pack("<I", 1), bytes(8)),  # too many
        forged(b"\x01\x00\x01" + struct.pack("<I", 2**32 - 1)),
        forged(b"\x01\x00\x08" + struct.pack("<8I", *[2**32 - 1] * 8)),
        forged(b"\x01\x00\x08" + struct.pack("<8I", 0, *[2**32 - 1] * 7)),  # nothing, of an impossible shape
        forged(b"\x01\x0b\x01" + struct.pack("<I", 1), bytes(4)),  # an unknown dtype
        forged(b"\x01\x40\x01" + struct.pack("<I", 8), bytes(3)),  # quantized, where nothing is
        forged(b"\x01\x7f\x00"),
        forged(b"\x01\x80\x00", bytes(7)),  # half a number
        forged(b"\x01\x84\x00"),  # a number of an unknown type
        forged(b"\x01\xff\x00", bytes(8)),
        forged(b"\x00"),
        forged(b"\x02\x00\x00\x00\x00", bytes(8)),
    ],
)
def test_an_activation_that_lies_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        unpack_payload(head(None), data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_whatever_comes_it_is_read_or_refused(rest: bytes) -> None:
    for module in (head(None), head(4), head(3, None)):
        try:
            unpack_payload(module, forged(rest))
        except ArtifactError:
            continue


def test_an_activation_of_another_head_is_refused() -> None:
    module = head(4)
    data = pack_payload(module, module(torch.rand(8)))
    with pytest.raises(ArtifactError, match="another head"):
        unpack_payload(head(None), data)
    with pytest.raises(ArtifactError, match="holds 1 values, and this head sends 2"):
        unpack_payload(head(4, 4), data)


def test_a_payload_of_another_length_is_refused() -> None:
    with pytest.raises(RequestError, match="tuple of 2 values"):
        pack_payload(head(4, None), (torch.rand(3),))


@pytest.mark.parametrize("value", ["text", [1, 2], 2**70, torch.zeros(2, dtype=torch.complex128), {}])
def test_a_value_that_cannot_be_sent_is_named(value: Any) -> None:
    with pytest.raises(RequestError, match=r"cannot|payload|value"):
        pack_payload(head(None), (value,))
