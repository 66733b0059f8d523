"""Heads on a device: what PyTorch's head returns and packs, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import qpart_fx as qpart
from qpart_fx import RequestError
from qpart_fx.device import HeadRuntime, Input, unpack_arrays
from qpart_fx.head_update import apply_update
from qpart_fx.quantized import payload_quantizers
from qpart_fx.quantizer import UniformQuantizer
from tests.device.heads import Case, plain, rounded

PLAIN: list[tuple[str, Any]] = [
    ("classifier", "_2"), ("classifier", "output"), ("residual", ("relu", "conv2")), ("recurrent", "relu"),
    ("tied tokens", "output"), ("tied tokens", "input"), ("encoder", "encoder_layers_0"),
    ("two inputs", ("right", "add")), ("clashing", "mul"),
]  # fmt: skip
ROUNDED: list[tuple[str, Any, int]] = [
    ("classifier", "_2", 8), ("classifier", "_5", 4), ("classifier", "input", 6), ("residual", "relu_1", 16),
    ("unet", ("relu", "relu_1"), 5), ("recurrent", "output", 8), ("tied tokens", "gelu", 11), ("encoder", "mean", 8),
    ("far from zero", "add", 7), ("far from zero", "sigmoid", 2),
]  # fmt: skip
SAMPLES = [slice(0, 40), slice(0, 1), slice(3, 8)]


def runtime(case: Case) -> HeadRuntime:
    return HeadRuntime(case.packed(), threads=1)


def of_torch(case: Case, samples: slice) -> tuple[Tensor, ...]:
    with torch.no_grad():
        payload: tuple[Tensor, ...] = case.split.head(*(value[samples] for value in case.inputs))
    return payload


def is_close(made: NDArray[Any], expected: Tensor) -> bool:
    """Within 1e-5 of the largest value, or equal if they are no floats."""
    reference = expected.numpy()
    if made.dtype != reference.dtype or made.shape != reference.shape:
        return False
    if made.dtype.kind != "f":
        return np.array_equal(made, reference)
    return bool(np.abs(made - reference).max() <= 1e-5 * np.abs(reference).max())


def flips(made: NDArray[Any], expected: Tensor, grid: UniformQuantizer) -> int:
    """Codes that differ; none by more than one."""
    assert made.shape == tuple(expected.shape)
    difference = (grid.encode(torch.from_numpy(made)) - grid.encode(expected)).abs()
    assert difference.max() <= 1
    return int((difference > 0).sum())


@pytest.mark.parametrize(("name", "cut"), PLAIN)
def test_what_is_not_rounded_is_torch_s_within_floats(name: str, cut: Any) -> None:
    case = plain(name, cut)
    head = runtime(case)
    for samples in SAMPLES:
        made, expected = head(*case.arrays(samples)), of_torch(case, samples)
        assert len(made) == len(expected)
        assert all(map(is_close, made, expected))
        sent = case.split.unpack_activation(head.message(*case.arrays(samples)))
        assert all(np.array_equal(there, here) for there, here in zip(sent, made, strict=True))
        whole, answer = case.split.tail(*expected), case.split.tail(*sent)
        for key in whole if isinstance(whole, dict) else ():
            torch.testing.assert_close(answer[key], whole[key], rtol=1e-4, atol=1e-5)
        if isinstance(whole, Tensor):
            torch.testing.assert_close(answer, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "cut", "bits"), ROUNDED)
def test_codes_are_torch_s_but_for_rare_flips(name: str, cut: Any, bits: int) -> None:
    case = rounded(name, cut, bits)
    head, grids = runtime(case), payload_quantizers(case.split.head)
    assert all(grid is not None and grid.bits == bits for grid in grids)
    for samples in SAMPLES:
        made, expected = head(*case.arrays(samples)), of_torch(case, samples)
        flipped = sum(map(flips, made, expected, grids))  # type: ignore[arg-type]  # none is None
        assert flipped <= 1 + 1e-3 * sum(value.numel() for value in expected)  # sums are taken in another order
        if not flipped:
            assert all(np.array_equal(there, here) for there, here in zip(made, expected, strict=True))
            for rate in (None, 1e3):
                message = head.message(*case.arrays(samples), uplink_bps=rate)
                assert message == case.split.pack_activation(expected, rate)
        sent = case.split.unpack_activation(head.message(*case.arrays(samples)))
        assert all(np.array_equal(there, here) for there, here in zip(sent, made, strict=True))
        torch.testing.assert_close(case.split.tail(*sent), case.split.tail(*map(torch.from_numpy, made)))


def test_an_input_that_crosses_is_packed_byte_for_byte() -> None:
    case = rounded("classifier", "input", 6)
    assert runtime(case).message(*case.arrays()) == case.split.pack_activation(of_torch(case, slice(None)))


def test_no_code_stands_for_zero_in_a_range_far_from_it() -> None:
    (grid,) = payload_quantizers(rounded("far from zero", "add", 7).split.head)
    assert grid is not None
    assert grid.zero_point < 0


def test_a_link_that_is_slow_gets_shorter_messages() -> None:
    case = rounded("classifier", "_2", 8)
    head = runtime(case)
    coded, fixed = (head.message(*case.arrays(), uplink_bps=rate) for rate in (1e3, None))
    assert len(coded) < len(fixed)
    for sent, expected in zip(case.split.unpack_activation(coded), head(*case.arrays()), strict=True):
        assert np.array_equal(sent, expected)
    with pytest.raises(RequestError, match="uplink_bps"):
        head.message(*case.arrays(), uplink_bps=0)


# What a head says of itself


def test_inputs_are_called_as_the_model_s() -> None:
    left, right = runtime(plain("two inputs", ("right", "add"))).inputs
    assert left == Input("left", "float32", (None, 4))
    assert right == Input("right", "float32", (None, 3))
    assert str(right) == "float32[any, 3]"


def test_the_plan_is_the_split_s() -> None:
    case = rounded("classifier", "_2", 8)
    plan, summary = case.split.plan, runtime(case).plan
    assert plan is not None
    assert summary is not None
    assert (summary.model, summary.cut) == (plan.model, plan.cut)
    assert runtime(plain("classifier", "_2")).plan is None


def test_a_tensor_that_is_used_twice_lies_in_the_file_once() -> None:
    case = plain("tied tokens", "output")
    table = case.split.head.get_parameter("embedding.weight")
    assert case.packed().count(table.detach().numpy().tobytes()) == 1


# How it is called


def test_arguments_may_be_named() -> None:
    case = plain("two inputs", ("right", "add"))
    head, (left, right) = runtime(case), case.arrays()
    expected = head(left, right)
    for made in (head(left, right=right), head(right=right, left=left)):
        assert all(map(np.array_equal, made, expected))


def test_arrays_may_lie_in_memory_as_they_like() -> None:
    case = plain("classifier", "_2")
    head, (images,) = runtime(case), case.arrays()
    other = np.asfortranarray(images)
    other.flags.writeable = False
    assert all(map(np.array_equal, head(other[::2]), head(images[::2].copy())))


WRONG: dict[str, tuple[Any, str]] = {
    "missing": (lambda left, right: ((left,), {}), "input 'right' is missing: .* float32\\[any, 3\\]"),
    "too many": (lambda left, right: ((left, right, right), {}), "takes \\(left: float32.*given 3 arrays"),
    "unknown": (lambda left, right: ((left, right), {"scale": right}), "takes \\(left: .*\\['scale'\\]"),
    "given twice": (lambda left, right: ((left, right), {"right": right}), "takes \\(left: .*\\['right'\\]"),
    "a list": (lambda left, right: ((left.tolist(), right), {}), "'left' is a list: .*float32\\[any, 4\\]"),
    "a tensor": (lambda left, right: ((left, torch.from_numpy(right)), {}), "'right' is a Tensor"),
    "other floats": (lambda left, right: ((left, right.astype(float)), {}), "float64\\[40, 3\\].*takes float32"),
    "other order of bytes": (lambda left, right: ((left, right.astype(">f4")), {}), "'right' is >f4.*takes float32"),
    "other sizes": (lambda left, right: ((left[:, :3], right), {}), "\\[40, 3\\], and the head takes float32\\[any, 4"),
    "other dimensions": (lambda left, right: ((left, right[0]), {}), "\\[3\\], and the head takes float32\\[any, 3"),
    "other batches": (lambda left, right: ((left, right[:7]), {}), "cannot run on these inputs"),
    "objects": (lambda left, right: ((left, right.astype(object)), {}), "'right' is object"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("call", ["__call__", "message"])
def test_what_a_head_does_not_take_is_refused(what: str, call: str) -> None:
    case = plain("two inputs", ("right", "add"))
    given, expected = WRONG[what]
    args, kwargs = given(*case.arrays())
    with pytest.raises(RequestError, match=expected):
        getattr(runtime(case), call)(*args, **kwargs)


def test_indices_that_a_table_has_not_are_refused() -> None:
    head = runtime(plain("tied tokens", "output"))
    with pytest.raises(RequestError, match="cannot run on these inputs"):
        head(np.full((1, 7), 11))


def test_nan_is_not_sent_where_values_are_rounded_as_floats() -> None:
    head = runtime(rounded("far from zero", "add", 7))
    with pytest.raises(RequestError, match="is NaN for these inputs"):
        head.message(np.full((1, 5), np.nan, dtype=np.float32))


# Files


def test_a_head_is_read_from_its_file(tmp_path: Path) -> None:
    case = plain("classifier", "_2")
    (tmp_path / "head.qpart").write_bytes(case.packed())
    head = HeadRuntime.load(tmp_path / "head.qpart", threads=1)
    assert all(map(np.array_equal, head(*case.arrays()), runtime(case)(*case.arrays())))


def test_the_file_is_the_same_each_time() -> None:
    case = rounded("encoder", "mean", 8)
    assert case.split.packed_head(runtime="onnx") == case.packed()


def test_a_device_that_holds_a_head_downloads_what_differs() -> None:
    held, case = rounded("residual", "relu_1", 8, (8,)), rounded("residual", "relu_1", 8, (6,))
    update = case.split.packed_update(held.packed())
    assert len(update) < len(case.packed())
    made = apply_update(held.packed(), update)
    assert made == case.packed()
    assert all(map(np.array_equal, HeadRuntime(made)(*case.arrays()), runtime(case)(*case.arrays())))


def test_a_split_from_a_file_packs_the_same_head(tmp_path: Path) -> None:
    case = rounded("unet", ("relu", "relu_1"), 5)
    case.split.save(tmp_path / "split.qpart")
    loaded = qpart.load(tmp_path / "split.qpart")
    assert isinstance(loaded, qpart.SplitModel)
    assert loaded.packed_head(runtime="onnx") == case.packed()


def test_what_is_no_tensor_cannot_cross() -> None:
    with pytest.raises(RequestError, match="'scale' is of type float"):
        plain("two inputs", "input").split.packed_head(runtime="onnx")


def test_a_device_imports_neither_torch_nor_what_plans() -> None:
    code = """
import sys
import qpart_fx.device
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "pydantic", "scipy", "onnx", "matplotlib"}))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_messages_of_torch_are_read_without_it() -> None:
    case = plain("residual", ("relu", "conv2"))
    payload = of_torch(case, slice(0, 4))
    for made, expected in zip(unpack_arrays(case.split.pack_activation(payload)), payload, strict=True):
        assert made.dtype == expected.numpy().dtype
        assert np.array_equal(made, expected)
