"""Tails: calls together give what each gives alone, and nothing that a message claims is believed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx.backends.activation import pack_payload
from qpart_fx.checksum import checksum
from qpart_fx.device import unpack_arrays
from qpart_fx.memory_layout import MemoryLayout
from qpart_fx.message import DTYPES, STRIDED, Header, write_message
from qpart_fx.serving.output_structure import values_of
from qpart_fx.serving.probing import probed
from qpart_fx.serving.refusal import Refused
from qpart_fx.serving.tails import MOST_SAMPLES, ServedTail, SharedWeights
from qpart_fx.serving_protocol import build_outputs
from tests.device import heads
from tests.networks import TwoInputs, classifier, images


def served(split: qpart.SplitModel) -> ServedTail:
    return ServedTail(probed(split.head, split.tail))


def answer(tail: ServedTail, rows: Any) -> Any:
    """As a device builds it."""
    assert not isinstance(rows, Refused), rows
    return build_outputs(tail.outputs, unpack_arrays(write_message(rows)))


def near(one: Any, other: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(np.asarray(one)), other.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [5, 8, 11, 16])
@pytest.mark.parametrize(
    ("name", "cut"),
    [("classifier", "_2"), ("residual", "relu"), ("unet", ("relu", "relu_1")), ("encoder", "embedding")],
)
def test_calls_together_give_what_each_gives(name: str, cut: str | tuple[str, ...], bits: int) -> None:
    case = heads.rounded(name, cut, bits)
    tail = served(case.split)
    assert tail.batches
    parts = [slice(0, 1), slice(1, 4), slice(4, 6), slice(6, 7)]
    payloads = []
    for place, part in enumerate(parts):
        crossing = case.split.head(*(value[part] for value in case.inputs))
        rate = 1e3 if place == 2 else None  # entropy-coded
        payloads.append(tail.read(case.split.pack_activation(crossing, rate)))
    assert len({payload.key for payload in payloads}) == 1
    for part, rows in zip(parts, tail.run(payloads), strict=True):
        near(answer(tail, rows), case.split(*(value[part] for value in case.inputs)))


def test_outputs_keep_their_structure() -> None:
    torch.manual_seed(0)
    model, inputs = TwoInputs().eval(), (torch.randn(5, 4), torch.randn(5, 3))
    split = qpart.split(model, inputs)
    tail = served(split)
    assert [value.name for value in tail.gives] == ["logits", "hidden"]
    parts = slice(0, 2), slice(2, 5)
    whole = [tail.read(split.pack_activation(split.head(*(value[part] for value in inputs)))) for part in parts]
    for part, rows in zip(parts, tail.run(whole), strict=True):
        found, expected = answer(tail, rows), split(*(value[part] for value in inputs))
        assert found.keys() == expected.keys()
        for key in expected:
            near(found[key], expected[key])


class Mixing(nn.Module):
    """Samples know of each other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        scores: Tensor = self.two(y - y.mean(dim=0))
        return scores


class Counting(nn.Module):
    """Returns numbers beside tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, int, None]:
        y = self.one(x)
        return self.two(y), y.shape[0] * 2, None


@pytest.mark.parametrize("model", [Mixing, Counting])
def test_what_cannot_run_together_runs_alone(model: type[nn.Module]) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 4)
    split = qpart.split(model().eval(), (x,), cut="one")
    tail = served(split)
    payload = tail.read(split.pack_activation(split.head(x)))
    assert not tail.batches
    assert payload.key is None
    found, expected = answer(tail, tail.run([payload])[0]), split(x)
    if model is Mixing:
        near(found, expected)
    else:
        near(found[0], expected[0])
        assert found[1:] == (8, None)


@pytest.fixture(scope="module")
def split() -> qpart.SplitModel:
    return qpart.split(classifier(), (images(2),), cut="_2")


@pytest.fixture(scope="module")
def tail(split: qpart.SplitModel) -> ServedTail:
    return served(split)


def message(shape: tuple[int, ...], strides: tuple[int, ...] | None = None, dtype: str = "float32") -> bytes:
    """One that holds a tensor of this shape, or claims to."""
    layout = MemoryLayout.contiguous(shape) if strides is None else MemoryLayout(shape, strides)
    kind = DTYPES.index(dtype) + (0 if strides is None else STRIDED)
    size = layout.count * torch.empty(0, dtype=getattr(torch, dtype)).element_size()
    return write_message([(Header(kind, layout), bytes(size))])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cut short"),
        (b"QPA4", "cut short"),
        (write_message([]), "0 values"),
        (message((1, 6, 4, 4), dtype="float64"), "float64"),
        (message((1, 6, 4)), "dimensions"),
        (message(()), "dimensions"),
        (message((0, 6, 4, 4)), "empty"),
        (message((1, 0, 4, 4)), "empty"),
        (message((MOST_SAMPLES + 1, 6, 1, 1)), "samples"),
        (message((1, 6, 40, 40)), "far larger"),
        (message((1, 6, 2**12, 2**12), (0, 0, 0, 0)), "far larger"),
        (message((1, 6, 2**14, 2**14), (0, 0, 0, 0)), "impossible strides"),
        (message((2**28, 1, 1, 1), (0, 0, 0, 0)), "samples"),
    ],
)
def test_impossible_claims_are_refused_before_anything_is_made(tail: ServedTail, content: bytes, words: str) -> None:
    with pytest.raises(Refused, match=words):
        tail.read(content)


def test_who_sends_what_the_tail_cannot_take_harms_nobody_else() -> None:
    model, (x,) = heads.network("tied tokens")
    of_tokens = qpart.split(model, (x,), cut="input")
    served_tokens = served(of_tokens)
    good = of_tokens.pack_activation(of_tokens.head(x[:2]))
    bad = pack_payload(of_tokens.head, (torch.full((1, 7), 1_000_000),))
    found = served_tokens.run([served_tokens.read(each) for each in (good, bad, good)])
    assert isinstance(found[1], Refused)
    for rows in (found[0], found[2]):
        near(answer(served_tokens, rows), of_tokens(x[:2]))


def test_a_form_that_is_known_is_still_checked(split: qpart.SplitModel, tail: ServedTail) -> None:
    contents = [split.pack_activation(split.head(images(2, seed))) for seed in range(3)]
    fresh = served(split)
    for content in (*contents, *contents):
        near(answer(fresh, fresh.run([fresh.read(content)])[0]), tail_of(split, content))
    broken = bytearray(contents[0])
    broken[-1] ^= 1
    with pytest.raises(Refused, match="damaged"):
        fresh.read(bytes(broken))


def tail_of(split: qpart.SplitModel, content: bytes) -> Tensor:
    scores: Tensor = split.tail(*split.unpack_activation(content))
    return scores


def test_mutated_messages_never_do_more_than_raise(split: qpart.SplitModel, tail: ServedTail) -> None:
    case = heads.rounded("unet", ("relu", "relu_1"), 5)
    rounded = served(case.split)
    random = np.random.default_rng(0)
    for one, contents in (
        (tail, [split.pack_activation(split.head(images(2)))]),
        (rounded, [case.split.pack_activation(case.split.head(case.inputs[0][:2]), rate) for rate in (None, 1e3)]),
    ):
        for count in range(1500):
            mutated = bytearray(contents[count % len(contents)])
            for place in random.integers(4, min(len(mutated), 60), random.integers(1, 5)):
                mutated[place] = random.integers(256)
            try:
                mutated[-4:] = checksum(mutated[:-4]).to_bytes(4, "little")
                one.run([one.read(bytes(mutated))])
            except Refused:
                pass


def test_tails_of_one_model_hold_its_weights_once() -> None:
    model, x = classifier(), images(2)
    shared = SharedWeights()
    tails = [served(qpart.split(model, (x,), cut=cut)) for cut in ("_0", "_2", "_4")]
    sizes = [shared.share(tail.module) for tail in tails]
    assert sizes[1].keys() <= sizes[0].keys()
    together = {address: size for each in sizes for address, size in each.items()}
    assert sum(together.values()) == sum(sizes[0].values())
    for cut, tail in zip(("_0", "_2", "_4"), tails, strict=True):
        split = qpart.split(model, (x,), cut=cut)
        near(answer(tail, tail.run([tail.read(split.pack_activation(split.head(x)))])[0]), split(x))
    shared.keep(set())
    other = served(qpart.split(model, (x,), cut="_0"))
    assert not shared.share(other.module).keys() & sizes[0].keys()


def test_outputs_that_cannot_be_sent_are_named() -> None:
    with pytest.raises(qpart.ModelError, match="set"):
        values_of({"a": {1, 2}}, [])
