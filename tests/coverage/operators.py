"""torchvision's own operators, in plain torch where its wheel was built for another torch and they are missing.

Import this before anything that imports torchvision.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Greedy: a box stays if it overlaps with none that stays and has a higher score."""
    order = scores.argsort(descending=True, stable=True)
    overlaps = importlib.import_module("torchvision.ops.boxes").box_iou(boxes[order], boxes[order]) > threshold
    stays = torch.ones(len(order), dtype=torch.bool)
    for place in range(len(order)):
        if stays[place]:
            stays[place + 1 :] &= ~overlaps[place, place + 1 :]
    return order[stays]


def _provide() -> None:
    try:
        extension = importlib.import_module("torchvision.extension")
    except RuntimeError:  # it describes operators that are not there
        for name in ("nms", "qnms"):
            _LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARY.impl("nms", nms, "CPU")
        extension = importlib.import_module("torchvision.extension")
    if not extension._has_ops():
        boxes: Any = importlib.import_module("torchvision.ops.boxes")
        boxes._assert_has_ops = lambda: None
        align: Any = importlib.import_module("torchvision.ops.roi_align")
        align._roi_align = align._roi_align.__wrapped__  # as it is written, not compiled


_provide()
