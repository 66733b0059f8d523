"""Tiny networks of every architecture of transformers that we could make run by itself, with random weights.

Those that keep a cache stand there twice: returning it, and ``without cache``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

import tests.coverage.operators  # noqa: F401  (first: it gives torchvision what it lacks)

# isort: split
import transformers

hf: Any = transformers

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
Network = tuple[Callable[[], nn.Module], Callable[[], Inputs]]
Options = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]

_TEXT: Options = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
}  # fmt: skip
_SHARED = {**_TEXT, "num_key_value_heads": 1}
_EXPERTS = {**_SHARED, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_GPT = {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 2}
_SPECIAL = {"pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
_SIDES: Options = {
    "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_layers": 2,
    "decoder_attention_heads": 2, "decoder_ffn_dim": 48, "d_model": 32,
}  # fmt: skip
_PAIR = {**_SIDES, "vocab_size": 100}
_T5 = {"vocab_size": 100, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}
_PICTURE = {**_TEXT, "image_size": 32, "patch_size": 8}
_STAGES: Options = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
_RESNET: Options = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
_WINDOWS: Options = {
    "image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4,
}  # fmt: skip
_WAVES: Options = {
    **_TEXT, "conv_dim": (8, 8), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip

_TEXTS: list[tuple[str, str, Options]] = [
    ("Bert", "ForSequenceClassification", _TEXT), ("Roberta", "Model", _TEXT),
    ("DistilBert", "Model", {"vocab_size": 100, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}),
    ("Albert", "Model", {**_TEXT, "embedding_size": 16}), ("Electra", "Model", {**_TEXT, "embedding_size": 16}),
    ("Deberta", "Model", _TEXT), ("DebertaV2", "Model", _TEXT),
    ("XLNet", "Model", {"vocab_size": 100, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48}),
    ("Funnel", "BaseModel", {"vocab_size": 100, "block_sizes": [1, 1], "d_model": 32, "n_head": 2, "d_head": 16,
                             "d_inner": 48}),
    ("Longformer", "Model", {**_TEXT, "attention_window": 4}), ("MPNet", "Model", _TEXT),
    ("SqueezeBert", "Model", {**_TEXT, "embedding_size": 32}),
    ("BigBird", "Model", _TEXT), ("ConvBert", "Model", {**_TEXT, "embedding_size": 32}), ("FNet", "Model", _TEXT),
    ("XLM", "Model", {"vocab_size": 100, "emb_dim": 32, "n_layers": 2, "n_heads": 2}),
    ("IBert", "Model", _TEXT), ("MobileBert", "Model", {**_TEXT, "embedding_size": 16, "intra_bottleneck_size": 16}),
    ("RoFormer", "Model", {**_TEXT, "embedding_size": 32}), ("ModernBert", "Model", {**_TEXT, **_SPECIAL}),
    ("Esm", "Model", {**_TEXT, **_SPECIAL}), ("MegatronBert", "Model", _TEXT), ("Canine", "Model", _TEXT),
    ("Reformer", "Model", {"vocab_size": 100, "hidden_size": 32, "num_attention_heads": 2, "attention_head_size": 16,
                           "attn_layers": ["local", "lsh"], "feed_forward_size": 48, "axial_pos_embds": False,
                           "local_attn_chunk_length": 4, "lsh_attn_chunk_length": 4, "num_buckets": 4,
                           "hash_seed": 0}),
    ("RecurrentGemma", "ForCausalLM", {**_SHARED, "lru_width": 32, "attention_window_size": 8, "num_hidden_layers": 3,
                                       "head_dim": 16, "use_cache": False}),  # it keeps its cache in itself
]  # fmt: skip

_DECODERS: list[tuple[str, str, Options]] = [
    ("GPT2", "LMHeadModel", _GPT), ("Llama", "ForCausalLM", _TEXT),
    ("GPTNeo", "ForCausalLM", {"vocab_size": 100, "hidden_size": 32, "num_layers": 2, "num_heads": 2,
                               "attention_types": [[["global", "local"], 1]]}),
    ("OPT", "ForCausalLM", {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 48,
                            "num_attention_heads": 2, "word_embed_proj_dim": 32}),
    ("Mistral", "ForCausalLM", _SHARED), ("Qwen2", "ForCausalLM", _SHARED),
    ("Gemma", "ForCausalLM", {**_SHARED, "head_dim": 16}),
    ("Bloom", "ForCausalLM", {"vocab_size": 100, "hidden_size": 32, "n_layer": 2, "n_head": 2}),
    ("Mamba", "ForCausalLM", {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    ("Phi", "ForCausalLM", _TEXT), ("Phi3", "ForCausalLM", {**_TEXT, **_SPECIAL}), ("GPTNeoX", "ForCausalLM", _TEXT),
    ("GPTJ", "ForCausalLM", {**_GPT, "rotary_dim": 8}), ("Falcon", "ForCausalLM", _TEXT),
    ("Qwen3", "ForCausalLM", {**_SHARED, "head_dim": 16}), ("Gemma2", "ForCausalLM", {**_SHARED, "head_dim": 16}),
    ("Gemma3Text", "ForCausalLM", {**_SHARED, "head_dim": 16}), ("Cohere", "ForCausalLM", _SHARED),
    ("Cohere2", "ForCausalLM", _SHARED), ("Olmo2", "ForCausalLM", _SHARED), ("StableLm", "ForCausalLM", _SHARED),
    ("Starcoder2", "ForCausalLM", _SHARED), ("Granite", "ForCausalLM", _SHARED),
    ("Persimmon", "ForCausalLM", _TEXT), ("CodeGen", "ForCausalLM", {**_GPT, "n_head": 4, "rotary_dim": 8}),
    ("BioGpt", "ForCausalLM", _TEXT), ("CTRL", "LMHeadModel", {**_GPT, "dff": 48}),
    ("XGLM", "ForCausalLM", {"vocab_size": 100, "d_model": 32, "num_layers": 2, "attention_heads": 2, "ffn_dim": 48}),
    ("GPTBigCode", "ForCausalLM", _GPT),
    ("Mpt", "ForCausalLM", {"vocab_size": 100, "d_model": 32, "n_layers": 2, "n_heads": 2}),
    ("Nemotron", "ForCausalLM", _SHARED), ("Glm", "ForCausalLM", {**_SHARED, **_SPECIAL, "head_dim": 16}),
    ("SmolLM3", "ForCausalLM", {**_SHARED, **_SPECIAL}), ("Helium", "ForCausalLM", {**_SHARED, "head_dim": 16}),
    ("Mixtral", "ForCausalLM", {**_EXPERTS, "num_local_experts": 4}),
    ("Qwen3Moe", "ForCausalLM", {**_EXPERTS, "num_experts": 4, "head_dim": 16}),
    ("Olmoe", "ForCausalLM", {**_EXPERTS, "num_experts": 4}),
    ("GraniteMoe", "ForCausalLM", {**_EXPERTS, "num_local_experts": 4}),
    ("DeepseekV3", "ForCausalLM", {**_EXPERTS, "num_key_value_heads": 2, "n_routed_experts": 4, "n_group": 2,
                                   "topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 8, "q_lora_rank": 8,
                                   "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}),
    ("Mamba2", "ForCausalLM", {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4,
                               "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 4}),
    ("FalconMamba", "ForCausalLM", {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    ("Rwkv", "ForCausalLM", {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2}),
    ("Jamba", "ForCausalLM", {**_SHARED, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
                              "expert_layer_offset": 1, "num_experts": 4, "use_mamba_kernels": False,
                              "mamba_d_state": 4, "mamba_dt_rank": 4}),
]  # fmt: skip

_PAIRS: list[tuple[str, str, Options]] = [
    ("T5", "ForConditionalGeneration", _T5), ("Bart", "ForConditionalGeneration", _PAIR),
    ("MT5", "ForConditionalGeneration", _T5), ("UMT5", "ForConditionalGeneration", _T5),
    ("LongT5", "ForConditionalGeneration", {**_T5, "local_radius": 3}),
    ("SwitchTransformers", "ForConditionalGeneration", {**_T5, "num_experts": 4, "num_sparse_encoder_layers": 1,
                                                        "num_sparse_decoder_layers": 1, "expert_capacity": 8}),
    ("LED", "ForConditionalGeneration", {**_PAIR, "attention_window": 4}),
    ("Pegasus", "ForConditionalGeneration", _PAIR), ("MBart", "ForConditionalGeneration", _PAIR),
    ("Blenderbot", "ForConditionalGeneration", _PAIR), ("BlenderbotSmall", "ForConditionalGeneration", _PAIR),
    ("Marian", "MTModel", {**_PAIR, **_SPECIAL}), ("M2M100", "ForConditionalGeneration", _PAIR),
    ("BigBirdPegasus", "ForConditionalGeneration", {**_PAIR, "attention_type": "original_full"}),
    ("FSMT", "ForConditionalGeneration", {**_PAIR, **_SPECIAL, "src_vocab_size": 100, "tgt_vocab_size": 100,
                                          "langs": ["en", "de"]}),
    ("ProphetNet", "ForConditionalGeneration", {"vocab_size": 100, "hidden_size": 32, "encoder_ffn_dim": 48,
                                                "decoder_ffn_dim": 48, "num_encoder_layers": 2,
                                                "num_decoder_layers": 2, "num_encoder_attention_heads": 2,
                                                "num_decoder_attention_heads": 2}),
]  # fmt: skip

_PICTURES: list[tuple[str, str, Options, int]] = [
    ("ViT", "ForImageClassification", _PICTURE, 32), ("DeiT", "Model", _PICTURE, 32), ("Beit", "Model", _PICTURE, 32),
    ("CLIPVision", "Model", _PICTURE, 32), ("Dinov2", "Model", _PICTURE, 32),
    ("Segformer", "ForSemanticSegmentation", {**_STAGES, "decoder_hidden_size": 16}, 64),
    ("ConvNextV2", "Model", _STAGES, 32), ("ResNet", "Model", _RESNET, 32), ("Swin", "Model", _WINDOWS, 32),
    ("Swinv2", "Model", _WINDOWS, 32), ("ViTMSN", "Model", _PICTURE, 32),
    ("Dinov2WithRegisters", "Model", _PICTURE, 32),
    ("Yolos", "ForObjectDetection", {**_PICTURE, "image_size": [32, 32], "num_detection_tokens": 5}, 32),
    ("MobileViT", "Model", {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32],
                            "num_attention_heads": 2, "image_size": 64}, 64),
    ("MobileViTV2", "Model", {"image_size": 64, "width_multiplier": 0.25}, 64),
    ("EfficientNet", "Model", {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.25,
                               "hidden_dim": 320}, 64),
    ("RegNet", "Model", {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 24], "depths": [1, 1, 1, 1],
                         "groups_width": 4}, 64),
    ("PoolFormer", "Model", _STAGES, 64),
    ("Cvt", "Model", {"embed_dim": [8, 16, 32], "num_heads": [1, 2, 2], "depth": [1, 2, 3]}, 64),
    ("Levit", "Model", {"image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 2, 2],
                        "key_dim": [8, 8, 8], "depths": [1, 1, 1]}, 64),
    ("MobileNetV1", "Model", {"depth_multiplier": 0.25}, 64),
    ("MobileNetV2", "Model", {"depth_multiplier": 0.25}, 64),
    ("Bit", "Model", {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "num_groups": 4}, 32),
    ("FocalNet", "Model", {"image_size": 32, "patch_size": 2, "embed_dim": 8, "hidden_sizes": [8, 16],
                           "depths": [1, 1], "focal_levels": [1, 1], "focal_windows": [3, 3]}, 32),
    ("SwiftFormer", "Model", {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}, 64),
    ("PvtV2", "Model", {"image_size": 64, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1],
                        "num_attention_heads": [1, 2, 2, 4]}, 64),
    ("GLPN", "ForDepthEstimation", {**_STAGES, "decoder_hidden_size": 8, "num_attention_heads": [1, 2, 2, 4]}, 64),
    ("Hiera", "Model", {"image_size": [32, 32], "patch_stride": [4, 4], "embed_dim": 8, "depths": [1, 1],
                        "num_heads": [1, 2], "masked_unit_size": [4, 4], "query_stride": [2, 2],
                        "num_query_pool": 1}, 32),
    ("DPT", "ForDepthEstimation", {**_PICTURE, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3],
                                   "neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 8}, 32),
    ("Swin2SR", "Model", {"image_size": 16, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2],
                          "window_size": 4}, 16),
]  # fmt: skip

_SOUNDS: list[tuple[str, str, Options]] = [
    ("Wav2Vec2", "Model", _WAVES), ("Hubert", "Model", _WAVES), ("WavLM", "Model", _WAVES),
    ("UniSpeech", "Model", _WAVES), ("Wav2Vec2Conformer", "Model", _WAVES),
    ("Data2VecAudio", "Model", {**_WAVES, "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 3}),
    ("SEW", "Model", {**_WAVES, "squeeze_factor": 2}), ("SEWD", "Model", {**_WAVES, "squeeze_factor": 2}),
]  # fmt: skip


_OTHERS: list[tuple[str, str, Options, Shapes]] = [
    ("CLIP", "Model", {"text_config": {**_TEXT, **_SPECIAL}, "vision_config": _PICTURE, "projection_dim": 16},
     {"input_ids": (2, 7), "pixel_values": (2, 3, 32, 32)}),
    ("Siglip", "Model", {"text_config": {**_TEXT, **_SPECIAL}, "vision_config": _PICTURE},
     {"input_ids": (2, 7), "pixel_values": (2, 3, 32, 32)}),
    ("Blip", "ForConditionalGeneration", {"text_config": {**_TEXT, **_SPECIAL, "encoder_hidden_size": 32},
                                          "vision_config": _PICTURE, "projection_dim": 16},
     {"input_ids": (2, 7), "pixel_values": (2, 3, 32, 32)}),
    ("GroupViT", "Model", {"text_config": {**_TEXT, **_SPECIAL},
                           "vision_config": {**_PICTURE, "depths": [1, 1, 1], "num_group_tokens": [8, 4, 0],
                                             "num_output_groups": [8, 4, 0]},
                           "projection_dim": 16, "projection_intermediate_dim": 16},
     {"input_ids": (2, 7), "pixel_values": (2, 3, 32, 32)}),
    ("OwlViT", "Model", {"text_config": {**_TEXT, **_SPECIAL}, "vision_config": _PICTURE, "projection_dim": 16},
     {"input_ids": (2, 7), "pixel_values": (2, 3, 32, 32)}),
    ("XCLIP", "Model", {"text_config": {**_TEXT, **_SPECIAL},
                        "vision_config": {**_PICTURE, "mit_hidden_size": 32, "mit_intermediate_size": 48,
                                          "mit_num_attention_heads": 2, "num_frames": 2},
                        "projection_dim": 32},
     {"input_ids": (2, 7), "pixel_values": (2, 2, 3, 32, 32)}),
    ("Lxmert", "Model", {**_TEXT, "l_layers": 1, "x_layers": 1, "r_layers": 1, "visual_feat_dim": 16},
     {"input_ids": (2, 7), "visual_feats": (2, 4, 16), "visual_pos": (2, 4, 4)}),
    ("VisualBert", "Model", {**_TEXT, "visual_embedding_dim": 16},
     {"input_ids": (2, 7), "visual_embeds": (2, 4, 16)}),
    ("LayoutLMv3", "Model", {**_TEXT, "input_size": 32, "patch_size": 8, "coordinate_size": 6, "shape_size": 4},
     {"input_ids": (2, 7), "pixel_values": (2, 3, 32, 32)}),
    ("Sam", "Model", {"vision_config": {"hidden_size": 16, "output_channels": 16, "num_hidden_layers": 2,
                                        "num_attention_heads": 2, "image_size": 32, "patch_size": 8, "mlp_dim": 24,
                                        "window_size": 2, "global_attn_indexes": [1], "num_pos_feats": 8},
                      "prompt_encoder_config": {"hidden_size": 16, "image_size": 32, "patch_size": 8,
                                                "mask_input_channels": 4},
                      "mask_decoder_config": {"hidden_size": 16, "mlp_dim": 24, "num_hidden_layers": 1,
                                              "num_attention_heads": 2, "iou_head_hidden_dim": 16}},
     {"pixel_values": (2, 3, 32, 32), "input_points": (2, 1, 1, 2)}),
    ("AST", "Model", {**_PICTURE, "patch_size": 4, "max_length": 24, "num_mel_bins": 8, "frequency_stride": 4,
                      "time_stride": 4}, {"input_values": (2, 24, 8)}),
    ("Timesformer", "Model", {**_PICTURE, "num_frames": 2}, {"pixel_values": (2, 2, 3, 32, 32)}),
    ("VideoMAE", "Model", {**_PICTURE, "num_frames": 4}, {"pixel_values": (2, 4, 3, 32, 32)}),
    ("Vivit", "Model", {**_PICTURE, "num_frames": 4, "tubelet_size": [2, 8, 8]}, {"pixel_values": (2, 4, 3, 32, 32)}),
    ("PatchTST", "Model", {"num_input_channels": 2, "context_length": 16, "patch_length": 4, "patch_stride": 4,
                           "d_model": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 24},
     {"past_values": (2, 16, 2)}),
    ("Encodec", "Model", {"num_filters": 4, "hidden_size": 16, "codebook_size": 16, "codebook_dim": 16,
                          "upsampling_ratios": [4, 2], "num_lstm_layers": 1}, {"input_values": (2, 1, 320)}),
    ("Wav2Vec2Bert", "Model", {**_TEXT, "feature_projection_input_dim": 8}, {"input_features": (2, 12, 8)}),
    ("DecisionTransformer", "Model", {**_GPT, "state_dim": 4, "act_dim": 2, "hidden_size": 32, "max_ep_len": 60},
     {"states": (2, 5, 4), "actions": (2, 5, 2), "rewards": (2, 5, 1), "returns_to_go": (2, 5, 1),
      "timesteps": (2, 5)}),
    ("Nystromformer", "Model", {**_TEXT, "num_landmarks": 4, "segment_means_seq_len": 8}, {"input_ids": (2, 8)}),
    ("Perceiver", "Model", {"num_latents": 8, "d_latents": 16, "d_model": 12, "num_blocks": 1,
                            "num_self_attends_per_block": 2, "num_self_attention_heads": 2,
                            "num_cross_attention_heads": 2}, {"inputs": (2, 9, 12)}),
    ("Detr", "ForObjectDetection", {}, {"pixel_values": (2, 3, 64, 64)}),
    ("ConditionalDetr", "ForObjectDetection", {}, {"pixel_values": (2, 3, 64, 64)}),
    ("TableTransformer", "ForObjectDetection", {}, {"pixel_values": (2, 3, 64, 64)}),
    ("DeformableDetr", "ForObjectDetection", {"num_feature_levels": 2}, {"pixel_values": (2, 3, 64, 64)}),
    ("Mask2Former", "ForUniversalSegmentation",
     {"backbone_config": hf.SwinConfig(**{**_WINDOWS, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]},
                                       out_features=["stage1", "stage2", "stage3", "stage4"]),
      "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 24,
      "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "dim_feedforward": 24, "num_queries": 4},
     {"pixel_values": (2, 3, 64, 64)}),
    ("MaskFormer", "ForInstanceSegmentation",
     {"backbone_config": hf.SwinConfig(**{**_WINDOWS, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]},
                                       out_features=["stage1", "stage2", "stage3", "stage4"]),
      "decoder_config": hf.DetrConfig(**_SIDES, num_queries=4),
      "fpn_feature_size": 32, "mask_feature_size": 32}, {"pixel_values": (2, 3, 64, 64)}),
    ("UperNet", "ForSemanticSegmentation",
     {"backbone_config": hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 16, 24], depths=[1, 1, 1, 1],
                                         out_features=["stage1", "stage2", "stage3", "stage4"]),
      "hidden_size": 16, "auxiliary_in_channels": 16, "auxiliary_channels": 8}, {"pixel_values": (2, 3, 64, 64)}),
]  # fmt: skip

_OTHER_CACHES: list[tuple[str, str, Options, Shapes]] = [
    ("Whisper", "Model", {**_PAIR, **_SPECIAL, "num_mel_bins": 8, "max_source_positions": 20,
                          "suppress_tokens": None, "begin_suppress_tokens": None},
     {"input_features": (2, 8, 40), "decoder_input_ids": (2, 5)}),
    ("Speech2Text", "ForConditionalGeneration", {**_PAIR, **_SPECIAL, "input_feat_per_channel": 8, "conv_channels": 16,
                                                 "max_source_positions": 20},
     {"input_features": (2, 20, 8), "decoder_input_ids": (2, 5)}),
    ("Moonshine", "ForConditionalGeneration", {**_TEXT, **_SPECIAL, "encoder_num_hidden_layers": 2,
                                               "decoder_num_hidden_layers": 2, "encoder_num_attention_heads": 2,
                                               "decoder_num_attention_heads": 2},
     {"input_values": (2, 2000), "decoder_input_ids": (2, 5)}),
    ("Git", "ForCausalLM", {**_TEXT, **_SPECIAL, "vision_config": _PICTURE},
     {"input_ids": (2, 7), "pixel_values": (2, 3, 32, 32)}),
    ("TrOCR", "ForCausalLM", {**_PAIR, **_SPECIAL},
     {"input_ids": (2, 7), "encoder_hidden_states": (2, 4, 32)}),
    ("VisionEncoderDecoder", "Model", {"encoder": {"model_type": "vit", **_PICTURE},
                                       "decoder": {"model_type": "gpt2", **_GPT, "add_cross_attention": True}},
     {"pixel_values": (2, 3, 32, 32), "decoder_input_ids": (2, 5)}),
    ("EncoderDecoder", "Model", {"encoder": {"model_type": "bert", **_TEXT},
                                 "decoder": {"model_type": "bert", **_TEXT, "is_decoder": True,
                                             "add_cross_attention": True}},
     {"input_ids": (2, 7), "decoder_input_ids": (2, 5)}),
]  # fmt: skip

_INTEGERS = ("input_ids", "decoder_input_ids", "timesteps")


def _inputs(shapes: Shapes, further: Options) -> Inputs:
    """Values of these shapes; the first three tokens are special ones and do not occur."""
    values: dict[str, Any] = {
        name: torch.randint(3, 50, shape) if name in _INTEGERS else torch.rand(shape) for name, shape in shapes.items()
    }
    return (), {**values, **further}


def _made(kind: str, suffix: str, options: Options, use_cache: bool | None = None) -> nn.Module:
    if suffix == "ForObjectDetection" and "patch_size" not in options:  # the family of DETR, over a small ResNet
        backbone = hf.ResNetConfig(**_RESNET, out_features=["stage1", "stage2"])
        options = {**_SIDES, "num_queries": 5, "use_timm_backbone": False, "backbone": None, **options}
        options["backbone_config"] = backbone
    config = getattr(hf, f"{kind}Config")(**options)
    if use_cache is not None:
        for each in (config, *(getattr(config, part, None) for part in ("encoder", "decoder"))):
            if each is not None:
                each.use_cache = use_cache
    model: nn.Module = getattr(hf, {"Gemma3Text": "Gemma3"}.get(kind, kind) + suffix)(config)
    return model


def _networks() -> Iterator[tuple[str, Network]]:
    text: Shapes = {"input_ids": (2, 7)}
    pair: Shapes = {"input_ids": (2, 7), "decoder_input_ids": (2, 5)}
    sound: Shapes = {"input_values": (2, 400)}
    plain = [(*entry, text) for entry in _TEXTS] + [(*entry, sound) for entry in _SOUNDS] + _OTHERS
    for kind, suffix, options, size in _PICTURES:
        plain.append((kind, suffix, options, {"pixel_values": (2, 3, size, size)}))
    cached = [(*entry, text) for entry in _DECODERS] + [(*entry, pair) for entry in _PAIRS] + _OTHER_CACHES
    for kind, suffix, options, shapes in plain:
        yield kind, (partial(_made, kind, suffix, options), partial(_inputs, shapes, {}))
    for kind, suffix, options, shapes in cached:
        given = {} if kind == "SwitchTransformers" else {"use_cache": True}  # its encoder refuses to be asked
        yield kind, (partial(_made, kind, suffix, options, True), partial(_inputs, shapes, given))
        yield f"{kind} without cache", (partial(_made, kind, suffix, options, False), partial(_inputs, shapes, {}))


NETWORKS = dict(_networks())
