"""nncodec, the reference software of ISO/IEC 15938-17, on a network's weights; and tuned by data, where it can be."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from time import process_time
from typing import Any

import numpy as np
import torch
from nncodec import nnc
from nncodec.nnc_core.nnr_model import ModelExecute
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from benchmarks.paper.datasets import Data
from benchmarks.planning.subjects import Subject, part, shuffled

from .judging import scores

FOLDED_EPSILON = 1e-5
"""What nncodec takes every batch norm's epsilon to be when it folds it; the variances are given to it to fit."""

TUNED = {"bnf": True, "row_skipping": True, "cabac_unary_length_minus1": 3}
"""Batch norms folded into a scale and a bias a channel, and the other switches that were found to save bytes.

Chosen on calibration samples, by bytes at equal noise in the scores. Scan orders in blocks, no dependent
quantization and no optimised contexts all took more; codebooks were not measured.
"""


@dataclass(frozen=True)
class Setting:
    """Options of ``nnc.compress``, and the quantization parameters to try: 4 of them halve the step.

    ``tuned``: what tuning by data chooses, from the first ``images`` of the calibration samples.
    """

    name: str
    parameters: tuple[float, ...]
    options: Mapping[str, Any]
    tuned: str | None = None
    images: int = 0


def ranged(first: float, last: float, step: float) -> tuple[float, ...]:
    return tuple(float(value) for value in np.arange(first, last + step / 2, step))


def settings(network: str) -> list[Setting]:
    """Around drops of 0.1 to 3 points, which were found at these parameters."""
    as_is = {"bnf": False, "row_skipping": True, "nonweight_qp": -75}  # what nncodec.nn.encode does when not told
    tuned = {**TUNED, "nonweight_qp": -40 if network == "mobilenet_v1" else -34}
    by_size = {**tuned, "opt_qp": True}
    by_rate = {**by_size, "lambda_scale": 0.5}
    if network == "resnet20":
        return [
            Setting("as it is", ranged(-28, -16, 2), as_is),
            Setting("tuned", ranged(-27, -16, 1), tuned),
            Setting("tuned, by size", ranged(-30, -19, 0.5), by_size),
            Setting("tuned, by size and rate", ranged(-30, -20, 1), by_rate),
            Setting("tuned, scales by data", ranged(-24, -14, 2), tuned, "scales", 1024),
            Setting("tuned, by size, scales by data", ranged(-27, -19, 1), by_size, "scales", 1024),
            Setting("tuned, steps by data", ranged(-24, -18, 2), tuned, "steps", 256),
        ]
    if network == "mnist":
        return [
            Setting("as it is", ranged(-32, -8, 1), as_is),
            Setting("tuned", ranged(-32, -8, 1), tuned),
            Setting("tuned, by size", ranged(-34, -8, 0.5), by_size),
            Setting("tuned, by size and rate", ranged(-34, -14, 1), by_rate),
            Setting("tuned, by size, scales by data", ranged(-26, -8, 2), by_size, "scales", 1024),
            Setting("tuned, steps by data", ranged(-24, -12, 2), tuned, "steps", 1024),
        ]
    return [
        Setting("as it is", ranged(-42, -33, 3), as_is),
        Setting("tuned", ranged(-42, -33, 3), tuned),
        Setting("tuned, by size", ranged(-53, -38, 1.5), by_size),
    ]


@dataclass(frozen=True)
class Coded:
    """A bitstream, the network that it decodes to, and the seconds of processor time that making it took."""

    setting: Setting
    parameter: float
    bitstream: bytes
    model: nn.Module
    seconds: float
    decode_seconds: float


def code(subject: Subject, setting: Setting) -> Iterator[Coded]:
    for parameter in setting.parameters:
        start = process_time()
        density = 2 if parameter.is_integer() else 3  # the step is a power of 2 ** (1 / 4), or of 2 ** (1 / 8)
        options = dict(setting.options)
        options["nonweight_qp"] <<= density - 2
        parameters, structure = named_arrays(subject.model)
        quantizer = int(parameter * 2 ** (density - 2))
        if setting.tuned:
            options["model_executer"] = ByData(subject, part(subject.calibration_data, slice(0, setting.images)))
        if setting.tuned == "steps":
            options["ioq"] = True
        elif setting.tuned == "scales":
            options.update(lsa=True, fine_tune=True)
            for index, layer, _ in layers(subject.model):
                name = f"{index}_scaling"
                parameters[name] = np.ones(layer.weight.shape[0], np.float32)
                structure["parameter_type"][name], structure["block_identifier"][name] = "weight.ls", str(index)
        bitstream = nnc.compress(
            parameters,
            bitstream_path=None,
            return_bitstream=True,
            qp=quantizer,
            qp_density=density,
            block_id_and_param_type=structure,
            **options,
        )
        spent = process_time() - start
        start = process_time()
        arrays = nnc.decompress(bytearray(bitstream), reconstruct_lsa=True, reconstruct_bnf=True)
        model = with_arrays(subject.model, arrays)
        yield Coded(setting, parameter, bytes(bitstream), model, spent, process_time() - start)


def layers(model: nn.Module) -> list[tuple[int, nn.Conv2d | nn.Linear, nn.BatchNorm2d | None]]:
    """The weighted layers in order, each with the batch norm that follows it."""
    found: list[tuple[int, nn.Conv2d | nn.Linear, nn.BatchNorm2d | None]] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            found.append((len(found), module, None))
        elif isinstance(module, nn.BatchNorm2d):
            found[-1] = (*found[-1][:2], module)
    return found


def named_arrays(model: nn.Module) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """What ``nnc.compress`` takes, under names as short as can be: they stand in the bitstream."""
    arrays, types, blocks = {}, {}, {}

    def add(name: str, kind: str, block: int, tensor: Tensor) -> None:
        arrays[name], types[name], blocks[name] = tensor.detach().float().numpy().copy(), kind, str(block)

    for index, layer, norm in layers(model):
        add(f"{index}", "weight", index, layer.weight)
        if layer.bias is not None:
            add(f"{index}b", "bias", index, layer.bias)
        if norm is not None:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            add(f"{index}g", "bn.gamma", index, norm.weight)
            add(f"{index}h", "bn.beta", index, norm.bias)
            add(f"{index}m", "bn.mean", index, norm.running_mean)
            add(f"{index}v", "bn.var", index, norm.running_var + (norm.eps - FOLDED_EPSILON))
    return arrays, {"parameter_type": types, "block_identifier": blocks}


def with_arrays(model: nn.Module, arrays: Mapping[str, Any]) -> nn.Module:
    """A copy of ``model`` with the decoded parameters."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for index, layer, norm in layers(model):
            layer.weight.copy_(torch.as_tensor(arrays[f"{index}"]))
            if f"{index}_scaling" in arrays:
                scale = torch.as_tensor(arrays[f"{index}_scaling"])
                layer.weight.mul_(scale.reshape(-1, *[1] * (layer.weight.ndim - 1)))
            if layer.bias is not None:
                layer.bias.copy_(torch.as_tensor(arrays[f"{index}b"]))
            if norm is None:
                continue
            assert norm.running_mean is not None
            assert norm.running_var is not None
            if f"{index}.bias" in arrays:  # folded
                norm.weight.fill_(1)
                norm.running_mean.zero_()
                norm.running_var.fill_(1 - norm.eps)
                norm.bias.copy_(torch.as_tensor(arrays[f"{index}.bias"]))
            else:
                norm.weight.copy_(torch.as_tensor(arrays[f"{index}g"]))
                norm.bias.copy_(torch.as_tensor(arrays[f"{index}h"]))
                norm.running_mean.copy_(torch.as_tensor(arrays[f"{index}m"]))
                norm.running_var.copy_(torch.as_tensor(arrays[f"{index}v"]) - (norm.eps - FOLDED_EPSILON))
    return model


@dataclass
class ByData(ModelExecute):  # type: ignore[misc]
    """What nncodec asks of its user for tuning by data: here by calibration samples and the float network's scores.

    ``eval_model`` serves to choose each layer's step, ``tune_model`` trains scales, biases and norms after quantizing.
    """

    subject: Subject
    data: Data
    epochs: int = 6
    rate: float = 1e-3
    target: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.target = scores(self.subject.model, self.data[0]).softmax(1)

    def eval_model(self, parameters: Mapping[str, Any], verbose: bool = False) -> dict[str, float]:
        """The first value counts as the accuracy: less the cross-entropy, which is smoother than answers counted."""
        got = scores(with_arrays(self.subject.model, parameters), self.data[0])
        return {"score": -float(nn.functional.cross_entropy(got, self.target))}

    def tune_model(
        self, parameters: Mapping[str, Any], param_types: Mapping[str, str], **_: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        model = with_arrays(self.subject.model, parameters).requires_grad_(False)
        trained: list[nn.Parameter] = []
        scales: dict[str, nn.Parameter] = {}
        for index, layer, norm in layers(model):
            if norm is None:
                scale = nn.Parameter(torch.ones(layer.weight.shape[0]))
                register_parametrization(layer, "weight", _Scaled(scale), unsafe=True)
                scales[f"{index}_scaling"] = scale
                trained.append(scale)
            for tensor in (layer.bias, *(() if norm is None else (norm.weight, norm.bias))):
                if tensor is not None:
                    trained.append(tensor.requires_grad_(True))
        optimizer = torch.optim.Adam(trained, self.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        for epoch in range(self.epochs):
            images, target = shuffled((self.data[0], self.target), epoch)
            for batch, wanted in zip(images.split(64), target.split(64), strict=True):
                loss = nn.functional.cross_entropy(model(batch), wanted)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
        found = {}
        for index, layer, norm in layers(model):
            if layer.bias is not None:
                found[f"{index}b"] = layer.bias.detach().numpy().copy()
            if norm is not None:  # its weight does what a scale would
                found[f"{index}g"], found[f"{index}h"] = (
                    tensor.detach().numpy().copy() for tensor in (norm.weight, norm.bias)
                )
        ones = {name: np.asarray(array) for name, array in parameters.items() if name.endswith("_scaling")}
        return {**ones, **{name: scale.detach().numpy().copy() for name, scale in scales.items()}}, found

    def has_eval(self) -> bool:
        return True

    def has_test(self) -> bool:
        return False

    def has_tune_ft(self) -> bool:
        return True

    def has_tune_lsa(self) -> bool:
        return True


class _Scaled(nn.Module):
    def __init__(self, scale: nn.Parameter) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.scale.reshape(-1, *[1] * (weight.ndim - 1))
