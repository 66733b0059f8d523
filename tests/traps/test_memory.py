"""Views, writes in place, and strides that results follow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.traps.harness import Traps, assert_exact_at_every_cut, linear, rows

trap = Traps()


# Views, and writes in place.


@trap(a=linear(), b=linear())
def a_view_that_is_written_to_later(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    view = y.view(-1, 2, 2)
    z = torch.sigmoid(y)
    view.mul_(2)
    return self.b(y) + z + view.flatten(1)


@trap(a=linear(), b=linear())
def the_base_of_a_view_is_written_to_later(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    left, right = y.chunk(2, dim=1)
    z = torch.tanh(left)
    y.add_(1)
    return self.b(y), left + z, right


@trap(a=linear(), b=linear())
def a_slice_is_assigned(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    y[:, 0] = x[:, 1]
    y[:, 1:3] += 2
    z = self.b(y)
    z[..., -1] = 0
    return z


@trap(a=linear())
def a_size_beside_an_assigned_slice(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    y[:, 0] = 0
    return y, x.shape[0]


@trap(a=linear(), b=linear())
def every_activation_in_place(self: Any, x: Tensor) -> Any:
    y = F.relu(self.a(x), inplace=True)
    y += x
    z = F.leaky_relu(self.b(y), 0.1, inplace=True)
    z.sigmoid_()
    torch.relu_(y)
    return z.add_(y)


@trap(a=linear(), b=linear(), act=nn.ReLU(inplace=True))
def in_place_on_what_is_used_before_and_after(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    before = y * 2
    after = self.act(y)
    return self.b(y) + before + after + y


@trap(a=linear(), b=linear())
def out_arguments(self: Any, x: Tensor) -> Any:
    space = torch.zeros_like(x)
    torch.add(self.a(x), 1, out=space)
    other = torch.empty_like(space)
    torch.mul(space, self.b(x), out=other)
    return other + space


@trap(a=linear())
def memory_that_is_filled_piece_by_piece(self: Any, x: Tensor) -> Any:
    space = x.new_zeros(x.shape[0], 8)
    space[:, :4] = x
    y = self.a(x)
    space[:, 4:] = y
    return space.copy_(space * 2) + torch.cat([y, y], dim=1)


@trap(a=linear())
def a_constant_that_is_written_to(self: Any, x: Tensor) -> Any:
    mask = torch.zeros(4)
    mask[1] = 1
    y = self.a(x) * mask
    mask.add_(1)
    return y + mask


@trap(a=linear())
def indexed_and_masked_writes(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    y.masked_fill_(x > 0, 0.5)
    y.index_add_(1, torch.tensor([0, 2]), x[:, :2])
    y[x < -1] = 7
    return y.scatter_(1, torch.tensor([[0]]).expand(x.shape[0], 1), 1.5).cumsum_(1)


@trap(a=linear())
def a_transposed_view_is_written_to(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    columns = y.t()
    z = y.exp()
    columns[0].zero_()
    return y + z, columns.t().clone()


@trap(a=linear())
def detached_memory_is_written_to(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    same_memory = y.detach()
    z = y.cos()
    same_memory.add_(1)
    return y * z


@trap(a=linear())
def data_is_written_to(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    z = y.cos()
    y.data.add_(1)
    w = y.sin()
    y.data.mul_(2)
    return y * z + w


@trap(a=linear())
def a_list_of_views_is_written_to(self: Any, x: Tensor) -> Any:
    y = self.a(x)
    parts = list(y.split(2, dim=1))
    parts[0] += 1
    z = y.tanh()
    parts[1].neg_()
    return torch.cat(parts, 1) + z + y


@trap(rows(2, 4), a=linear())
def unpacking_and_slicing(self: Any, x: Tensor) -> Any:
    first, second = x.unbind(1)
    *_, last = self.a(first).split([1, 2, 1], dim=1)
    return last + second[..., None, :2, None].flatten(1)[:, ::2]


# Strides.


@trap(a=linear(), b=linear())
def strides_that_the_server_reads(self: Any, x: Tensor) -> Any:
    y = self.a(x).t()
    z = y.relu()
    return z.as_strided((2, 2), (1, 2)) + 1, torch.as_strided(y, (4,), (1,))


@trap(rows(96, 64), a=nn.Linear(64, 96), b=nn.Linear(96, 33))
def a_permuted_value_is_reduced_and_multiplied(self: Any, x: Tensor) -> Any:
    y = self.a(x).transpose(1, 2)
    z = y.softmax(-1)
    return z.sum(1), y.mean((1, 2)), self.b(z), z @ y.transpose(1, 2), y.sum(), z.norm(dim=1)


@trap(rows(3, 17, 17), a=nn.Conv2d(3, 16, 3), b=nn.Conv2d(16, 24, 3), norm=nn.BatchNorm2d(16))
def channels_last(self: Any, x: Tensor) -> Any:
    y = self.norm(self.a(x.to(memory_format=torch.channels_last))).relu()
    z = self.b(y)
    return z.mean((2, 3)), F.adaptive_avg_pool2d(y, 1), z.sum(), y.softmax(1)


@pytest.mark.parametrize("name", trap)
def test_exact_at_every_cut(name: str) -> None:
    assert_exact_at_every_cut(*trap[name])


def test_within_inference_mode() -> None:
    with torch.inference_mode():
        assert_exact_at_every_cut(*trap["a_view_that_is_written_to_later"])
