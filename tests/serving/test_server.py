"""A server as a process, over sockets: right plans, heads and outputs, and clear words where there are none."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

import qpart_fx as qpart
from benchmarks.serving.fuzz import fuzz
from qpart_fx.checksum import checksum
from qpart_fx.device import Client, HeadRuntime
from qpart_fx.head_update import apply_update
from tests.networks import images

from .running import (
    LINK,
    PATIENCE_S,
    REQUEST,
    Caller,
    Running,
    plan_of,
    profile,
    refusal,
    running,
    split_of,
    without_prices,
)

X = images(3, seed=5)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalog")
    profile().save(folder / "net.qpart")
    return folder


@pytest.fixture(scope="module")
def server(catalog: Path) -> Iterator[Running]:
    with running(catalog) as found:
        yield found


@pytest.fixture(scope="module")
def caller(server: Running) -> Caller:
    return Caller(server.port)


def middle(**changes: Any) -> qpart.Request:
    """A request whose best cut lies inside the network."""
    return dataclasses.replace(REQUEST, **changes)


def refused(call: Any, *arguments: Any, **options: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **options)
    status, words, _ = refusal(caught.value)
    return status, words


def test_a_device_is_given_the_plan_that_the_profile_makes(caller: Caller) -> None:
    answer = caller.plan("net", middle())
    assert plan_of(answer) == without_prices(profile().plan(middle()))
    assert answer.update_bytes is None


def test_head_and_tail_together_are_the_split(caller: Caller) -> None:
    answer = caller.plan("net", middle())
    kind, head = caller.head(answer.plan_id)
    assert (kind, len(head)) == ("head", answer.head_bytes)
    message = HeadRuntime(head).message(X.numpy())
    expected = split_of(profile(), answer)(X).detach().numpy()
    np.testing.assert_allclose(caller.output(answer, message), expected, rtol=1e-4, atol=1e-5)


def test_what_a_device_knows_is_not_sent_again(caller: Caller) -> None:
    first = caller.plan("net", middle())
    second, moved = caller.plan_and_bytes("net", middle(), holds=first.head_hash, known=first)
    assert second.plan_id == first.plan_id
    assert second.update_bytes == 0
    assert caller.head(second.plan_id, first.head_hash) == ("same", b"")
    assert moved < 1000


def test_a_device_with_another_head_is_sent_the_difference(caller: Caller) -> None:
    held = caller.plan("net", middle(max_accuracy_drop=0.2))
    _, content = caller.head(held.plan_id)
    wanted = caller.plan("net", middle(max_accuracy_drop=0.001), holds=held.head_hash)
    assert plan_of(wanted).updates_held_head
    kind, update = caller.head(wanted.plan_id, held.head_hash)
    assert wanted.head_hash != held.head_hash
    assert (kind, len(update)) == ("update", wanted.update_bytes)
    assert apply_update(content, update) == caller.head(wanted.plan_id)[1]


def test_a_head_that_nobody_knows_is_no_hindrance(caller: Caller) -> None:
    assert caller.plan("net", middle(), holds="0" * 64).update_bytes is None


def test_requests_that_differ_in_prices_alone_share_a_head(caller: Caller) -> None:
    one, other = (caller.plan("net", middle(server=dataclasses.replace(REQUEST.server, price_per_s=price)))
                  for price in (1.0, 1.001))  # fmt: skip
    assert one.plan["cost"] != other.plan["cost"]
    assert one.plan_id == other.plan_id


def of_many_devices() -> list[qpart.Request]:
    """64 that differ in budgets, links and speeds."""
    budgets, rates, clocks = (0.005, 0.02, 0.1, 0.3), np.geomspace(1e5, 1e8, 4), (1e7, 1e8, 1e9, 1e10)
    requests = [
        middle(
            max_accuracy_drop=budget,
            link=dataclasses.replace(LINK, uplink_bps=float(rate)),
            device=dataclasses.replace(REQUEST.device, clock_hz=clock),
        )
        for budget in budgets for rate in rates for clock in clocks
    ]  # fmt: skip
    assert len(requests) == 64
    profile().plan(requests[0])  # its tables, before threads want them
    return requests


def test_many_callers_at_once_get_their_own_plans_and_answers(caller: Caller) -> None:
    requests = of_many_devices()

    def one(place: int) -> None:
        x = images(1 + place % 3, seed=place)
        answer = caller.plan("net", requests[place])
        assert plan_of(answer) == without_prices(profile().plan(requests[place]))
        split = split_of(profile(), answer)
        with torch.no_grad():
            message = split.pack_activation(split.head(x))
            expected = split(x).numpy()
        for _ in range(4):
            np.testing.assert_allclose(caller.output(answer, message), expected, rtol=1e-4, atol=1e-4)

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(one, range(64)))


def test_many_devices_at_once_get_their_own_plans_and_answers(server: Running) -> None:
    """Clients as devices have them, each with a plan, a head and a connection of its own, all at the same time."""
    requests, together = of_many_devices(), threading.Barrier(64)

    def one(place: int) -> str:
        x = images(1 + place % 3, seed=place)
        with Client(
            f"127.0.0.1:{server.port}", "net", requests[place], replanning=None, timeout_s=PATIENCE_S, threads=1
        ) as client:
            plan = client.prepare(PATIENCE_S)
            assert plan == without_prices(profile().plan(requests[place]))
            with torch.no_grad():
                expected = profile().compile(plan, progress=False)(x).numpy()
            together.wait(PATIENCE_S)
            for _ in range(8):
                np.testing.assert_allclose(client(x.numpy()), expected, rtol=1e-5, atol=1e-6)
            return ", ".join(plan.cut)

    with ThreadPoolExecutor(64) as pool:
        assert len(set(pool.map(one, range(64)))) > 1


def test_infeasible_requests_name_the_limit(caller: Caller) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        caller.plan("net", middle(deadline_s=1e-9))
    status, words, metadata = refusal(caught.value)
    assert status == "FAILED_PRECONDITION"
    assert metadata["qpart-limit"] == "deadline_s"
    assert "deadline_s" in words


def test_what_does_not_exist_is_not_found(caller: Caller) -> None:
    assert refused(caller.plan, "other", middle())[0] == "NOT_FOUND"
    assert refused(caller.plan, "../net", middle())[0] == "NOT_FOUND"
    assert refused(caller.head, "f" * 32)[0] == "NOT_FOUND"
    assert refused(caller.infer, "f" * 32, b"")[0] == "NOT_FOUND"


def test_mistakes_are_named(caller: Caller) -> None:
    status, words = refused(caller.plan, "net", middle(device=qpart.Device(1e8, 5.0, runtime="openvino")))
    assert status == "INVALID_ARGUMENT"
    assert "Device.runtime" in words
    answer = caller.plan("net", middle())
    status, words = refused(caller.infer, answer.plan_id, b"QPA4 and nothing of ours")
    assert (status, "damaged" in words) == ("INVALID_ARGUMENT", True)
    for method in ("Plan", "Head", "Infer"):
        call = caller.channel.unary_unary if method != "Head" else caller.channel.unary_stream
        with pytest.raises(grpc.RpcError) as caught:
            list(call(f"/qpart.v1.QPart/{method}")(b"\xff\x00{"))
        assert refusal(caught.value)[0] == "INVALID_ARGUMENT"


def test_a_message_of_another_head_is_refused(caller: Caller) -> None:
    answer = caller.plan("net", middle())
    split = profile().compile(profile().plan(REQUEST, cut="input"), progress=False)
    assert split.plan is not None
    assert split.plan.cut != plan_of(answer).cut
    message = split.pack_activation(split.head(X))
    assert refused(caller.infer, answer.plan_id, message)[0] == "INVALID_ARGUMENT"


@pytest.mark.parametrize("damage", ["bits", "anywhere"])
def test_mutated_messages_are_answered_with_errors_and_harm_nobody(
    server: Running, caller: Caller, damage: str
) -> None:
    """Damaged on the way, where the checksum tells; or made so, with a checksum that is right."""
    answer = caller.plan("net", middle())
    split = split_of(profile(), answer)
    message = split.pack_activation(split.head(X))
    expected = caller.infer(answer.plan_id, message)
    random = np.random.default_rng(0)
    statuses: dict[str, int] = {}
    for _ in range(1500):
        mutated = bytearray(message)
        for place in random.integers(4, len(message) - 4, random.integers(1, 4)):
            mutated[min(place, 40) if damage == "anywhere" else place] ^= 1 << int(random.integers(8))
        if random.random() < 0.2:
            del mutated[random.integers(len(mutated)) :]
        if damage == "anywhere":
            del mutated[-4:]
            mutated += checksum(mutated).to_bytes(4, "little")
        if bytes(mutated) == message:
            continue
        try:
            caller.infer(answer.plan_id, bytes(mutated))
            status = "OK"
        except grpc.RpcError as error:
            status = refusal(error)[0]
        statuses[status] = statuses.get(status, 0) + 1
    assert statuses.keys() <= ({"INVALID_ARGUMENT"} if damage == "bits" else {"INVALID_ARGUMENT", "OK"}), statuses
    assert server.process.poll() is None
    np.testing.assert_array_equal(caller.infer(answer.plan_id, message), expected)


def test_ordinary_clients_call_tails(server: Running, caller: Caller) -> None:
    answer = caller.plan("net", middle())
    split = split_of(profile(), answer)
    with torch.no_grad():
        payload = split.head(X)
        expected = split(X).numpy()
    with triton.InferenceServerClient(f"localhost:{server.port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("net")
        assert client.is_model_ready("net", answer.plan_id)
        assert not client.is_model_ready("net", "f" * 32)
        assert not client.is_model_ready("other")
        described = client.get_model_metadata("net", answer.plan_id, as_json=True)
        assert [each["name"] for each in described["inputs"]] == list(plan_of(answer).cut)
        given = []
        for each, value in zip(described["inputs"], payload, strict=True):
            given.append(triton.InferInput(each["name"], list(value.shape), each["datatype"]))
            given[-1].set_data_from_numpy(value.numpy())
        (name,) = [each["name"] for each in described["outputs"]]
        found = client.infer("net", given, answer.plan_id).as_numpy(name)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        message = np.frombuffer(split.pack_activation(payload), np.uint8)
        packed = triton.InferInput("message", [len(message)], "UINT8")
        packed.set_data_from_numpy(message)
        outputs = [triton.InferRequestedOutput(name)]
        found = client.infer("net", [packed], answer.plan_id, outputs=outputs).as_numpy(name)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_ordinary_clients_call_whole_models(server: Running) -> None:
    expected = profile().graph(X).detach().numpy()

    async def ask() -> Any:
        async with triton_aio.InferenceServerClient(f"localhost:{server.port}") as client:
            described = await client.get_model_metadata("net", as_json=True)
            (taken,), (given,) = described["inputs"], described["outputs"]
            assert taken["shape"] == ["-1", "3", "8", "8"]
            x = triton_aio.InferInput(taken["name"], [3, 3, 8, 8], taken["datatype"])
            x.set_data_from_numpy(X.numpy())
            return (await client.infer("net", [x])).as_numpy(given["name"])

    np.testing.assert_allclose(asyncio.run(ask()), expected, rtol=1e-4, atol=1e-5)


def test_ordinary_clients_are_told_their_mistakes(server: Running) -> None:
    with triton.InferenceServerClient(f"localhost:{server.port}") as client:
        (name,) = [each.name for each in client.get_model_metadata("net").inputs]

        def told(shape: list[int], dtype: Any, datatype: str, called: str = name, **options: Any) -> str:
            given = triton.InferInput(called, shape, datatype)
            given.set_data_from_numpy(np.zeros(shape, dtype))
            with pytest.raises(triton.InferenceServerException) as caught:
                client.infer("net", [given], **options)
            assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
            return str(caught.value.message())

        assert "FP32" in told([1, 3, 8, 8], np.float64, "FP64")
        assert name in told([1, 3, 8, 8], np.float32, "FP32", called="other")
        assert "dimensions" in told([3, 8, 8], np.float32, "FP32")
        assert "does not take" in told([1, 4, 8, 8], np.float32, "FP32")
        assert "samples" in told([257, 3, 8, 8], np.float32, "FP32")
        assert "profiled" in told([1, 3, 80, 80], np.float32, "FP32")
        wanted = [triton.InferRequestedOutput("nothing")]
        assert "nothing" in told([1, 3, 8, 8], np.float32, "FP32", outputs=wanted)


@pytest.mark.parametrize("method", ["ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer"])
def test_bytes_that_are_no_message_are_the_callers_mistake(server: Running, caller: Caller, method: str) -> None:
    said = len(server.lines)
    status, words = refused(caller.channel.unary_unary(f"/inference.GRPCInferenceService/{method}"), b"\x0a\xff")
    assert (status, words) == ("INVALID_ARGUMENT", "the bytes are no message of this method")
    assert not [line for line in server.lines[said:] if "Traceback" in line]


def test_mutations_of_all_messages_harm_nobody() -> None:
    """``python -m benchmarks.serving.fuzz`` sends as many as are wished."""
    found = fuzz(1000)
    assert (found.wrong, found.ended) == ([], False)
    assert sum(counts.total() for counts in found.statuses.values()) == 1000


def test_health_is_what_starters_of_servers_ask(caller: Caller) -> None:
    assert caller.channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x01"


def test_models_come_change_and_go_while_it_runs(tmp_path: Path, catalog: Path) -> None:
    with running(tmp_path) as server:
        caller = Caller(server.port)
        assert refused(caller.plan, "net", middle())[0] == "NOT_FOUND"
        shutil.copy(catalog / "net.qpart", tmp_path / "copy")
        (tmp_path / "copy").rename(tmp_path / "net.qpart")
        server.wait_for("model found", model="net")
        before = caller.plan("net", middle())
        profile(1).save(tmp_path / "net.qpart")
        server.wait_for("model replaced", model="net")
        assert refused(caller.head, before.plan_id)[0] == "NOT_FOUND"
        after = caller.plan("net", middle(), holds=before.head_hash, known=before)
        assert after.model_hash != before.model_hash
        assert plan_of(after) == without_prices(profile(1).plan(middle()))
        (tmp_path / "net.qpart").unlink()
        server.wait_for("model removed", model="net")
        assert refused(caller.plan, "net", middle())[0] == "NOT_FOUND"


def test_a_stop_finishes_what_was_taken(catalog: Path) -> None:
    with running(catalog, "--max-delay-ms", "3000", "--max-batch", "256") as server:
        caller = Caller(server.port)
        answer = caller.plan("net", middle())
        split = split_of(profile(), answer)
        message = split.pack_activation(split.head(X))
        expected = caller.infer(answer.plan_id, message)
        statuses: list[str] = []

        def call() -> None:
            try:
                np.testing.assert_allclose(caller.infer(answer.plan_id, message), expected, rtol=1e-4, atol=1e-5)
                statuses.append("OK")
            except grpc.RpcError as error:
                statuses.append(refusal(error)[0])

        threads = [threading.Thread(target=call) for _ in range(40)]
        for thread in threads:
            thread.start()
        server.process.send_signal(signal.SIGTERM)
        taken = server.wait_for("stopping")["waiting"]
        for thread in threads:
            thread.join()
        assert server.process.wait(PATIENCE_S) == 0
        assert set(statuses) <= {"OK", "UNAVAILABLE"}, statuses
        assert len(statuses) == 40
        assert statuses.count("OK") >= taken


def test_a_planner_that_dies_is_replaced(catalog: Path) -> None:
    with running(catalog) as server:
        caller = Caller(server.port)
        answer = caller.plan("net", middle())
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        if not children.exists():
            pytest.skip("needs /proc")
        for child in children.read_text().split():
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(int(child), signal.SIGKILL)
        assert caller.plan("net", middle(max_accuracy_drop=0.3)).plan_id
        assert caller.head(answer.plan_id)[0] == "head"


def test_an_interrupt_ends_it_too(catalog: Path) -> None:
    with running(catalog) as server:
        assert server.stop(signal.SIGINT) == 0
        assert not [line for line in server.lines if "Traceback" in line or "leaked" in line]


def test_too_many_calls_are_told_when_to_come_again(catalog: Path) -> None:
    with running(catalog, "--queue", "2", "--max-batch", "1") as server:
        caller = Caller(server.port)
        answer = caller.plan("net", middle())
        split = split_of(profile(), answer)
        x = images(200)
        message = split.pack_activation(split.head(x))
        expected = split(x).detach().numpy()
        statuses: list[str] = []

        def call() -> None:
            try:
                (found,) = caller.infer(answer.plan_id, message)
                np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
                statuses.append("OK")
            except grpc.RpcError as error:
                status, words, metadata = refusal(error)
                assert "overloaded" in words
                assert float(metadata["retry-after"]) > 0
                statuses.append(status)

        with ThreadPoolExecutor(64) as pool:
            for _ in range(400):
                pool.submit(call)
        assert set(statuses) == {"OK", "RESOURCE_EXHAUSTED"}
        assert len(statuses) == 400


def test_large_messages_are_refused(catalog: Path) -> None:
    with running(catalog, "--max-message-mb", "1") as server:
        caller = Caller(server.port)
        answer = caller.plan("net", middle())
        assert refused(caller.infer, answer.plan_id, bytes(2 << 20))[0] == "RESOURCE_EXHAUSTED"
