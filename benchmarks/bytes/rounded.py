"""Sony's model_compression_toolkit (MCT) on a network's weights: mixed widths by an integer program, and rounding.

Rounding is to the nearest, or learned by gradients through a soft quantizer, against the float network's outputs
(called GPTQ there). Its target platform is here one that any layer may have 2 to 8 bits on, with symmetric scales a
channel, and that leaves activations alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import model_compression_toolkit as mct
import numpy as np
import torch
from model_compression_toolkit.target_platform_capabilities.constants import KERNEL_ATTR, WEIGHTS_N_BITS
from model_compression_toolkit.target_platform_capabilities.tpc_models.imx500_tpc.v1_0.tpc import (
    generate_tpc,
    get_op_quantization_configs,
)
from torch import Tensor, nn

from benchmarks.planning.subjects import Subject, batches
from qpart_fx.entropy_coding import encode

WIDTHS = (8, 7, 6, 5, 4, 3, 2)


@dataclass(frozen=True)
class Layer:
    """``codes`` times ``scales``, one for every index of the first axis, are the weights; the bias has its norm in."""

    codes: np.ndarray[Any, np.dtype[np.int8]]
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


@dataclass(frozen=True)
class Learning:
    """How to round is learned in ``epochs`` of batches of ``batch`` images.

    ``weighed_by``: whose Hessians weigh the losses of layers. ``"every image"``, for itself, is the toolkit's default,
    and takes a hundred backward passes an image; ``"32 images"``, for all; ``"nothing"``: layers weigh the same.
    """

    epochs: int
    batch: int
    weighed_by: str


def rounded(subject: Subject, bits: float, learning: Learning | None, most_images: int) -> Rounded:
    """``subject`` with ``bits`` a weight on average, rounded as learned, or to the nearest."""
    images = subject.calibration_data[0][:most_images]

    def data() -> Iterator[list[Tensor]]:
        for batch, _ in batches((images, images), learning.batch if learning else 64):
            yield [batch]

    weights = sum(module.weight.numel() for module in _weighted(subject.model).values())
    settings = {
        "target_resource_utilization": mct.core.ResourceUtilization(weights_memory=weights * bits / 8),
        "core_config": mct.core.CoreConfig(
            mixed_precision_config=mct.core.MixedPrecisionQuantizationConfig(num_of_images=64)
        ),
        "target_platform_capabilities": _platform(),
    }
    torch.manual_seed(0)
    start = process_time()
    model = copy.deepcopy(subject.model)
    if learning:
        config = mct.gptq.get_pytorch_gptq_config(
            n_epochs=learning.epochs,
            use_hessian_based_weights=learning.weighed_by != "nothing",
            use_hessian_sample_attention=learning.weighed_by == "every image",
        )
        model, _ = mct.gptq.pytorch_gradient_post_training_quantization(model, data, gptq_config=config, **settings)
    else:
        model, _ = mct.ptq.pytorch_post_training_quantization(model, data, **settings)
    spent = process_time() - start
    return Rounded(model.eval(), _layers(subject.model, model), len(images), spent)


def _platform() -> Any:
    base, _, others = get_op_quantization_configs()
    base, others = (config.clone_and_edit(enable_activation_quantization=False) for config in (base, others))
    choices = [base.clone_and_edit(attr_to_edit={KERNEL_ATTR: {WEIGHTS_N_BITS: width}}) for width in WIDTHS]
    return generate_tpc(others, base, choices, "weights_only")


def _weighted(model: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}


def _layers(float_model: nn.Module, model: nn.Module) -> dict[str, Layer]:
    """By the names in ``float_model``, which the toolkit changes: ``a.b`` with a norm folded in becomes ``a_b_bn``."""
    wrapped = {
        name.removesuffix("_bn"): module
        for name, module in model.named_modules()
        if hasattr(module, "weights_quantizers")
    }
    found = {}
    for name, module in _weighted(float_model).items():
        wrapper: Any = wrapped[name.replace(".", "_")]
        quantizer = wrapper.weights_quantizers["weight"]
        assert quantizer.channel_axis == 0
        scales = quantizer.scales.detach().float()
        values = wrapper.get_quantized_weights()["weight"].detach()
        codes = (values / scales.reshape(-1, *[1] * (values.ndim - 1))).round()
        limit = 2 ** (quantizer.num_bits - 1)
        assert codes.shape == module.weight.shape
        assert int(codes.min()) in range(-limit, limit)
        assert int(codes.max()) in range(-limit, limit)
        bias = wrapper.layer.bias.detach().float().numpy().copy()
        found[name] = Layer(codes.numpy().astype(np.int8), scales.numpy().copy(), bias, quantizer.num_bits)
    return found
