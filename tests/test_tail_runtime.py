"""Tails on a server: the same answers as the split's, in any precision, compiled or not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import qpart_fx as qpart
from qpart_fx.tail_runtime import TailRuntime

from .networks import TwoInputs, classifier, images


@pytest.fixture(scope="module")
def split() -> qpart.SplitModel:
    return qpart.split(classifier(), (images(2),), cut="_2")


def test_a_message_is_answered_as_the_split_does(split: qpart.SplitModel) -> None:
    x = images(5)
    answer = TailRuntime(split)(split.pack_activation(split.head(x)))
    torch.testing.assert_close(answer, split(x), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_and_answers_in_the_models_own(split: qpart.SplitModel, dtype: torch.dtype) -> None:
    before = {name: value.clone() for name, value in split.tail.state_dict().items()}
    x = images(5)
    answer: Tensor = TailRuntime(split, dtype=dtype)(split.pack_activation(split.head(x)))
    assert answer.dtype == torch.float32
    torch.testing.assert_close(answer, split(x), rtol=0.05, atol=0.02)
    assert all(torch.equal(before[name], value) for name, value in split.tail.state_dict().items())


@pytest.mark.slow
def test_compiled_tails_take_any_batch_size(split: qpart.SplitModel) -> None:
    runtime = TailRuntime(split, compiled=True)
    for count in (1, 3, 7):
        x = images(count)
        torch.testing.assert_close(runtime(split.pack_activation(split.head(x))), split(x), rtol=1e-4, atol=1e-5)


def test_answers_keep_the_models_structure() -> None:
    split = qpart.split(TwoInputs().eval(), (torch.randn(2, 4), torch.randn(2, 3)))
    inputs = torch.randn(3, 4), torch.randn(3, 3)
    answer = TailRuntime(split, dtype=torch.bfloat16)(split.pack_activation(split.head(*inputs)))
    assert answer.keys() == split(*inputs).keys()
    assert {value.dtype for value in answer.values()} == {torch.float32}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(split: qpart.SplitModel) -> None:
    x = images(5)
    answer = TailRuntime(split, device="cuda")(split.pack_activation(split.head(x)))
    assert answer.device.type == "cpu"
    torch.testing.assert_close(answer, split(x), rtol=1e-3, atol=1e-4)


def test_other_dtypes_are_refused(split: qpart.SplitModel) -> None:
    with pytest.raises(qpart.RequestError, match="int8"):
        TailRuntime(split, dtype=torch.int8)
    with pytest.raises(qpart.ArtifactError):
        TailRuntime(split)(b"nothing of ours")
