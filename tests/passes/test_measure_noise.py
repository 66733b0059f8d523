"""Measured noise is what quantizing one thing alone does to the scores."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from qpart_fx.calibration import Batch
from qpart_fx.noise import MEASURED
from qpart_fx.passes.capture import capture
from qpart_fx.passes.measure_noise import measure_noise
from qpart_fx.quantizer import UniformQuantizer
from qpart_fx.scores import ClassScores
from tests.networks import classifier, images


def test_layers_and_cuts_against_quantizing_by_hand() -> None:
    model, x = classifier(), images(10)
    layer = model[3]
    assert isinstance(layer, nn.Conv2d)
    batches = [Batch((part,), {}, None, len(part)) for part in x.split(4)]
    graph = capture(model)
    state = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    layers, cuts = measure_noise(
        graph,
        batches,
        ClassScores(),
        layers={"_3": ("3.weight",)},
        crossings=[{}, {"_2": (0.0, 2.0)}],
        progress=lambda items: items,
    )
    assert all(torch.equal(state[name], tensor) for name, tensor in graph.state_dict().items())
    assert layers.samples == 10
    assert not cuts.noise[0].any()  # nothing that is quantized crosses the first cut

    def squared(scores: Tensor) -> float:
        return float((scores - model(x)).square().sum(1).mean())

    with torch.no_grad():
        weight = layer.weight.clone()
        for column, bits in enumerate(MEASURED):
            layer.weight.copy_(UniformQuantizer.of_tensor(weight, bits)(weight))
            quantized = model(x)
            layer.weight.copy_(weight)
            crossing = model[3:](UniformQuantizer.from_range(0.0, 2.0, bits)(model[:3](x)))
            np.testing.assert_allclose(layers.noise[0, column], squared(quantized), rtol=1e-4)
            np.testing.assert_allclose(cuts.noise[1, column], squared(crossing), rtol=1e-4)
            changed = (quantized.argmax(1) != model(x).argmax(1)).double().mean()
            assert layers.drop[0, column] == float(changed)
