"""Networks of every architecture family we could find, with random weights and small inputs.

``NETWORKS`` maps a name to two functions: one makes the network, one its ``(args, kwargs)``. Needs the extra
``coverage``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

# A wheel of torchvision for another build of torch imports once its operators are declared; they stay unavailable.
_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
import torchvision.models as vision  # noqa: E402
import transformers as hf  # noqa: E402

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
Network = tuple[Callable[[], nn.Module], Callable[[], Inputs]]


def image(size: int, batch: int = 2) -> Inputs:
    return (torch.randn(batch, 3, size, size),), {}


def noise(*shape: int) -> Inputs:
    return (torch.randn(*shape),), {}


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 50, shape)


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


def _hugging_face() -> dict[str, Network]:
    text = {
        "vocab_size": 100,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    }
    gpt = {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 2}
    picture = {**text, "image_size": 32, "patch_size": 8}
    pairs = {
        **{f"{side}_{what}": number for side in ("encoder", "decoder") for what, number in
           (("layers", 2), ("attention_heads", 2), ("ffn_dim", 48))},
        "vocab_size": 100, "d_model": 32,
    }  # fmt: skip
    special = {"pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    stages = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    waves = {"conv_dim": (8, 8), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2,
             "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}  # fmt: skip
    named: list[tuple[str, str, dict[str, Any]]] = [
        ("Bert", "ForSequenceClassification", text), ("Roberta", "Model", text),
        ("DistilBert", "Model", {"vocab_size": 100, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}),
        ("Albert", "Model", {**text, "embedding_size": 16}), ("Electra", "Model", {**text, "embedding_size": 16}),
        ("GPT2", "LMHeadModel", gpt), ("Llama", "ForCausalLM", text),
        ("GPTNeo", "ForCausalLM", {"vocab_size": 100, "hidden_size": 32, "num_layers": 2, "num_heads": 2,
                                   "attention_types": [[["global", "local"], 1]]}),
        ("OPT", "ForCausalLM", {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 48,
                                "num_attention_heads": 2, "word_embed_proj_dim": 32}),
        ("Mistral", "ForCausalLM", {**text, "num_key_value_heads": 1}),
        ("Qwen2", "ForCausalLM", {**text, "num_key_value_heads": 1}),
        ("Gemma", "ForCausalLM", {**text, "num_key_value_heads": 1, "head_dim": 16}),
        ("Bloom", "ForCausalLM", {"vocab_size": 100, "hidden_size": 32, "n_layer": 2, "n_head": 2}),
        ("T5", "ForConditionalGeneration", {"vocab_size": 100, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2,
                                            "num_heads": 2}),
        ("Bart", "ForConditionalGeneration", pairs), ("DebertaV2", "Model", text),
        ("Mamba", "ForCausalLM", {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
        ("XLNet", "Model", {"vocab_size": 100, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48}),
        ("Funnel", "BaseModel", {"vocab_size": 100, "block_sizes": [1, 1], "d_model": 32, "n_head": 2, "d_head": 16,
                                 "d_inner": 48}),
        ("Longformer", "Model", {**text, "attention_window": 4}), ("MPNet", "Model", text),
        ("SqueezeBert", "Model", {**text, "embedding_size": 32}),
        ("ViT", "ForImageClassification", picture), ("DeiT", "Model", picture), ("Beit", "Model", picture),
        ("CLIPVision", "Model", picture), ("Dinov2", "Model", picture),
        ("Segformer", "ForSemanticSegmentation", {**stages, "decoder_hidden_size": 16}),
        ("ConvNextV2", "Model", stages),
        ("ResNet", "Model", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}),
        ("Swin", "Model", {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2],
                           "window_size": 4}),
        ("Wav2Vec2", "Model", {**text, **waves}),
        ("Whisper", "Model", {**pairs, **special, "num_mel_bins": 8, "max_source_positions": 20,
                              "suppress_tokens": None, "begin_suppress_tokens": None}),
    ]  # fmt: skip

    def make(kind: str, suffix: str, options: dict[str, Any]) -> nn.Module:
        model: nn.Module = getattr(hf, kind + suffix)(getattr(hf, f"{kind}Config")(**options))
        return model

    return {
        kind: (
            partial(make, kind, suffix, options),
            partial(_hugging_face_inputs, kind),
        )
        for kind, suffix, options in named
    }


def _hugging_face_inputs(kind: str) -> Inputs:
    if kind in ("ViT", "DeiT", "Beit", "CLIPVision", "Dinov2", "ConvNextV2", "ResNet", "Swin"):
        return (), {"pixel_values": torch.randn(2, 3, 32, 32)}
    if kind == "Segformer":
        return (), {"pixel_values": torch.randn(2, 3, 64, 64)}
    if kind == "Wav2Vec2":
        return (), {"input_values": torch.randn(2, 400)}
    if kind == "Whisper":
        return (), {"input_features": torch.randn(2, 8, 40), "decoder_input_ids": tokens(2, 5)}
    if kind in ("T5", "Bart"):
        return (), {"input_ids": tokens(2, 7), "decoder_input_ids": tokens(2, 5)}
    return (), {"input_ids": tokens(2, 7)}


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
        "torchvision video": _video(),
        "timm": _timm(),
        "transformers": _hugging_face(),
        "torch.nn": _torch(),
    }.items()
    for name, network in networks.items()
}

SAMPLE = [
    "torchvision/resnet18", "torchvision/densenet121", "torchvision/googlenet", "torchvision/swin_t",
    "timm/vit_tiny_patch16_224", "timm/crossvit_tiny_240", "transformers/Bert", "transformers/GPT2", "transformers/T5",
    "transformers/ResNet", "torch.nn/Transformer", "torch.nn/LSTM",
]  # fmt: skip
"""One of every kind, for a quick look."""
