"""Networks of every architecture family we could find, with random weights and small inputs.

``NETWORKS`` maps a name to two functions: one makes the network, one its ``(args, kwargs)``. Needs the extra
``coverage``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

import tests.coverage.operators  # noqa: F401  (first: it gives torchvision what it lacks)

# isort: split
import timm
import torchvision.models as vision

from tests.coverage import hugging_face
from tests.coverage.hugging_face import Inputs, Network


def image(size: int, batch: int = 2) -> Inputs:
    return (torch.randn(batch, 3, size, size),), {}


def noise(*shape: int) -> Inputs:
    return (torch.randn(*shape),), {}


def _classification() -> dict[str, Network]:
    names = """vgg11 resnet18 squeezenet1_1 densenet121 mobilenet_v2 mobilenet_v3_small shufflenet_v2_x0_5 mnasnet0_5
    resnext50_32x4d wide_resnet50_2 efficientnet_b0 efficientnet_v2_s regnet_y_400mf convnext_tiny"""
    found: dict[str, Network] = {
        name: (partial(getattr(vision, name), weights=None), partial(image, 64)) for name in names.split()
    }
    for name in ("vit_b_16", "swin_t", "swin_v2_t", "maxvit_t"):
        found[name] = (partial(getattr(vision, name), weights=None), partial(image, 224, 1))
    found["alexnet"] = (lambda: vision.alexnet(weights=None), lambda: image(96))
    found["googlenet"] = (lambda: vision.googlenet(weights=None, init_weights=False), lambda: image(64))
    found["inception_v3"] = (lambda: vision.inception_v3(weights=None, init_weights=False), lambda: image(128))
    return found


def _segmentation() -> dict[str, Network]:
    names = "fcn_resnet50 deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large".split()
    return {
        name: (
            partial(getattr(vision.segmentation, name), weights=None, weights_backbone=None),
            partial(image, 64),
        )
        for name in names
    }


def _detection() -> dict[str, Network]:
    """With random weights no box has a high score: they keep the few that are best."""
    small = {"min_size": 64, "max_size": 96}
    proposed = {**small, "box_score_thresh": 0.0, "box_detections_per_img": 5, "rpn_pre_nms_top_n_test": 50,
                "rpn_post_nms_top_n_test": 20}  # fmt: skip
    direct = {"score_thresh": 0.0, "detections_per_img": 5, "topk_candidates": 50}
    options: dict[str, dict[str, Any]] = {
        "fasterrcnn_mobilenet_v3_large_320_fpn": proposed, "fasterrcnn_resnet50_fpn_v2": proposed,
        "maskrcnn_resnet50_fpn": proposed, "keypointrcnn_resnet50_fpn": proposed,
        "retinanet_resnet50_fpn": {**small, **direct}, "fcos_resnet50_fpn": {**small, **direct},
        "ssdlite320_mobilenet_v3_large": direct, "ssd300_vgg16": direct,
    }  # fmt: skip
    return {
        name: (
            partial(getattr(vision.detection, name), weights=None, weights_backbone=None, **given),
            lambda: (([torch.rand(3, 96, 128), torch.rand(3, 80, 100)],), {}),
        )
        for name, given in options.items()
    }


def _video() -> dict[str, Network]:
    sizes = {"r3d_18": (16, 64), "mvit_v1_b": (16, 224), "s3d": (16, 224), "swin3d_t": (16, 64)}
    return {
        name: (
            partial(getattr(vision.video, name), weights=None),
            partial(noise, 1, 3, frames, size, size),
        )
        for name, (frames, size) in sizes.items()
    }


_TIMM = """resnet10t convnext_atto vit_tiny_patch16_224 deit_tiny_patch16_224 swin_tiny_patch4_window7_224 mixer_s32_224
efficientnet_b0 tf_efficientnet_b0 mobilevit_xxs mobilenetv4_conv_small ghostnet_050 levit_128s coat_lite_tiny
cait_xxs24_224 xcit_nano_12_p16_224 pvt_v2_b0 poolformer_s12 edgenext_xx_small beit_base_patch16_224
eva02_tiny_patch14_224 dm_nfnet_f0 dla34 hrnet_w18_small_v2 res2net50_14w_8s repvgg_a0 crossvit_tiny_240
twins_svt_small volo_d1_224 visformer_tiny gmlp_s16_224 regnety_002 tresnet_m halonet26t botnet26t_256 lambda_resnet26t
fastvit_t8 tinynet_e tiny_vit_5m_224 efficientformer_l1 maxxvit_rmlp_nano_rw_256 davit_tiny focalnet_tiny_srf
hiera_tiny_224 inception_next_tiny"""


def _timm_inputs(name: str) -> Inputs:
    configuration: Any = timm.get_pretrained_cfg(name)
    size = configuration.input_size[-1]
    fixed = configuration.fixed_input_size or name == "halonet26t"  # its blocks must divide the image
    return image(size if fixed else max(96, size // 2 // 32 * 32), 1)


def _timm() -> dict[str, Network]:
    return {
        name: (partial(timm.create_model, name, pretrained=False), partial(_timm_inputs, name))
        for name in _TIMM.split()
    }


def _torch() -> dict[str, Network]:
    return {
        "Transformer": (
            lambda: nn.Transformer(16, 2, 2, 2, 32, batch_first=True),
            lambda: ((torch.randn(2, 5, 16), torch.randn(2, 4, 16)), {}),
        ),
        "TransformerEncoder": (
            lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2),
            partial(noise, 2, 5, 16),
        ),
        "TransformerDecoder": (
            lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 32, batch_first=True), 2),
            lambda: ((torch.randn(2, 5, 16), torch.randn(2, 4, 16)), {}),
        ),
        "LSTM": (lambda: nn.LSTM(8, 12, 2, bidirectional=True), partial(noise, 5, 2, 8)),
        "GRU": (lambda: nn.GRU(8, 12, 2), partial(noise, 5, 2, 8)),
        "RNN": (lambda: nn.RNN(8, 12), partial(noise, 5, 2, 8)),
        "MultiheadAttention": (lambda: nn.MultiheadAttention(16, 2), lambda: ((torch.randn(5, 2, 16),) * 3, {})),
        "Bilinear": (lambda: nn.Bilinear(4, 5, 6), lambda: ((torch.randn(2, 4), torch.randn(2, 5)), {})),
    }


NETWORKS: dict[str, Network] = {
    f"{family}/{name}": network
    for family, networks in {
        "torchvision": _classification(),
        "torchvision segmentation": _segmentation(),
        "torchvision detection": _detection(),
        "torchvision video": _video(),
        "timm": _timm(),
        "transformers": hugging_face.NETWORKS,
        "torch.nn": _torch(),
    }.items()
    for name, network in networks.items()
}

SAMPLE = [
    "torchvision/resnet18", "torchvision/densenet121", "torchvision/googlenet", "torchvision/swin_t",
    "timm/vit_tiny_patch16_224", "timm/crossvit_tiny_240", "transformers/Bert", "transformers/GPT2", "transformers/T5",
    "transformers/T5 without cache", "transformers/Mixtral without cache", "transformers/ResNet",
    "torch.nn/Transformer", "torch.nn/LSTM",
]  # fmt: skip
"""One of every kind, for a quick look."""

SEQUENCE_FIRST = {f"torch.nn/{name}" for name in ("LSTM", "GRU", "RNN", "MultiheadAttention")}
"""Those whose batch is the second dimension."""
