"""The table of what counts nothing: it must hold no contraction."""

from __future__ import annotations

import inspect
import operator
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from qpart_fx.macs import table, zero
from qpart_fx.passes.count_macs import uncounted
from tests.macs.oracle import by_torch, macs, one_call, ours, traced

CONTRACTIONS = """
    matmul mm bmm addmm addmv addbmm baddbmm mv dot vdot inner einsum tensordot linear bilinear conv1d conv2d conv3d
    conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d convolution scaled_dot_product_attention affine_grid
    multi_dot multi_head_attention_forward chain_matmul cdist pdist cov corrcoef matrix_power matrix_exp lstm gru
    rnn_tanh lstm_cell gru_cell rnn_tanh_cell __matmul__ __rmatmul__ imatmul vecdot stft istft fft svd qr inverse
    pinverse det cosine_similarity pairwise_distance"""


@pytest.mark.parametrize("name", CONTRACTIONS.split())
def test_no_contraction_is_listed(name: str) -> None:
    places = (torch, F, torch.Tensor, torch.linalg, operator, torch.fft)
    found = {getattr(place, name) for place in places if hasattr(place, name)}
    assert found
    assert not found.intersection(zero.zero_operations())


def test_no_layer_with_weights_to_multiply_is_listed() -> None:
    layers = {nn.Linear, nn.Conv2d, nn.LSTM, nn.Module, nn.Sequential, nn.MultiheadAttention, nn.Bilinear}
    assert not layers.intersection(zero.zero_operations())


def test_nothing_listed_has_another_handler() -> None:
    operations = set(zero.zero_operations())
    assert len(operations) > 1000
    assert {table.handler_of(operation) for operation in operations} == {zero.nothing}


def test_every_listed_name_exists_and_is_listed_once() -> None:
    names = " ".join(zero.FUNCTIONS.values()).split()
    assert [name for name in names if not zero.resolve(name)] == []
    assert len(set(names)) == len(names)
    assert len(set(zero.MODULES.split())) == len(zero.MODULES.split())


def runs_and_counts_nothing(operation: Callable[..., Any], *arguments: Any) -> bool:
    copies = tree_map_only(Tensor, Tensor.clone, arguments)
    error = None

    def attempt() -> None:
        nonlocal error
        try:
            operation(*copies)
        except Exception as caught:
            error = caught

    with warnings.catch_warnings(action="ignore"):
        assert by_torch(attempt) == 0, operation
    return error is None


def test_listed_functions_run_no_product() -> None:
    """Whatever takes any of these arguments is run under torch's counter, which must see nothing."""
    x, y, image = torch.rand(4, 4), torch.rand(2, 4, 8), torch.rand(2, 4, 8, 8)
    patterns: list[tuple[Any, ...]] = [(x,), (x, x), (x, 1), (x, 1, 1), (y, 2), (image, 2), (image, (2, 2)), ([x, x],)]
    functions = [operation for operation in dict.fromkeys(zero.zero_operations()) if not inspect.isclass(operation)]
    tried = [(f, each) for f in functions if f is not print for each in patterns]
    assert len({f for f, each in tried if runs_and_counts_nothing(f, *each)}) > 600


def test_listed_modules_run_no_product() -> None:
    images = [torch.rand(3, 4, *(8,) * dims) for dims in range(4)]
    ran = set()
    for name in zero.MODULES.split():
        for arguments in ((), (2,), (4,), (2, 1.0), (8,), (1, (2, 4))):
            try:
                module = getattr(nn, name)(*arguments).eval()
            except (AssertionError, TypeError, ValueError):
                continue
            ran |= {name for image in images if runs_and_counts_nothing(module, image)}
    assert len(ran) > 80


def test_look_ups_shapes_and_elementwise_in_a_model_count_nothing() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 6)
            self.bag = nn.EmbeddingBag(9, 6)
            self.norm = nn.LayerNorm(6)

        def forward(self, tokens: Tensor) -> Any:
            x = self.norm(self.embed(tokens)) + self.bag(tokens)[:, None] + F.embedding(tokens, self.embed.weight)
            x = F.max_pool1d(F.pad(x, (1, 1)).transpose(1, 2), 2).add_(1).mul(x.size(0) // 2)
            x = x / x.norm(dim=-1, keepdim=True).clamp_min(1e-3)
            return torch.cat(x.unbind(0), dim=x.shape.index(8) - 1).sort().values

    graph_module = traced(Model(), torch.randint(9, (3, 4)))
    assert uncounted(graph_module) == {}
    assert set(macs(graph_module).values()) == {0}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_nuclear_norm_is_unknown_and_the_others_count_nothing() -> None:
    x = torch.rand(3, 4)
    assert ours(torch.norm, x) == ours("norm", x, p=1, dim=0) == ours(torch.linalg.vector_norm, x) == 0
    assert macs(one_call("norm", x, "nuc"))["call"] is None
    assert macs(one_call(torch.norm, x, p="nuc"))["call"] is None
