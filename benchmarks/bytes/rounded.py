"""Sony's model_compression_toolkit (MCT) on a network's weights: mixed widths by an integer program, and rounding.

Rounding is to the nearest, or learned by gradients through a soft quantizer, against the float network's outputs
(called GPTQ there). Its target platform is here one that any layer may have 2 to 8 bits on, with symmetric scales a
channel, and that leaves activations alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
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

from .integers import Layer, Rounded

WIDTHS = (8, 7, 6, 5, 4, 3, 2)


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
