"""Packed heads and splits: the same weights and outputs to the last bit, and every damaged or lying file refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

import qpart_fx as qpart
from qpart_fx import ArtifactError, SplitModel, container
from qpart_fx.backends.packed import pack_head, pack_split, pack_tail, unpack_side, unpack_split
from qpart_fx.bitpack import packed_size
from qpart_fx.passes.count_parameters import CountParameters
from qpart_fx.passes.quantize_payload import QuantizePayload
from qpart_fx.passes.quantize_weights import QuantizeWeights
from qpart_fx.quantized import crossing_nodes, weight_quantizers
from qpart_fx.quantizer import UniformQuantizer


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=3)
        )
        self.norm = nn.GroupNorm(2, 6)
        self.out = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.body(x)).mean(dim=(2, 3)))  # type: ignore[no-any-return]


class Tied(nn.Module):
    """An embedding whose weight is the output layer's too, a buffer that is not saved, a parameter without a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.norm = nn.LayerNorm(6)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embed.weight
        self.gain = nn.Parameter(torch.rand(6))
        self.register_buffer("shift", torch.rand(6), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.norm(self.embed(tokens)) * self.gain + self.shift)  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM | nn.GRU | nn.RNN]) -> None:
        super().__init__()
        self.cell = kind(5, 4, num_layers=2, bidirectional=True, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(x)[0][:, -1])  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attend(x, x, x, need_weights=False)[0])  # type: ignore[no-any-return]


CASES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(4, 5)),
    "convolutions": (Convolutions, torch.randn(2, 3, 8, 8)),
    "tied": (Tied, torch.randint(11, (2, 7))),
    "lstm": (lambda: Recurrent(nn.LSTM), torch.randn(2, 6, 5)),
    "gru": (lambda: Recurrent(nn.GRU), torch.randn(2, 6, 5)),
    "rnn": (lambda: Recurrent(nn.RNN), torch.randn(2, 6, 5)),
    "attention": (Attention, torch.randn(2, 6, 8)),
}


def lowered(name: str, bits: int | None = None) -> tuple[SplitModel, Tensor]:
    """A whole network as a head, its weights and what crosses at ``bits``, before an empty tail."""
    torch.manual_seed(0)
    build, x = CASES[name]
    model = build()
    for module in model.modules():  # statistics that are not the initial ones
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    split = qpart.split(model, (x,), cut="output")
    if bits is not None:
        head = split.head
        CountParameters().run(head)
        QuantizeWeights({node.name: bits for node in head.graph.nodes}).run(head)
        crossing = {node.name: UniformQuantizer.from_range(-2.0, 2.0, bits) for node in crossing_nodes(head)}
        QuantizePayload(crossing).run(head)
    return split, x


def identical(first: GraphModule, second: GraphModule) -> bool:
    """The same state, bit for bit and name by name, buffers that are not saved among it."""
    states = [
        {**dict(each.named_parameters(remove_duplicate=False)), **dict(each.named_buffers())}
        for each in (first, second)
    ]
    return states[0].keys() == states[1].keys() and all(
        states[0][name].dtype == states[1][name].dtype
        and states[0][name].requires_grad == states[1][name].requires_grad
        and torch.equal(states[0][name], states[1][name])
        for name in states[0]
    )


@pytest.mark.parametrize("bits", [None, 2, 5, 8, 16])
@pytest.mark.parametrize("name", CASES)
def test_a_head_comes_back_to_the_last_bit(name: str, bits: int | None) -> None:
    split, x = lowered(name, bits)
    again = unpack_side(pack_head(split.head))
    assert identical(again, split.head)
    with torch.no_grad():
        assert torch.equal(again(x)[0], split.head(x)[0])
    assert weight_quantizers(again) == weight_quantizers(split.head)
    assert (bits is not None) == bool(weight_quantizers(again))
    assert pack_head(again) == pack_head(split.head)


@pytest.mark.parametrize(("centre", "spread", "bits"), [(1.0, 0.005, 16), (3.25, 0.003, 13), (-7.0, 1e-4, 8)])
def test_weights_that_are_hard_to_tell_apart_come_back_to_the_last_bit(centre: float, spread: float, bits: int) -> None:
    split, _ = lowered("linear")
    torch.manual_seed(1)
    nn.init.uniform_(split.head.get_parameter("0.weight"), centre - spread / 2, centre + spread / 2)
    CountParameters().run(split.head)
    QuantizeWeights({node.name: bits for node in split.head.graph.nodes}).run(split.head)
    assert identical(unpack_side(pack_head(split.head)), split.head)


def test_tied_weights_stay_tied_and_are_written_once() -> None:
    split, _ = lowered("tied")
    again = unpack_side(pack_head(split.head))
    assert again.get_parameter("embed.weight") is again.get_parameter("out.weight")
    untied = copy.deepcopy(split.head)
    untied.get_submodule("out").weight = nn.Parameter(untied.get_parameter("out.weight").clone())
    assert len(pack_head(untied)) - len(pack_head(split.head)) > 11 * 6 * 4 - 50


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_a_head_is_as_large_as_its_bits(bits: int) -> None:
    model = nn.Sequential(nn.Linear(256, 512, bias=False), nn.ReLU())
    split = qpart.split(model, (torch.zeros(1, 256),), cut="output")
    CountParameters().run(split.head)
    QuantizeWeights({node.name: bits for node in split.head.graph.nodes}).run(split.head)
    assert 0 < len(pack_head(split.head)) - packed_size(256 * 512, bits) < 1200


def test_a_tail_and_a_split_come_back_to_the_last_bit() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    split = qpart.split(Convolutions(), (x,))
    tail = unpack_side(pack_tail(split.tail))
    assert identical(tail, split.tail)
    _, manifest, data = container.decode(pack_split(split.head, split.tail, None), "split")
    again, tail, plan = unpack_split(manifest, data)
    assert plan is None
    assert identical(again, split.head)
    assert identical(tail, split.tail)
    with torch.no_grad():
        assert torch.equal(tail(*again(x)), split(x))


def test_a_split_in_training_mode_can_be_packed_too() -> None:
    split, _ = lowered("convolutions")
    expected = pack_head(split.head)
    assert pack_head(split.train().head) == expected


FILE = pack_head(qpart.split(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), (torch.zeros(1, 2),), cut="output").head)


def test_any_changed_byte_is_noticed() -> None:
    for place in range(len(FILE)):
        with pytest.raises(ArtifactError):
            unpack_side(FILE[:place] + bytes([FILE[place] ^ 0x10]) + FILE[place + 1 :])


def test_a_file_cut_short_anywhere_is_refused() -> None:
    for length in range(len(FILE)):
        with pytest.raises(ArtifactError):
            unpack_side(FILE[:length])


def test_another_kind_is_refused() -> None:
    split, _ = lowered("linear")
    with pytest.raises(ArtifactError, match="the file is a split, where a head or tail is needed"):
        unpack_side(pack_split(split.head, split.tail, None))


def test_load_names_the_file_it_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "head.qpart"
    with pytest.raises(ArtifactError, match=r"head\.qpart"):
        qpart.load(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ArtifactError, match=r"head\.qpart: the file is cut short, damaged, or not one of qpart_fx"):
        qpart.load(path)


def forged(edit: Callable[[dict[str, Any], list[Any]], None]) -> bytes:
    """The file of ``relu(linear(x))`` with its record or its table of tensors changed, under a good hash."""
    _, manifest, data = container.decode(FILE, "head")
    graph = json.loads(json.dumps(manifest["graph"]))
    edit(graph["graph"], graph["tensors"])
    return container.encode("head", {"graph": graph}, bytes(data))


def test_the_file_to_be_forged_is_good() -> None:
    assert unpack_side(forged(lambda *_: None))(torch.zeros(1, 2))[0].shape == (1, 3)


QUANTIZED = {"bits": 4, "step": 1.0, "zero": 0}


@pytest.mark.parametrize(
    "change",
    [
        *({"shape": shape} for shape in (
            [3, 3], [2, 3], [6], [10**30], [10**6, 10**6], [0, 10**30], [-3, -2], [3.0, 2], ["3", 2], [None], 6, None,
            [True, 6], [], [0], [1] * 100,
        )),
        *({"dtype": dtype} for dtype in (
            "float64", "float16", "int32", "bool", "complex64", "quint8", "bits8", "uint1", "int4", "load", "nn",
            "__name__", "", None, 3, ["float32"],
        )),
        *({**QUANTIZED, "bits": bits} for bits in (0, -1, 1.5, 17, 24, 64, "4", [4], True)),
        *({**QUANTIZED, "step": step} for step in (None, "1", [1])),
        *({**QUANTIZED, "zero": zero} for zero in (None, "1", [1])),
        {"bits": 4},
        *({"name": name} for name in ("0", "0.", "1.weight", "", "a..b", "forward", "__class__", None, 3, ["a"])),
        *({"same": name} for name in ("0.bias", "0.weight", "nothing", None, ["a"])),
        *({"grad": grad} for grad in ("yes", 3, None)),
        {"dtype": "int32", "shape": [3, 2], "grad": True},
    ],
    ids=str,
)  # fmt: skip
def test_a_table_of_tensors_that_lies_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError):
        unpack_side(forged(lambda _, tensors: tensors[0].update(change)))


@pytest.mark.parametrize("tensors", [None, 3, "x", [3], [None], [[]], [{}], {}, []], ids=str)
def test_another_table_is_refused(tensors: Any) -> None:
    _, manifest, data = container.decode(FILE, "head")
    manifest["graph"]["tensors"] = tensors
    with pytest.raises(ArtifactError):
        unpack_side(container.encode("head", {"graph": manifest["graph"]}, bytes(data)))


@pytest.mark.parametrize("manifest", [{}, {"graph": None}, {"graph": []}, {"graph": {}}, {"graph": {"tensors": []}}])
def test_another_manifest_is_refused(manifest: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="malformed"):
        unpack_side(container.encode("head", manifest, b""))


@pytest.mark.parametrize("target", ["os.system", "torch.load", "builtins.eval"])
def test_a_file_cannot_call_what_it_likes(target: str) -> None:
    def edit(graph: dict[str, Any], _: list[Any]) -> None:
        graph["nodes"][1] = ["call_function", "run", target, {"tuple": ["echo"]}, {"dict": []}]

    with pytest.raises(ArtifactError, match=f"the graph calls '{target}'"):
        unpack_side(forged(edit))


def test_a_file_cannot_run_code_through_a_keyword(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def edit(graph: dict[str, Any], _: list[Any]) -> None:
        graph["nodes"][2][4] = {"dict": [['x=__import__("pathlib").Path("ran").touch(), y', 1]]}

    with pytest.raises(ArtifactError):
        unpack_side(forged(edit))(torch.zeros(1, 2))
    assert not list(tmp_path.iterdir())


def test_a_head_with_a_module_of_the_user_s_cannot_be_packed() -> None:
    class Mine(nn.Linear):
        pass

    graph = Graph()
    graph.output((graph.call_module("mine", (graph.placeholder("x"),)),))
    with pytest.raises(ArtifactError, match="'mine' is a Mine"):
        pack_head(GraphModule({"mine": Mine(2, 2)}, graph))
