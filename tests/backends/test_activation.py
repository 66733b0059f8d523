"""What crosses the wire: every payload back to the last bit, every damage noticed."""

from __future__ import annotations

import math
import struct
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
from qpart_fx.checksum import checksum
from qpart_fx.message import CODER_S, CODER_S_PER_VALUE
from qpart_fx.passes.quantize_payload import QuantizePayload
from qpart_fx.quantizer import UniformQuantizer

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.complex128, torch.complex32, torch.uint16, torch.uint32,
    torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
    *(getattr(torch, name) for name in ("float8_e8m0fnu",) if hasattr(torch, name)),
]  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")


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


def raw(tensor: Tensor) -> Tensor:
    """The bytes of the elements, in the order of the indices."""
    values = tensor.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    return values.as_strided((values.numel(),), (1,)).view(torch.uint8)


def same(first: Any, second: Any) -> bool:
    """Equal in type, dtype, shape, strides and every bit."""
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return type(first) is type(second) and (first == second or (math.isnan(first) and math.isnan(second)))
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and first.stride() == second.stride()
        and raw(first).equal(raw(second))
    )


def sent(module: GraphModule, *inputs: Any) -> None:
    """``inputs`` through the head and over the wire arrive as the head made them."""
    payload = module(*inputs)
    received = unpack_payload(module, pack_payload(module, payload))
    assert len(received) == len(payload)
    assert all(same(first, second) for first, second in zip(payload, received, strict=True))


SLOW, FAST = 1e3, 1e12
"""Rates of links at which coding is always, and never, worth its time."""


def relu_head(bits: int) -> GraphModule:
    """A head that hands on what a ReLU may leave, quantized over [0, 4]."""
    module = head(None)
    return QuantizePayload({"x0": UniformQuantizer.from_range(0.0, 4.0, bits)}).run(module).graph_module


def relu_output(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    scale = torch.rand(shape[1], *[1] * (len(shape) - 2), generator=generator) + 0.1
    return (torch.randn(shape, generator=generator) * scale).relu()


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 16), st.lists(st.integers(0, 40), max_size=3), st.integers(0, 2**32), st.floats(0, 9))
def test_a_coded_tensor_arrives_bit_for_bit(bits: int, shape: list[int], seed: int, scale: float) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale
    for module in (head(bits), relu_head(bits)):
        payload = module(values)
        data = pack_payload(module, payload, SLOW)
        assert all(map(same, payload, unpack_payload(module, data)))
        assert len(data) <= len(pack_payload(module, payload))


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
@pytest.mark.parametrize("shape", [(1, 16, 14, 14), (4, 8, 7, 7), (1, 2000)])
def test_what_a_relu_leaves_takes_much_less_than_its_bits(bits: int, shape: tuple[int, ...]) -> None:
    module = relu_head(bits)
    payload = module(relu_output(*shape))
    fixed, coded = pack_payload(module, payload), pack_payload(module, payload, SLOW)
    assert len(coded) < 0.75 * len(fixed)
    assert all(map(same, payload, unpack_payload(module, coded)))


def test_strides_are_kept_when_values_are_coded() -> None:
    module = relu_head(6)
    payload = module(relu_output(2, 16, 14, 14).to(memory_format=torch.channels_last))
    data = pack_payload(module, payload, SLOW)
    assert len(data) < len(pack_payload(module, payload))
    assert all(map(same, payload, unpack_payload(module, data)))
    assert not payload[0].is_contiguous()


def test_values_are_coded_only_where_the_link_is_slow_enough_for_it() -> None:
    module = relu_head(8)
    payload = module(relu_output(1, 16, 32, 32))
    fixed = pack_payload(module, payload)
    assert pack_payload(module, payload, None) == pack_payload(module, payload, FAST) == fixed
    coded = pack_payload(module, payload, SLOW)
    saved = 8 * (len(fixed) - len(coded))
    even = saved / (CODER_S + CODER_S_PER_VALUE * payload[0].numel())
    assert pack_payload(module, payload, even * 0.999) == coded
    assert pack_payload(module, payload, even * 1.001) == fixed


def test_what_is_no_smaller_coded_is_not() -> None:
    module = head(4)
    noise = module(torch.rand(1, 4000, generator=torch.Generator().manual_seed(0)) * 3 - 1)
    assert pack_payload(module, noise, SLOW) == pack_payload(module, noise)


@pytest.mark.parametrize("rate", [0, -1.0, math.nan])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    module = head(4)
    payload = module(torch.zeros(3))
    with pytest.raises(RequestError, match="uplink_bps"):
        pack_payload(module, payload, rate)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_coded_values_that_lie_under_a_good_checksum_are_refused_or_on_the_grid(data: st.DataObject) -> None:
    module = relu_head(data.draw(st.sampled_from([4, 8])))
    content = bytearray(pack_payload(module, module(relu_output(1, 8, 8, 8)), SLOW)[:-4])
    assert content[6] & 192 == 192
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(6, len(content) - 1) | st.integers(6, 40))
        content[place] = data.draw(st.integers(0, 255))
    del content[data.draw(st.just(len(content)) | st.integers(6, len(content))) :]
    forged = bytes(content) + struct.pack("<I", checksum(content))
    try:
        (value,) = unpack_payload(module, forged)
    except ArtifactError:
        return
    if isinstance(value, Tensor) and value.is_floating_point() and value.dtype.itemsize >= 4:
        assert torch.equal(value, module(value)[0])


def cost(module: GraphModule, *payload: Any) -> int:
    """Bytes to send ``payload``, which arrives as it is."""
    data = pack_payload(module, payload)
    assert all(same(first, second) for first, second in zip(payload, unpack_payload(module, data), strict=True))
    return len(data)


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


@st.composite
def layouts(draw: st.DrawFn) -> Tensor:
    """A tensor seen through some views, as networks make them."""
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    tensor = torch.rand(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))) * 3 - 1
    for _ in range(draw(st.integers(0, 4))):
        if not tensor.ndim:
            return tensor
        dimension = draw(st.integers(0, tensor.ndim - 1))
        size = tensor.shape[dimension]
        match draw(st.sampled_from(["permute", "slice", "select", "expand", "unfold", "narrow"])):
            case "permute":
                tensor = tensor.permute(draw(st.permutations(range(tensor.ndim))))
            case "slice":
                tensor = tensor[
                    (slice(None),) * dimension + (slice(draw(st.integers(0, 2)), None, draw(st.integers(1, 3))),)
                ]
            case "select" if size:
                tensor = tensor.select(dimension, draw(st.integers(0, size - 1)))
            case "narrow" if size:
                tensor = tensor.narrow(dimension, draw(st.integers(0, size - 1)), 1)
            case "expand":
                tensor = tensor.unsqueeze(dimension)
                tensor = tensor.expand(
                    *tensor.shape[:dimension], draw(st.integers(1, 4)), *tensor.shape[dimension + 1 :]
                )
            case "unfold" if size:
                tensor = tensor.unfold(dimension, draw(st.integers(1, size)), draw(st.integers(1, 2)))
    return tensor


def overlaps(tensor: Tensor) -> bool:
    """Whether elements that are not repeated share memory."""
    tensor = tensor.as_strided(
        [size if stride else min(size, 1) for size, stride in zip(tensor.shape, tensor.stride(), strict=True)],
        tensor.stride(),
    )
    places = torch.arange(tensor.untyped_storage().nbytes() // tensor.itemsize).as_strided(
        tensor.shape, tensor.stride()
    )
    return len(places.unique()) < places.numel()


@settings(max_examples=400, deadline=None)
@given(layouts(), st.sampled_from([*DTYPES, None]))
def test_a_view_arrives_with_its_strides(view: Tensor, dtype: torch.dtype | None) -> None:
    module = head(5) if dtype is None else head(None)
    memory = view.as_strided((view.untyped_storage().nbytes() // 4,), (1,), 0)
    memory = module(memory)[0] if dtype is None else (memory * 50).abs().to(dtype)
    view = memory.as_strided(view.shape, view.stride(), view.storage_offset())
    packed = pack_payload(module, (view,))
    (received,) = unpack_payload(module, packed)
    if not overlaps(view):
        assert same(view, received)
    assert received.shape == view.shape
    assert raw(received).equal(raw(view))
    assert (
        len(packed) <= len(pack_payload(module, (view.clone(memory_format=torch.contiguous_format),))) + 4 * view.ndim
    )


IMAGES = torch.rand(2, 16, 9, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "tensor",
    [
        IMAGES[:1, 0, 0, 0],
        IMAGES[:1, :1, :1, :1],
        IMAGES[:, 3],
        IMAGES[:, :, ::2, 1:3],
        IMAGES.to(memory_format=torch.channels_last),
        IMAGES[:, :1].to(memory_format=torch.channels_last),
        IMAGES.permute(3, 1, 0, 2),
        IMAGES.permute(3, 1, 0, 2)[1:, ::3],
        IMAGES.expand(3, 2, 16, 9, 7),
        IMAGES[:1, None].expand(4, 5, 16, 9, 7).transpose(1, 3),
        torch.tensor(3.0).expand(2, 3),
        IMAGES.unfold(2, 5, 2).unfold(3, 3, 1),
        IMAGES.flatten().unfold(0, 10, 3)[None].expand(3, -1, -1),
        torch.empty(0, 3).t(),
        torch.empty(4, 0).expand(2, 4, 0),
        torch.tensor([1.0]).as_strided((1, 1), (2**31, 7)),
    ],
    ids=lambda tensor: f"{list(tensor.shape)} by {list(tensor.stride())}",
)
def test_strides_arrive_since_sums_depend_on_them(tensor: Tensor) -> None:
    sent(head(None), tensor)
    sent(head(6), tensor)
    (received,) = unpack_payload(head(None), pack_payload(head(None), (tensor,)))
    assert received.sum().equal(tensor.sum())


def test_a_contiguous_tensor_costs_no_strides() -> None:
    assert cost(head(None), torch.rand(3, 4)) == 4 + 2 + 2 + 2 * 4 + 12 * 4 + 4
    assert cost(head(None), torch.rand(4, 3).t()) == 4 + 2 + 2 + 4 * 4 + 12 * 4 + 4


def test_what_is_repeated_in_memory_is_sent_once() -> None:
    row, windows = torch.rand(50), torch.rand(200).unfold(0, 100, 1)
    assert cost(head(None), row.expand(40, 50)) <= 50 * 4 + 40
    assert cost(head(None), row[:, None].expand(50, 40)) <= 50 * 4 + 40
    assert cost(head(None), windows) <= 200 * 4 + 40
    module = head(4)
    assert cost(module, module(row)[0].expand(40, 50)) <= packed_size(50, 4) + 40
    assert cost(module, module(windows[:, 0])[0].unfold(0, 50, 1)) <= packed_size(101, 4) + 40


def test_a_gap_beyond_measure_is_not_rebuilt() -> None:
    far = torch.arange(2**24 + 9, dtype=torch.uint8)[:: 2**24 + 5]
    (received,) = unpack_payload(head(None), pack_payload(head(None), (far,)))
    assert received.equal(far)
    assert received.untyped_storage().nbytes() == 2


def test_gaps_arrive_as_zeros_and_nothing_beside_the_value_is_sent() -> None:
    memory = torch.full((4, 4), 7.0)
    memory[:, :2] = 1.0
    (received,) = unpack_payload(head(None), pack_payload(head(None), (memory[:, :2],)))
    assert received.as_strided((14,), (1,)).tolist() == [1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1]
    windows = torch.full((21,), 7.0).as_strided((6, 6), (2, 2))
    (received,) = unpack_payload(head(None), pack_payload(head(None), (windows,)))
    assert received.equal(windows)
    assert received.as_strided((21,), (1,))[1::2].count_nonzero() == 0


@pytest.mark.parametrize("dtype", [torch.complex32, torch.complex64, torch.complex128])
def test_lazy_signs_arrive_as_values(dtype: torch.dtype) -> None:
    values = torch.view_as_complex(torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))).to(dtype)
    for lazy in (
        values.conj(),
        values.mH,
        values.conj().imag,
        values.mH.imag,
        values[:, 0].conj(),
        values.conj()[:1, 0],
    ):
        assert lazy.is_conj() or lazy.is_neg()
        sent(head(None), lazy)
        sent(head(None), lazy.expand(2, *lazy.shape))
    (received,) = unpack_payload(head(None), pack_payload(head(None), (values.conj(),)))
    assert torch.view_as_real(received).equal(torch.view_as_real(values.conj().resolve_conj()))


def test_what_arrives_can_be_written_to_and_owes_no_gradient() -> None:
    values = torch.rand(4, 3, requires_grad=True)
    (received,) = unpack_payload(head(None), pack_payload(head(None), ((values * 2).t(),)))
    assert not received.requires_grad
    assert received.add_(1).equal(values.detach().t() * 2 + 1)


def test_numbers_that_are_not_finite_arrive_as_they_are() -> None:
    sent(head(None), torch.tensor([math.nan, math.inf, -math.inf, -0.0]))


@pytest.mark.parametrize("value", [None, True, False, 0, -7, 2**63 - 1, -(2**63), 0.1, math.inf, -math.inf, math.nan])
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


@pytest.mark.parametrize("count", [0, 255, 256, 300])
def test_any_number_of_values_arrives(count: int) -> None:
    sent(head(*[None] * count), *(torch.tensor(float(place)) for place in range(count)))


def test_more_values_than_can_be_counted_are_refused() -> None:
    graph = Graph()
    graph.output((graph.placeholder("x"),) * 2**16)
    with pytest.raises(RequestError, match="65,536 values cross this cut, and 65,535 can be sent"):
        pack_payload(GraphModule(nn.Module(), graph), (1,) * 2**16)


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


def forged(header: bytes, values: bytes = b"", magic: bytes = b"QPA4") -> bytes:
    content = magic + header + values
    return content + struct.pack("<I", checksum(content))


ONE = b"\x01\x00"
"""One value."""


@pytest.mark.parametrize(
    "data",
    [
        forged(ONE),  # no header of the value
        forged(ONE + b"\x00"),
        forged(ONE + b"\x00\x01"),  # no sizes
        forged(ONE + b"\x20\x01" + struct.pack("<I", 2)),  # no strides
        forged(ONE + b"\x00\x01" + struct.pack("<I", 2), bytes(4)),  # too few bytes
        forged(ONE + b"\x00\x01" + struct.pack("<I", 1), bytes(8)),  # too many
        forged(ONE + b"\x00\x01" + struct.pack("<I", 2**32 - 1)),
        forged(ONE + b"\x00\x08" + struct.pack("<8I", *[2**32 - 1] * 8)),
        forged(ONE + b"\x00\x08" + struct.pack("<8I", 0, *[2**32 - 1] * 7)),  # nothing, of an impossible shape
        forged(ONE + b"\x20\x01" + struct.pack("<2I", 2**32 - 1, 0), bytes(4)),  # one value, repeated
        forged(ONE + b"\x20\x08" + struct.pack("<16I", *[2**32 - 1] * 8, *[0] * 8), bytes(4)),
        forged(ONE + b"\x20\x01" + struct.pack("<2I", 2, 2**32 - 1), bytes(8)),  # two values, far apart
        forged(ONE + b"\x20\x02" + struct.pack("<4I", 2**20, 2**20, 1, 1), bytes(8)),  # windows over too little
        forged(ONE + b"\x20\x02" + struct.pack("<4I", 2**20, 2**20, 1, 1), bytes(4 * (2**21 - 1))),
        forged(ONE + b"\x1f\x01" + struct.pack("<I", 1), bytes(4)),  # an unknown dtype
        forged(ONE + b"\x40\x01" + struct.pack("<I", 8), bytes(3)),  # quantized, where nothing is
        forged(ONE + b"\x7f\x00"),
        forged(ONE + b"\x80\x00", bytes(7)),  # half a number
        forged(ONE + b"\x80\x01" + struct.pack("<I", 1), bytes(8)),  # a number with a shape
        forged(ONE + b"\x84\x00"),  # a number of an unknown type
        forged(ONE + b"\xff\x00", bytes(8)),
        forged(b"\x00\x00"),
        forged(b"\x02\x00\x00\x00\x00\x00", bytes(8)),
        forged(b"\xff\xff"),
    ],
)
def test_an_activation_that_lies_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        unpack_payload(head(None), data)


def test_an_activation_of_another_version_is_refused() -> None:
    with pytest.raises(ArtifactError, match="another version"):
        unpack_payload(head(None), forged(b"\x01\x00\x01", bytes(8), magic=b"QPA2"))


def read_or_refused(module: GraphModule, data: bytes) -> None:
    """Whatever the bytes claim, they are refused, or make tensors that can be read and are of a bounded size."""
    try:
        values = unpack_payload(module, data)
    except ArtifactError:
        return
    for value in values:
        if isinstance(value, Tensor):
            assert value.numel() <= 2**28
            assert value.untyped_storage().nbytes() <= 2**28
            value[(-1,) * value.ndim].item() if value.numel() else None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_whatever_comes_it_is_read_or_refused(rest: bytes) -> None:
    for module in (head(None), head(4), head(3, None)):
        read_or_refused(module, forged(rest))
        read_or_refused(module, forged(len(module.graph.find_nodes(op="placeholder")).to_bytes(2, "little") + rest))
        read_or_refused(module, rest)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_header_that_lies_is_read_or_refused(data: st.DataObject) -> None:
    """Any kind, sizes and strides, their checksum right."""
    numbers = st.sampled_from([0, 1, 2, 3, 7, 2**16, 2**24, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1)
    kind, dimensions = data.draw(st.integers(0, 255)), data.draw(st.integers(0, 9))
    sizes = data.draw(st.lists(numbers, min_size=2 * dimensions, max_size=2 * dimensions))
    header = ONE + struct.pack(f"<BB{2 * dimensions}I", kind, dimensions, *sizes)
    for module in (head(None), head(4)):
        read_or_refused(module, forged(header, data.draw(st.binary(max_size=40))))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_file_is_read_or_refused(data: st.DataObject) -> None:
    """Bytes changed, left out or put in, their checksum right."""
    module = head(3, None, None, None)
    payload = module(torch.rand(2, 5), torch.arange(6).view(2, 3).t().expand(4, 3, 2), torch.rand(9).unfold(0, 4, 1), 7)
    content = pack_payload(module, payload)[4:-4]
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(start + 4, len(content))))
    read_or_refused(module, forged(content[:start] + data.draw(st.binary(max_size=4)) + content[end:]))


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


def test_a_payload_that_is_no_tuple_is_refused() -> None:
    """A tensor of one row has the length of a tuple of one value."""
    with pytest.raises(RequestError, match="tuple of 1 values"):
        pack_payload(head(None), torch.rand(1, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [
        "text",
        [1, 2],
        2**63,
        -(2**70),
        1j,
        {},
        torch.eye(3).to_sparse(),
        torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged),
        torch.zeros(3, device="meta"),
        torch.empty(3, dtype=torch.bits8),
        torch.empty(2**20).as_strided((1,) * 256, (1,) * 256),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_cannot_be_sent_is_named(value: Any) -> None:
    with pytest.raises(RequestError, match=r"the payload's value 'x1', .*, cannot be sent"):
        pack_payload(head(None, None), (1, value))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_tensor_of_torch_s_own_quantization_is_refused() -> None:
    with pytest.raises(RequestError, match=r"'x0', a tensor of torch\.qint8, cannot be sent"):
        pack_payload(head(None), (torch.quantize_per_tensor(torch.rand(3), 0.1, 0, torch.qint8),))


def test_nan_has_no_code() -> None:
    module = head(4)
    with pytest.raises(RequestError, match=r"'quantize_x0', a tensor of torch\.float32, cannot be sent: it holds NaN"):
        pack_payload(module, module(torch.tensor([1.0, math.nan])))
    sent(module, torch.tensor([math.inf, -math.inf]))
