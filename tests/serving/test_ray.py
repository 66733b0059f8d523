"""The server on Ray: the same answers as one process gives, whatever becomes of its replicas. Skipped without Ray; what
starts a cluster, which takes most of a minute, is slow."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from torch import nn

import qpart_fx as qpart
from qpart_fx.cli import main
from qpart_fx.serving.ray import Job, application, profile_many
from tests.device.enduring import REQUEST as OF_CLASSIFIER
from tests.device.enduring import expected_of
from tests.device.heads import profile as classifier_of
from tests.networks import images

from .ray_server import RayServer, endure_lost_replicas, endure_scaling, free_port, ray_server, replicas_below
from .running import PATIENCE_S, REQUEST, Caller, Running, plan_of, profile, refusal, running, split_of, without_prices

X = images(3, seed=5)


def test_without_ray_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("qpart_fx.errors.find_spec", lambda name: None if name == "ray" else found(name))
    for call in (lambda: application({"catalog": str(tmp_path)}), lambda: profile_many([], tmp_path)):
        with pytest.raises(qpart.errors.MissingDependencyError, match=r'pip install "qpart-fx\[ray\]"'):
            call()
    assert main(["serve", str(tmp_path), "--ray"]) == 1
    assert 'pip install "qpart-fx[ray]"' in capsys.readouterr().err


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"catalogue": "."}, "no argument 'catalogue'"),
    ({}, "catalog"),
    ({"catalog": ".", "tails": "none"}, "tails"),
    ({"catalog": ".", "tails": 0}, "tails = 0"),
    ({"catalog": ".", "tails": 4, "most_tails": 2}, "most_tails = 2"),
    ({"catalog": ".", "queue": "0"}, "--queue 0"),
    ({"catalog": ".", "price_by_load": "true"}, "price_by_load"),
    ({"catalog": ".", "port": 0}, "port = 0"),
    ({"catalog": ".", "fronts": 2, "metrics_port": 9100}, "metrics_port"),
]


@pytest.mark.parametrize(("args", "words"), WRONG)
def test_arguments_that_make_no_sense_are_named(args: dict[str, Any], words: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(qpart.RequestError, match=words):
        application(args)


def test_names_of_jobs_are_those_of_a_catalog(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    for names in (["../net"], ["net", "net"]):
        with pytest.raises(qpart.RequestError, match=r"Job\.name"):
            profile_many([Job(name, well) for name in names], tmp_path)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalog")
    profile().save(folder / "net.qpart")
    classifier_of("classifier").save(folder / "model.qpart")
    return folder


@pytest.fixture(scope="module")
def server(catalog: Path) -> Iterator[RayServer]:
    pytest.importorskip("ray")
    with ray_server(catalog, 2) as found:
        yield found


@pytest.fixture(scope="module")
def caller(server: RayServer) -> Caller:
    return Caller(server.port)


def status(call: Any, *arguments: Any, **options: Any) -> tuple[str, dict[str, Any]]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **options)
    name, _, metadata = refusal(caught.value)
    return name, dict(metadata)


@pytest.mark.slow
def test_devices_get_what_one_process_gives(caller: Caller) -> None:
    answer = caller.plan("net", REQUEST)
    assert plan_of(answer) == without_prices(profile().plan(REQUEST))
    split = split_of(profile(), answer)
    kind, head = caller.head(answer.plan_id)
    assert (kind, hashlib.sha256(head).hexdigest()) == ("head", answer.head_hash)
    message = split.pack_activation(split.head(X))
    for _ in range(8):  # whichever replica it is
        np.testing.assert_allclose(caller.output(answer, message), split(X).detach().numpy(), rtol=1e-4, atol=1e-5)
    held = caller.plan("net", replace(REQUEST, max_accuracy_drop=0.001), holds=answer.head_hash)
    kind, update = caller.head(held.plan_id, answer.head_hash)
    assert (kind, len(update)) == ("update", held.update_bytes)


@pytest.mark.slow
def test_other_clients_get_what_one_process_gives(server: RayServer, caller: Caller) -> None:
    answer = caller.plan("net", REQUEST)
    split = split_of(profile(), answer)
    message = np.frombuffer(split.pack_activation(split.head(X)), np.uint8)
    with triton.InferenceServerClient(server.address) as client:
        described = client.get_model_metadata("net", as_json=True)
        (taken,), (given,) = described["inputs"], described["outputs"]
        whole = triton.InferInput(taken["name"], [3, 3, 8, 8], taken["datatype"])
        whole.set_data_from_numpy(X.numpy())
        found = client.infer("net", [whole]).as_numpy(given["name"])
        np.testing.assert_allclose(found, profile().graph(X).detach().numpy(), rtol=1e-4, atol=1e-5)
        packed = triton.InferInput("message", [len(message)], "UINT8")
        packed.set_data_from_numpy(message)
        found = client.infer("net", [packed], answer.plan_id).as_numpy(given["name"])
        np.testing.assert_allclose(found, split(X).detach().numpy(), rtol=1e-4, atol=1e-5)
        wrong = triton.InferInput(taken["name"], [3, 8, 8], "FP32")
        wrong.set_data_from_numpy(X[0].numpy())
        with pytest.raises(triton.InferenceServerException, match="dimensions") as caught:
            client.infer("net", [wrong])
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.slow
def test_refusals_come_through(caller: Caller) -> None:
    answer = caller.plan("net", REQUEST)
    split = split_of(profile(), answer)
    message = split.pack_activation(split.head(X))
    assert status(caller.infer, answer.plan_id, message[:-5])[0] == "INVALID_ARGUMENT"
    assert status(caller.infer, "f" * 32, message)[0] == "NOT_FOUND"
    assert status(caller.plan, "none", REQUEST)[0] == "NOT_FOUND"
    assert status(caller.infer, answer.plan_id, message, timeout=1e-6)[0] == "DEADLINE_EXCEEDED"
    code, metadata = status(caller.plan, "net", replace(REQUEST, deadline_s=1e-9))
    assert (code, metadata["qpart-limit"]) == ("FAILED_PRECONDITION", "deadline_s")


@pytest.mark.slow
@pytest.mark.parametrize(("deployment", "times"), [("Tails", 3), ("Planner", 1), ("Front", 1)])
def test_no_call_is_lost_with_a_replica(server: RayServer, deployment: str, times: int) -> None:
    expected = expected_of(classifier_of("classifier"))
    calls = endure_lost_replicas(server, expected, deployment, times)
    print(f"{deployment}, {times} lost: {calls}")
    assert calls.sources.keys() == {"server"}
    assert (calls.wrong, calls.lost) == (0, 0)


@pytest.mark.slow
def test_no_call_is_lost_while_replicas_come_and_go(server: RayServer) -> None:
    calls = endure_scaling(server, expected_of(classifier_of("classifier")), [3, 1, 2])
    print(f"3, 1 and 2 tails: {calls}")
    assert calls.sources.keys() == {"server"}
    assert (calls.wrong, calls.lost) == (0, 0)


@pytest.mark.slow
def test_the_command_starts_it_and_leaves_nothing_behind(catalog: Path) -> None:
    pytest.importorskip("ray")
    with running(catalog, "--ray", "--tails", "1", "--port", str(free_port())) as server:
        answer = Caller(server.port).plan("model", OF_CLASSIFIER)
        assert answer.head_bytes > 0
        processes = all_below(server)
        assert replicas_below(server.process.pid, "Tails")
        assert server.stop(signal.SIGTERM) == 0
    until = time.monotonic() + PATIENCE_S
    while left := [pid for pid in processes if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < until, left
        time.sleep(0.1)


def all_below(server: Running) -> list[int]:
    return [pid for name in ("Tails", "Planner", "Front") for pid in replicas_below(server.process.pid, name)]


# Profiles


def well() -> tuple[nn.Module, list[Any]]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), [torch.randn(64, 4)]


def without_weights() -> tuple[nn.Module, list[Any]]:
    return nn.Sequential(nn.ReLU()), [torch.randn(8, 4)]


def broken() -> tuple[nn.Module, list[Any]]:
    raise KeyError("the model's file")


def deadly() -> tuple[nn.Module, list[Any]]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def unwanted() -> tuple[nn.Module, list[Any]]:
    raise AssertionError("it is there already")


@pytest.mark.slow
def test_profiles_of_many_models(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    (tmp_path / "half.qpart").write_bytes(b"QPF1 and no more")
    unsendable = threading.Lock()
    jobs = [
        Job("first", well), Job("bare", without_weights), Job("broken", broken), Job("deadly", deadly),
        Job("unsent", lambda: (unsendable.locked(), well())[1]), Job("half", well, {"seed": 3}),
    ]  # fmt: skip
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=200 << 20)
    try:
        found = {outcome.name: outcome for outcome in profile_many(jobs, tmp_path, progress=False)}
        again = profile_many([Job("first", unwanted), Job("half", unwanted)], tmp_path, progress=False)
    finally:
        ray.shutdown()
    assert list(found) == [job.name for job in jobs]
    assert {name for name, outcome in found.items() if outcome.error is None} == {"first", "half"}
    assert "no weighted layer" in str(found["bare"].error)
    assert "KeyError" in str(found["broken"].error)
    assert "process was lost" in str(found["deadly"].error)
    assert "cannot be sent" in str(found["unsent"].error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.qpart", "half.qpart"]
    assert [(outcome.error, outcome.seconds) for outcome in again] == [(None, 0.0)] * 2
    made, here = qpart.load(tmp_path / "half.qpart"), qpart.profile(*well(), seed=3, progress=False)
    assert isinstance(made, qpart.Profile)
    assert made.weights_hash == here.weights_hash
    request = qpart.Request(0.1, REQUEST.device, REQUEST.server, REQUEST.link)
    assert json.loads(made.plan(request).to_json())["cut"] == json.loads(here.plan(request).to_json())["cut"]
