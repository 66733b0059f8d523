"""Real networks keep their budget on real data that served neither to train nor to plan."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

import qpart_fx as qpart

HELD = qpart.Request.paper(
    0.01,
    device_holds_head=True,
    device=qpart.Device(2e9, 0.25),
    link=qpart.Link(1e6, 1e6),
    server=qpart.Server(3e9, 1.25),
)


def batches(data: tuple[Tensor, Tensor], part: slice) -> list[tuple[Tensor, Tensor]]:
    images, labels = data[0][part], data[1][part]
    return list(zip(images.split(32), labels.split(32), strict=True))


@pytest.mark.slow
def test_resnet20(zoo: ModuleType) -> None:
    profile = qpart.profile(zoo.model("resnet20"), batches(zoo.cifar10("train"), slice(0, 512)), progress=False)
    assert len(profile.cuts) == 21
    assert profile.uncounted == {}
    test = batches(zoo.cifar10("test"), slice(None))
    for cut in ("input", profile.cuts[7].cut.crossing, "output"):
        split = profile.compile(HELD, cut=cut)
        assert split.plan is not None
        assert split.plan.measured_drop is not None
        assert split.plan.measured_drop <= 0.01
        assert split.verify(test).drop <= 0.01 + 0.01  # one standard error of 400 images is a point


@pytest.mark.slow
def test_mobilenet(zoo: ModuleType) -> None:
    photos = zoo.photos(256)
    order = torch.randperm(256, generator=torch.Generator().manual_seed(0))
    photos = (photos[0][order], photos[1][order])
    profile = qpart.profile(zoo.model("mobilenet_v1"), batches(photos, slice(0, 128)), progress=False)
    assert len(profile.layers) == 28
    split = profile.compile(HELD, cut="output")
    assert split.plan is not None
    assert split.plan.measured_drop is not None
    assert split.plan.measured_drop <= 0.01
    assert len(split.packed_head()) < 0.5 * 4 * sum(layer.parameters for layer in profile.layers)
    assert split.verify(batches(photos, slice(128, None))).drop <= 0.01 + 0.03  # 128 photos: an error is 1.5 points
