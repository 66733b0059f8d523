"""Networks of torchvision and timm by name, with weights from a local file or random ones."""

from __future__ import annotations

import importlib
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from .datasets import DataError


def architecture(name: str, classes: int, weights: Path | None = None) -> nn.Module:
    """``"torchvision:resnet18"``, ``"timm:resnet50"`` and the like, for so many classes.

    ``weights``: a state dict, as ``torch.save`` writes it; None for random weights, the same at every call. Code in the
    file is never run.

    Raises:
        DataError: there is no such network, or the file does not hold its weights.
    """
    library, _, network = name.partition(":")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _made(library, network, classes)
    if weights is not None:
        _load(model, weights)
    return model.eval()


def _made(library: str, network: str, classes: int) -> nn.Module:
    try:
        importlib.import_module("tests.coverage.operators")  # first: it gives torchvision what it may lack
        make: Any
        if library == "torchvision":
            make = importlib.import_module("torchvision.models").get_model
            return make(network, weights=None, num_classes=classes)  # type: ignore[no-any-return]  # imported by name
        if library == "timm":
            make = importlib.import_module("timm").create_model
            return make(network, pretrained=False, num_classes=classes)  # type: ignore[no-any-return]  # likewise
    except ModuleNotFoundError as error:
        raise DataError(
            f"{library}:{network} needs {error.name}: install the extra coverage (pip install 'qpart-fx[coverage]')"
        ) from error
    except (ValueError, RuntimeError) as error:
        raise DataError(f"{library} has no network {network!r}: {error}") from error
    raise DataError(f"network {library + ':' * bool(network) + network!r}: write torchvision:NAME or timm:NAME")


def _load(model: nn.Module, path: Path) -> None:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        state = saved.get("state_dict", saved)
        model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    except (OSError, EOFError, RuntimeError, UnpicklingError, AttributeError) as error:
        raise DataError(
            f"{path} does not hold this network's weights: give the file of torch.save(model.state_dict(), path), of a "
            f"network with as many classes as the data ({error})"
        ) from error
