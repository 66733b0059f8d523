"""Small networks that a device is measured with: blocks as real ones have them, each so many times in a row.

What a layer takes depends on what is around it (whether its input still lies in the cache, in which order its channels
lie, what is fused with it): so that blocks are measured, and not layers by themselves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingDependencyError
from ..node_work import PICTURE_CHANNELS, NodeWork

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
except ModuleNotFoundError as error:
    raise MissingDependencyError("measuring a device", extra="calibrate") from error

Shape = tuple[int, ...]

_OPSET, _IR_VERSION = 21, 10

INPUT, OUTPUT = "input", "output"


@dataclass
class Net:
    """A network while it is built. ``integers``: with 8-bit values inside, as heads for integer kernels have them.

    ``work``: of its nodes, as :mod:`qpart_fx.count_work` counts it.
    """

    integers: bool
    shapes: dict[str, Shape] = field(default_factory=dict)
    nodes: list[Any] = field(default_factory=list)
    tensors: dict[str, NDArray[Any]] = field(default_factory=dict)
    work: list[NodeWork] = field(default_factory=list)

    def input(self, *shape: int) -> str:
        self.shapes[INPUT] = shape
        return self.rounded(INPUT, signed=True) if len(shape) < 4 or shape[1] > PICTURE_CHANNELS else INPUT

    def convolution(
        self, x: str, channels: int, kernel: int, *, stride: int = 1, groups: int = 1, rectifier: str | None = "Relu"
    ) -> str:
        """Of images of shape (1, channels, height, width), padded so that their size is kept, and its rectifier."""
        _, given, *size = self.shapes[x]
        weight = self._weight((channels, given // groups, kernel, kernel))
        attributes = {"strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": groups}
        shape = (1, channels, *((side - 1) // stride + 1 for side in size))
        y = self._node("Conv", [x, weight, self._constant(np.zeros(channels, np.float32))], shape, **attributes)
        kind = (
            "depthwise" if groups > 1 else "image" if given <= PICTURE_CHANNELS else "pointwise" if kernel == 1 else ""
        )
        macs = given // groups * kernel**2 * _count(shape)
        self._count(f"{kind}_convolution".removeprefix("_"), macs, x, y, weights=_count(self.shapes[weight]))
        return self.rounded(self._rectified(y, rectifier), signed=rectifier is None)

    def linear(self, x: str, features: int, *, rectifier: str | None = "Relu") -> str:
        """Of rows of shape (rows, features)."""
        rows, given = self.shapes[x]
        weight = self._weight((features, given))
        y = self._node("Gemm", [x, weight, self._constant(np.zeros(features, np.float32))], (rows, features), transB=1)
        self._count("linear", rows * features * given, x, y, weights=features * given)
        return self.rounded(self._rectified(y, rectifier), signed=rectifier is None)

    def product(self, x: str, y: str, shape: Shape) -> str:
        """Of matrices, neither of them weights."""
        z = self._node("MatMul", [x, y], shape)
        self._count("matrix_product", _count(shape) * self.shapes[x][-1], x, y, z)
        return z

    def recurrent(self, x: str, kind: str, features: int) -> str:
        """Of steps of shape (steps, 1, features); an LSTM or a GRU."""
        steps, _, given = self.shapes[x]
        gates = 4 if kind == "LSTM" else 3
        weights = [
            self._constant(_random((1, gates * features, size), 1 / np.sqrt(size))) for size in (given, features)
        ]
        y = self._node(kind, [x, *weights], (steps, 1, 1, features), hidden_size=features)
        self._count("recurrence", steps * gates * features * (given + features), x, y,
                    weights=gates * features * (given + features))  # fmt: skip
        return self._node("Reshape", [y, self._constant(np.array([steps, 1, features]))], (steps, 1, features))

    def elementwise(self, kind: str, *given: str, shape: Shape | None = None, **attributes: Any) -> str:
        """Sums, pools, norms and the like."""
        y = self._node(kind, [*given], shape or self.shapes[given[0]], **attributes)
        self._count("elementwise", 0, *given[: 1 if kind == "LayerNormalization" else None], y)
        return y

    def sum(self, x: str, y: str) -> str:
        """And its rectifier, which nothing is fused with."""
        return self.rounded(self.elementwise("Relu", self.elementwise("Add", x, y)), signed=False)

    def scale(self, features: int) -> str:
        """A norm's."""
        return self._constant(np.ones(features, np.float32))

    def moved(self, x: str, order: list[int]) -> str:
        """With other dimensions first; copies."""
        y = self._node("Transpose", [x], tuple(self.shapes[x][place] for place in order), perm=order)
        self._count("elementwise", 0, x, y)
        return y

    def rounded(self, x: str, *, signed: bool) -> str:
        """To 8 bits, where values inside are."""
        if not self.integers:
            return x
        # so fine that none lies beyond 6, as ranges are: a rectifier that clips there is then left out
        grid = [self._constant(np.array(0.02, np.float32)), self._constant(np.array(128 if signed else 0, np.uint8))]
        codes = self._node("QuantizeLinear", [x, *grid], self.shapes[x])
        return self._node("DequantizeLinear", [codes, *grid], self.shapes[x])

    def codes(self, x: str) -> str:
        """Of 8 bits, clipped as narrower ones are."""
        ends = [self._constant(np.array(end, np.float32)) for end in (0, 6.3)]
        grid = [self._constant(np.array(0.1, np.float32)), self._constant(np.array(0, np.uint8))]
        return self._node("QuantizeLinear", [self._node("Clip", [x, *ends], self.shapes[x]), *grid], self.shapes[x])

    def model(self, result: str) -> bytes:
        """The network that makes ``result``."""
        kind = TensorProto.UINT8 if self.nodes and self.nodes[-1].op_type == "QuantizeLinear" else TensorProto.FLOAT
        nodes = [*self.nodes, helper.make_node("Identity", [result], [OUTPUT])]
        graph = helper.make_graph(
            nodes, "net",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, self.shapes[INPUT])],
            [helper.make_tensor_value_info(OUTPUT, kind, self.shapes[result])],
            [numpy_helper.from_array(value, name) for name, value in self.tensors.items()],
        )  # fmt: skip
        opsets = [helper.make_opsetid("", _OPSET)]
        model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        content: bytes = model.SerializeToString()
        return content

    def _rectified(self, y: str, rectifier: str | None) -> str:
        if rectifier is None:
            return y
        ends = [self._constant(np.array(end, np.float32)) for end in (0, 6)] if rectifier == "Clip" else []
        return self._node(rectifier, [y, *ends], self.shapes[y])

    def _weight(self, shape: Shape) -> str:
        if not self.integers or (len(shape) == 4 and shape[1] == PICTURE_CHANNELS):
            return self._constant(_random(shape, 1 / np.sqrt(_count(shape[1:]))))
        codes = np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)
        of_codes = [self._constant(codes), self._constant(np.full(shape[0], 0.01, np.float32)),
                    self._constant(np.zeros(shape[0], np.int8))]  # fmt: skip
        return self._node("DequantizeLinear", of_codes, shape, axis=0)

    def _node(self, kind: str, inputs: list[str], shape: Shape, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        self.shapes[name] = shape
        return name

    def _constant(self, value: NDArray[Any]) -> str:
        name = f"c{len(self.tensors)}"
        self.tensors[name], self.shapes[name] = value, value.shape
        return name

    def _count(self, kind: str, macs: int, *values: str, weights: int = 0) -> None:
        moved = 4 * sum(_count(self.shapes[name]) for name in values)
        self.work.append(NodeWork(kind, macs, moved, 4 * weights))


Block = Callable[[Net, str], str]


@dataclass(frozen=True)
class Case:
    """``block`` after block on inputs of ``shape``, which each keeps."""

    name: str
    shape: Shape
    block: Block
    repeats: bool = True
    """Whether it can follow itself."""

    def net(self, times: int, integers: bool) -> tuple[bytes, list[NodeWork]]:
        """The network of so many blocks, and its work."""
        net = Net(integers)
        x = net.input(*self.shape)
        for _ in range(times):
            x = self.block(net, x)
        return net.model(x), net.work


def cases() -> Iterator[Case]:
    """All of them."""
    for channels, size in ((16, 32), (16, 16), (32, 16), (32, 56), (64, 8), (64, 28), (128, 14), (256, 7)):
        yield Case(f"residual {channels} x {size}", (1, channels, size, size), _residual(channels))
        yield Case(f"convolution {channels} x {size}", (1, channels, size, size), _plain(channels))
    for channels, size in (
        (32, 112),
        (48, 56),
        (96, 56),
        (96, 28),
        (192, 28),
        (192, 14),
        (384, 14),
        (512, 14),
        (768, 7),
    ):
        yield Case(f"separable {channels} x {size}", (1, channels, size, size), _separable(channels))
    for channels, size in ((16, 56), (24, 28), (64, 14), (160, 7)):
        yield Case(f"inverted {channels} x {size}", (1, channels, size, size), _inverted(channels))
    for channels, size in ((64, 56), (256, 14), (512, 7)):
        yield Case(f"bottleneck {channels} x {size}", (1, channels, size, size), _bottleneck(channels))
    for channels, size in ((32, 112), (64, 56), (128, 28), (256, 14), (512, 7)):
        yield Case(f"widening {channels} x {size}", (1, channels, size, size), _widening(channels))
        yield Case(f"pointwise {channels} x {size}", (1, channels, size, size), _pointwise(channels))
    for channels, size in ((16, 32), (32, 64), (32, 112), (32, 224)):
        yield Case(f"stem {channels} x {size}", (1, 3, size, size), _stem(channels), repeats=False)
    for channels, size in ((32, 56), (64, 14)):
        yield Case(f"pools {channels} x {size}", (1, channels, size, size), _pools())
    for features in (64, 256, 784, 1024):
        for rows in (1, 32):
            yield Case(f"linear {features} x {rows}", (rows, features), _layers(features))
    for features, rows in ((64, 32), (128, 64), (256, 64)):
        yield Case(f"attention {features} x {rows}", (rows, features), _attention(rows, features))
    for kind, features in (("LSTM", 64), ("LSTM", 256), ("GRU", 64), ("GRU", 256)):
        yield Case(f"{kind} {features}", (20, 1, features), _recurrent(kind, features))


def networks() -> Iterator[Case]:
    """Whole ones, of different layers: what is around a layer there is not another one like it."""
    yield Case("separable network", (1, 3, 192, 192), _separable_network, repeats=False)
    yield Case("residual network", (1, 3, 64, 64), _residual_network, repeats=False)


def _separable_network(net: Net, x: str) -> str:
    x = net.convolution(x, 32, 3, stride=2, rectifier="Clip")
    for channels, stride in ((32, 1), (64, 2), (128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 1), (512, 2)):
        x = net.convolution(x, net.shapes[x][1], 3, stride=stride, groups=net.shapes[x][1], rectifier="Clip")
        x = net.convolution(x, channels, 1, rectifier="Clip")
    return x


def _residual_network(net: Net, x: str) -> str:
    x = net.convolution(x, 32, 3)
    for channels in (32, 64, 128):
        x = x if net.shapes[x][1] == channels else net.convolution(x, channels, 3, stride=2)
        x = _residual(channels)(net, x)
    return x


def _plain(channels: int) -> Block:
    return lambda net, x: net.convolution(x, channels, 3)


def _pointwise(channels: int) -> Block:
    return lambda net, x: net.convolution(net.convolution(x, 2 * channels, 1), channels, 1)


def _widening(channels: int) -> Block:
    def block(net: Net, x: str) -> str:
        x = net.convolution(x, channels, 3, groups=channels, rectifier="Clip")
        x = net.convolution(x, 2 * channels, 1, rectifier="Clip")
        x = net.convolution(x, 2 * channels, 3, groups=2 * channels, rectifier="Clip")
        return net.convolution(x, channels, 1, rectifier="Clip")

    return block


def _residual(channels: int) -> Block:
    return lambda net, x: net.sum(net.convolution(net.convolution(x, channels, 3), channels, 3, rectifier=None), x)


def _separable(channels: int) -> Block:
    def block(net: Net, x: str) -> str:
        x = net.convolution(x, channels, 3, groups=channels, rectifier="Clip")
        return net.convolution(x, channels, 1, rectifier="Clip")

    return block


def _inverted(channels: int) -> Block:
    def block(net: Net, x: str) -> str:
        y = net.convolution(x, 6 * channels, 1, rectifier="Clip")
        y = net.convolution(y, 6 * channels, 3, groups=6 * channels, rectifier="Clip")
        return net.rounded(net.elementwise("Add", net.convolution(y, channels, 1, rectifier=None), x), signed=True)

    return block


def _bottleneck(channels: int) -> Block:
    def block(net: Net, x: str) -> str:
        y = net.convolution(net.convolution(x, channels // 4, 1), channels // 4, 3)
        return net.sum(net.convolution(y, channels, 1, rectifier=None), x)

    return block


def _stem(channels: int) -> Block:
    return lambda net, x: net.convolution(x, channels, 3, stride=2)


def _pools() -> Block:
    def block(net: Net, x: str) -> str:
        batch, channels, height, width = net.shapes[x]
        half = (batch, channels, height // 2, width // 2)
        y = net.elementwise("MaxPool", x, shape=half, kernel_shape=[2, 2], strides=[2, 2])
        z = net.elementwise("AveragePool", x, shape=half, kernel_shape=[2, 2], strides=[2, 2])
        y = net.elementwise("Concat", y, z, shape=(batch, 2 * channels, *half[2:]), axis=1)
        y = net.elementwise("DepthToSpace", y, shape=(batch, channels // 2, height, width), blocksize=2)
        return net.elementwise("Concat", y, y, shape=(batch, channels, height, width), axis=1)

    return block


def _layers(features: int) -> Block:
    return lambda net, x: net.linear(net.linear(x, features), features)


def _attention(rows: int, features: int) -> Block:
    def block(net: Net, x: str) -> str:
        y = net.elementwise("LayerNormalization", x, net.scale(features))
        query, key, value = (net.linear(y, features, rectifier=None) for _ in range(3))
        weights = net.product(query, net.moved(key, [1, 0]), (rows, rows))
        y = net.product(net.elementwise("Softmax", weights), value, (rows, features))
        y = net.elementwise("Add", x, net.linear(y, features, rectifier=None))
        z = net.linear(net.elementwise("LayerNormalization", y, net.scale(features)), 4 * features)
        return net.elementwise("Add", y, net.linear(z, features, rectifier=None))

    return block


def _recurrent(kind: str, features: int) -> Block:
    return lambda net, x: net.recurrent(x, kind, features)


def total(work: list[NodeWork]) -> Mapping[str, NDArray[np.float64]]:
    """The sums of their counts, by kind."""
    sums: defaultdict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros(len(work[0].counts)))
    for node in work:
        sums[node.kind] += node.counts
    return sums


def _random(shape: Shape, deviation: float) -> NDArray[np.float32]:
    return (deviation * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


def _count(shape: Shape) -> int:
    return int(np.prod(shape, dtype=np.int64))
