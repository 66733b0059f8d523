"""The operations that contract nothing, and so count zero MACs: elementwise, pooling, norms, shapes, look-ups.

Listed by name and resolved where torch and Python keep them. What is not listed here, nor has a handler, is unknown.
"""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from qpart_fx.macs.table import Call, register_macs

_NAMESPACES: tuple[Any, ...] = (torch, F, torch.Tensor, torch.special, operator, math, builtins, torch.Size, list, dict)

FUNCTIONS = {
    "arithmetic": """
        add sub subtract rsub mul multiply div divide true_divide truediv floor_divide floordiv mod remainder fmod
        neg negative pos positive pow float_power square sqrt rsqrt reciprocal abs absolute sign sgn signbit
        copysign lerp addcmul addcdiv clamp clamp_min clamp_max clip maximum minimum fmax fmin exp exp2 expm1 log
        log2 log10 log1p logaddexp logaddexp2 xlogy xlog1py erf erfc erfinv erfcx ndtr ndtri log_ndtr lgamma
        gammaln digamma psi polygamma gamma mvlgamma multigammaln i0 i0e i1 i1e sinc sin cos tan asin acos atan
        atan2 arcsin arccos arctan arctan2 sinh cosh tanh asinh acosh atanh arcsinh arccosh arctanh deg2rad rad2deg
        degrees radians hypot ldexp frexp nextafter floor ceil trunc fix round frac nan_to_num conj conj_physical
        resolve_conj resolve_neg real imag angle polar complex entr heaviside iadd isub imul itruediv ifloordiv
        imod ipow outer ger addr kron gcd lcm prod comb factorial fabs fsum divmod fake_quantize_per_tensor_affine
        fake_quantize_per_channel_affine""",
    "comparison and logic": """
        eq ne lt le gt ge not_equal less less_equal greater greater_equal equal isclose allclose isnan isinf
        isfinite isposinf isneginf isreal is_nonzero is_tensor is_floating_point is_complex is_signed is_contiguous
        is_same_size is_inference is_storage logical_and logical_or logical_xor logical_not bitwise_and bitwise_or
        bitwise_xor bitwise_not bitwise_left_shift bitwise_right_shift and_ or_ xor not_ inv invert lshift rshift
        iand ior ixor ilshift irshift truth is_ is_not contains isin isinstance issubclass callable hasattr any all""",
    "activations": """
        relu relu6 leaky_relu prelu rrelu elu celu selu gelu silu mish sigmoid logsigmoid hardsigmoid hardswish
        hardtanh hardshrink softshrink tanhshrink softplus softsign softmax softmin log_softmax gumbel_softmax
        threshold glu logit expit sigmoid_ dropout alpha_dropout feature_dropout feature_alpha_dropout dropout1d
        dropout2d dropout3d""",
    "norms and pooling": """
        batch_norm instance_norm layer_norm group_norm rms_norm local_response_norm normalize renorm avg_pool1d
        avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d lp_pool1d lp_pool2d lp_pool3d adaptive_avg_pool1d
        adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
        fractional_max_pool2d fractional_max_pool3d max_pool1d_with_indices max_pool2d_with_indices
        max_pool3d_with_indices max_unpool1d max_unpool2d max_unpool3d""",
    "reductions": """
        sum nansum mean nanmean median nanmedian mode std std_mean var var_mean amax amin aminmax max min argmax
        argmin logsumexp cumsum cumprod cummax cummin logcumsumexp count_nonzero nonzero argwhere trace diff
        quantile nanquantile bincount histc bucketize searchsorted unique unique_consecutive sort argsort msort
        topk kthvalue""",
    "shapes": """
        view view_as view_as_real view_as_complex reshape reshape_as resize resize_as flatten unflatten ravel
        squeeze unsqueeze permute transpose t swapaxes swapdims movedim moveaxis adjoint expand expand_as
        broadcast_to broadcast_tensors broadcast_shapes repeat repeat_interleave tile cat concat concatenate stack
        hstack vstack dstack column_stack row_stack block_diag split split_with_sizes tensor_split hsplit vsplit
        dsplit chunk unsafe_chunk unsafe_split unbind narrow narrow_copy select slice_scatter select_scatter
        diagonal diagonal_scatter diag diag_embed diagflat tril triu as_strided flip fliplr flipud rot90 roll
        unfold fold pad pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle atleast_1d atleast_2d
        atleast_3d meshgrid cartesian_prod combinations constant_pad_nd interpolate upsample upsample_nearest
        upsample_bilinear grid_sample one_hot""",
    "indexing and look-up": """
        getitem setitem delitem getattr setattr index_select index_add index_copy index_fill index_put index_reduce
        gather scatter scatter_add scatter_reduce masked_fill masked_select masked_scatter where take
        take_along_dim put embedding embedding_bag""",
    "creation and conversion": """
        zeros zeros_like ones ones_like empty empty_like full full_like arange range linspace logspace eye tensor
        as_tensor asarray from_numpy scalar_tensor rand rand_like randn randn_like randint randint_like randperm
        normal bernoulli multinomial poisson tril_indices triu_indices new_zeros new_ones new_empty new_full
        new_tensor clone copy_ fill_ fill zero_ uniform_ normal_ exponential_ detach contiguous to type type_as
        float double half bfloat16 int long short byte char bool cpu cuda item tolist numpy requires_grad_ values
        indices to_dense""",
    "sizes and Python": """
        size dim ndimension numel nelement element_size stride storage_offset get_device data_ptr len length_hint
        index indexOf countOf iconcat tuple list dict set frozenset slice zip enumerate reversed sorted print str
        repr id hash isqrt result_type promote_types can_cast finfo iinfo count append extend insert pop get keys
        items update copy clear reverse setdefault __len__ __getitem__ is_grad_enabled _assert""",
}

MODULES = """
    Identity Flatten Unflatten Fold Unfold PixelShuffle PixelUnshuffle ChannelShuffle Upsample UpsamplingNearest2d
    UpsamplingBilinear2d Embedding EmbeddingBag Dropout Dropout1d Dropout2d Dropout3d AlphaDropout
    FeatureAlphaDropout ReLU ReLU6 LeakyReLU PReLU RReLU ELU CELU SELU GELU SiLU Mish GLU Sigmoid LogSigmoid
    Hardsigmoid Hardswish Hardtanh Hardshrink Softshrink Tanhshrink Softplus Softsign Softmax Softmax2d Softmin
    LogSoftmax Tanh Threshold BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm InstanceNorm1d InstanceNorm2d
    InstanceNorm3d LayerNorm GroupNorm RMSNorm LocalResponseNorm CrossMapLRN2d AvgPool1d AvgPool2d AvgPool3d
    MaxPool1d MaxPool2d MaxPool3d LPPool1d LPPool2d LPPool3d AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d
    AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d FractionalMaxPool2d FractionalMaxPool3d MaxUnpool1d
    MaxUnpool2d MaxUnpool3d ConstantPad1d ConstantPad2d ConstantPad3d ZeroPad1d ZeroPad2d ZeroPad3d ReflectionPad1d
    ReflectionPad2d ReflectionPad3d ReplicationPad1d ReplicationPad2d ReplicationPad3d CircularPad1d CircularPad2d
    CircularPad3d"""


def zero_operations() -> Iterator[Any]:
    """Every listed function, tensor method, in-place variant and type of module."""
    for name in " ".join(FUNCTIONS.values()).split():
        yield from resolve(name)
    for name in MODULES.split():
        yield getattr(nn, name)


def resolve(name: str) -> list[Any]:
    """What torch and Python call ``name``, and its in-place variant ``name_``."""
    found = (getattr(namespace, each, None) for namespace in _NAMESPACES for each in (name, f"{name}_"))
    return [operation for operation in found if callable(operation)]


@register_macs(*zero_operations())
def nothing(call: Call) -> int | None:
    return 0


@register_macs(torch.norm, torch.Tensor.norm, torch.linalg.vector_norm)
def norm(call: Call) -> int | None:
    """Nothing, but for the nuclear norm, which needs a singular value decomposition."""
    return None if call.argument(1, "p") == "nuc" else 0
