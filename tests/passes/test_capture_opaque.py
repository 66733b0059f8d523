"""What no graph can hold: decisions on contents become opaque nodes on the server, decisions on sizes are checked."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qpart_fx as qpart
from qpart_fx.meta import info
from qpart_fx.passes.capture import capture, capture_report
from qpart_fx.passes.find_cuts import find_cuts


class Detector(nn.Module):
    """Like one of torchvision's: a list of images in, a list of dictionaries out, as many boxes as are found."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
        self.head = nn.Linear(4, 2)
        self.cached: Tensor | None = None

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        largest = [max(side) for side in zip(*(image.shape for image in images), strict=True)]
        batch = images[0].new_full((len(images), *largest), 0)
        for place, image in enumerate(images):
            batch[place, :, : image.shape[1], : image.shape[2]].copy_(image)
        self.cached = batch
        found = self.head(self.backbone(batch).flatten(2).transpose(1, 2))
        return self.kept(found, [(image.shape[1], image.shape[2]) for image in images])

    def kept(self, found: Tensor, sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        results = []
        for each, size in zip(found, sizes, strict=True):
            scores = each[:, 0][each[:, 0] > 0]
            while len(scores) > 3:
                scores = scores[:-1]
            results.append({"scores": scores, "size": torch.tensor(size)})
        return results


IMAGES = [torch.rand(3, 12, 10), torch.rand(3, 9, 11)]


def same(left: list[dict[str, Tensor]], right: list[dict[str, Tensor]]) -> bool:
    pairs = zip(left, right, strict=True)
    return all(one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
               for one, other in pairs)  # fmt: skip


def test_what_depends_on_contents_is_one_node_and_the_rest_can_be_cut() -> None:
    model = Detector().eval()
    graph = capture(model, (IMAGES,))
    assert capture_report(graph).way == "tracing beside a run, around opaque parts"
    opaque = [node for node in graph.graph.nodes if info(node).opaque]
    assert [str(graph.get_submodule(str(node.target)))[:21] for node in opaque] == ["Opaque(\n  Detector.kept"[:21]]
    crossing = [name for cut in find_cuts(graph) for name in cut.crossing]
    assert {"backbone_0", "backbone_2", "head"} <= set(crossing)
    assert opaque[0].name not in crossing
    for cut in find_cuts(graph):
        split = qpart.split(model, (IMAGES,), cut=cut.crossing)
        payload = split.unpack_activation(split.pack_activation(split.head(IMAGES)))
        assert same(split.tail(*payload), model(IMAGES))


def test_an_opaque_node_follows_the_contents_of_other_data() -> None:
    model = Detector().eval()
    split = qpart.split(model, (IMAGES,))
    others = [torch.randn(3, 12, 10), torch.randn(3, 9, 11)]
    assert same(split(others), model(others))


def test_tracing_leaves_no_proxies_in_the_attributes_of_the_model() -> None:
    model = Detector().eval()
    model(IMAGES)
    before = model.cached
    split = qpart.split(model, (IMAGES,))
    assert model.cached is before
    assert same(split(IMAGES), model(IMAGES))


def test_the_device_cannot_be_given_an_opaque_part() -> None:
    with pytest.raises(qpart.RequestError, match=r"runs on the server only.* nearest legal cuts are at .*head"):
        qpart.split(Detector().eval(), (IMAGES,), cut="output")


class Branches(nn.Module):
    """Takes another way for long inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.short, self.long = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.long(x) if x.shape[1] > 6 else self.short(x)
        return y


def test_a_decision_on_a_size_is_checked_when_the_graph_runs() -> None:
    graph = capture(Branches(), (torch.randn(2, 5, 4),))
    assert capture_report(graph).way == "tracing beside a run"
    graph(torch.randn(3, 6, 4))
    with pytest.raises(AssertionError, match=r"test_capture_opaque\.py:\d+\): the model decided by a size here"):
        graph(torch.randn(3, 7, 4))


def test_a_decision_on_the_rank_needs_no_check() -> None:
    class Ranked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) if x.dim() == 3 and len(self.scale.shape) == 1 else x

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    graph = capture(Ranked(), (torch.randn(2, 5, 4),))
    assert not any(node.target is torch._assert for node in graph.graph.nodes)


def test_tensors_made_of_sizes_follow_the_sizes() -> None:
    class Positions(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[1] < 2:
                raise ValueError("too short")
            return x / torch.tensor([x.shape[1], x.shape[2]]).sum() + torch.arange(x.shape[1])[:, None]

    model = Positions()
    graph = capture(model, (torch.randn(2, 5, 4),))
    assert capture_report(graph).way == "tracing beside a run"
    x = torch.randn(3, 7, 2)
    assert torch.equal(graph(x), model(x))


def _nonzero(x: Tensor) -> int:
    return len(x.nonzero())


def _masked(x: Tensor) -> int:
    return x[x > 0].shape[0]


def _item(x: Tensor) -> int:
    return int(x.argmax().item())


def _unique(x: Tensor) -> int:
    return int(torch.unique(x.round()).numel())


@pytest.mark.parametrize("count", [_nonzero, _masked, _item, _unique])
def test_a_number_that_follows_from_contents_is_never_a_constant(count: Callable[[Tensor], int]) -> None:
    class Repeats(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = self.fc(x)
            return self.repeated(x)

        def repeated(self, x: Tensor) -> Tensor:
            for _ in range(count(x)):
                x = x + 1
            return x

    model = Repeats().eval()
    split = qpart.split(model, torch.randn(1, 6))
    for _ in range(10):
        x = torch.randn(1, 6)
        assert torch.equal(split(x), model(x))


def test_a_forward_that_decides_by_contents_itself_is_refused_with_its_line() -> None:
    class Loops(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            while x.sum() > 1:
                x = x / 2
            return x

    with pytest.raises(qpart.CaptureError, match=r"test_capture_opaque\.py:\d+.*Remedy"):
        qpart.split(Loops(), torch.rand(2, 3) + 1)


def test_a_first_call_that_replaces_a_part_is_captured_after_it() -> None:
    class Replaces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part, self.ready = nn.Linear(4, 4), False

        def forward(self, x: Tensor) -> Tensor:
            if not self.ready:
                self.part, self.ready = copy.deepcopy(self.part), True
            y: Tensor = self.part(x)
            return y

    model, x = Replaces(), torch.randn(2, 4)
    split = qpart.split(model, x)
    assert not model.ready
    assert torch.equal(split(x), model(x))


def test_numbers_of_numpy_are_numbers() -> None:
    class Padded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[1] < 1:
                raise ValueError("empty")
            numbers: Any = np.int64(2), np.float32(0.5)
            y: Tensor = nn.functional.pad(x, (0, numbers[0])) * numbers[1]
            return y

    model, x = Padded(), torch.randn(2, 4)
    assert torch.equal(qpart.split(model, x)(x), model(x))


def test_a_graph_that_knows_one_batch_size_only_is_the_last_way() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.fc(x)
            return self.chosen(x) * len(x)

        def chosen(self, x: Tensor) -> Tensor:
            return x.clone() if x.sum() > 0 else -x

    model, x = Counts().eval(), torch.randn(2, 4)
    graph = capture(model, (x,))
    assert capture_report(graph).frozen
    assert torch.equal(graph(-x), model(-x))
    with pytest.raises(AssertionError, match="decided by a size here"):
        graph(torch.randn(3, 4))


def test_an_opaque_part_may_replace_what_is_in_its_arguments_but_not_fill_them() -> None:
    class Fills(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(self.fc(x))

        def outer(self, x: Tensor) -> Tensor:
            kept: dict[str, Tensor] = {}
            self.inner(x, kept)
            return x + kept["added"]

        def inner(self, x: Tensor, kept: dict[str, Tensor]) -> None:
            kept["added"] = x.abs() if x.sum() > 0 else -x

    model = Fills().eval()
    graph = capture(model, (torch.randn(2, 4),))
    opaque = [graph.get_submodule(str(node.target)) for node in graph.graph.nodes if info(node).opaque]
    assert [part.extra_repr() for part in opaque] == ["Fills.outer"]  # the smallest that keeps what it makes
    x = torch.randn(2, 4)
    assert torch.equal(graph(x), model(x))
    assert torch.equal(graph(-x), model(-x))


def test_no_plan_puts_an_opaque_part_on_the_device() -> None:
    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.chosen(self.fc(x))

        def chosen(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x * 3

    torch.manual_seed(0)
    profile = qpart.profile(Decides(), [torch.randn(32, 6)], progress=False)
    for method in ("exact", "paper"):
        with pytest.raises(qpart.RequestError, match=r"'opaque_.*' runs on the server only.*name another cut"):
            profile.plan(qpart.Request.paper(0.05), cut="output", method=method)
        plan = profile.plan(qpart.Request.paper(0.05), method=method)
        assert not any("opaque" in name for name in plan.device_nodes)
