"""NVIDIA's ModelOpt on a network's weights: mixed widths by gradients and an integer program, rounded to the nearest.

A layer may have 3 to 8 bits, with symmetric scales a channel by the largest weight, or stay as it is, which
``auto_quantize`` counts as 16 bits. Activations are left alone.
"""

from __future__ import annotations

import copy
from time import process_time
from typing import Any

import modelopt.torch.quantization as mtq
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.planning.subjects import Subject, batches

from .integers import Layer, Rounded

WIDTHS = (3, 4, 5, 6, 8)
"""With 2 bits among them it gives them to a layer of a ResNet-20, which then loses 6 points at 4 bits on average."""
_FLOAT_BITS = 16


def rounded(subject: Subject, bits: float, most_images: int) -> Rounded:
    """``subject`` with ``bits`` a weight on average, as ModelOpt counts them."""
    images, labels = subject.calibration_data[0][:most_images], subject.calibration_data[1][:most_images]
    data = batches((images, labels), 64)
    torch.manual_seed(0)
    start = process_time()
    model, _ = mtq.auto_quantize(
        copy.deepcopy(subject.model),
        constraints={"effective_bits": bits},
        quantization_formats=[_format(width) for width in WIDTHS],
        data_loader=data,
        forward_step=lambda model, batch: model(batch[0]),
        loss_func=lambda output, batch: nn.functional.cross_entropy(output, batch[1]),
        num_calib_steps=len(data),
        num_score_steps=len(data),
    )
    spent = process_time() - start
    layers = {name: _layer(module) for name, module in model.named_modules() if hasattr(module, "weight_quantizer")}
    return Rounded(model.eval(), layers, len(images), spent)


def _format(bits: int) -> dict[str, Any]:
    return {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": bits, "axis": 0}, "enable": True},
        ],
        "algorithm": "max",
    }


def _layer(module: Any) -> Layer:
    """Its integers; of a layer that stays in float those of 16 bits."""
    weight: Tensor = module.weight.detach()
    quantizer = module.weight_quantizer
    bits = quantizer.num_bits if quantizer.is_enabled else _FLOAT_BITS
    largest = weight.flatten(1).abs().amax(1)
    scales = (largest / (2 ** (bits - 1) - 1)).clamp_min(1e-12)
    shape = -1, *[1] * (weight.dim() - 1)
    with torch.no_grad():
        values = quantizer(weight) if quantizer.is_enabled else weight
    codes = (values / scales.reshape(shape)).round()
    if quantizer.is_enabled:
        assert torch.allclose(codes * scales.reshape(shape), values, atol=1e-6), "the tool's steps are others"
    # of the norm behind it: a scale, which goes into the layer's own, and a shift
    bias = np.zeros(len(scales), dtype=np.float32)
    return Layer(codes.numpy().astype(np.int32), scales.float().numpy().copy(), bias, bits)
