"""A network whose weights are integers times scales, and the bytes that a device would need of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from qpart_fx.entropy_coding import encode


@dataclass(frozen=True)
class Layer:
    """``codes`` times ``scales``, one for every index of the first axis, are the weights; the bias has its norm in."""

    codes: np.ndarray[Any, np.dtype[np.signedinteger[Any]]]
    scales: np.ndarray[Any, np.dtype[np.float32]]
    bias: np.ndarray[Any, np.dtype[np.float32]]
    bits: int

    @property
    def rows(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        """The codes, shape (scales, codes of each)."""
        return self.codes.reshape(len(self.scales), -1).astype(np.int32)


@dataclass(frozen=True)
class Rounded:
    """A quantized network. ``images``: how many it was calibrated with; ``seconds``: of processor time, one core."""

    model: nn.Module
    layers: Mapping[str, Layer]
    images: int
    seconds: float

    @property
    def layer_bits(self) -> dict[str, int]:
        return {name: layer.bits for name, layer in self.layers.items()}

    @property
    def weight_bytes(self) -> int:
        """Of the integers alone, at their widths."""
        return sum(math.ceil(layer.codes.size * layer.bits / 8) for layer in self.layers.values())

    @property
    def bytes(self) -> int:
        return self._others + self.weight_bytes

    @property
    def coded_bytes(self) -> int:
        """As ``bytes``, with the integers coded as those of a head's file are, which the toolkit itself cannot."""
        return self._others + sum(len(encode(layer.rows)) for layer in self.layers.values())

    @property
    def _others(self) -> int:
        """Scales and biases at two bytes each, though the tool keeps four, and a byte a layer for its width."""
        return sum(1 + 2 * (layer.scales.size + layer.bias.size) for layer in self.layers.values())

    def save(self, path: Path) -> None:
        """The integers, scales, biases and widths, as ``NAME.codes`` and so on; NAME is the float network's."""
        arrays: dict[str, Any] = {}
        for name, layer in self.layers.items():
            for key in ("codes", "scales", "bias", "bits"):
                arrays[f"{name}.{key}"] = np.asarray(getattr(layer, key))
        np.savez_compressed(path, **arrays)
