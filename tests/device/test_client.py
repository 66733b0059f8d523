"""The client against a server in this process, which tells the truth, or does not."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import qpart_fx as qpart
from qpart_fx import serving_protocol as protocol
from qpart_fx.device import Client, HeadCache, Replanning, Tls, pack_arrays
from qpart_fx.device.client import Answer
from qpart_fx.device.head_cache import hash_of
from tests.device.fake_server import FakeServer, Misbehaviour
from tests.device.heads import SERVER, network, profile

LINK = qpart.Link(uplink_bps=1e6, downlink_bps=1e6)
DEVICE = qpart.Device(clock_hz=1e9, cycles_per_mac=1)
REQUEST = qpart.Request(0.05, DEVICE, SERVER, LINK, inferences_per_download=1000)
STRICT = qpart.Request(0.001, DEVICE, SERVER, LINK, inferences_per_download=1000)

PATIENCE_S = 60.0
"""Far more than anything here takes: no test may depend on the machine's speed."""


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeServer]:
    server = FakeServer(profile("classifier"))
    yield server
    server.stop()


@pytest.fixture
def server(shared: FakeServer) -> FakeServer:
    shared.misbehaviour = Misbehaviour()
    shared.asked.clear()
    shared.calls.clear()
    shared.queries.clear()
    return shared


def made(server: FakeServer, **others: Any) -> Client:
    given: dict[str, Any] = {"timeout_s": PATIENCE_S, "replanning": None} | others
    return Client(server.address, "model", given.pop("request", REQUEST), **given)


@cache
def pictures() -> NDArray[np.float32]:
    made: NDArray[np.float32] = network("classifier")[1][0].numpy()
    return made


def images(start: int = 0, stop: int = 3) -> NDArray[np.float32]:
    return pictures()[start:stop]


def right(server: FakeServer, answer: Answer, x: NDArray[Any]) -> bool:
    """Whether it is what the split gives, to the last bit."""
    split = server.plans[answer.plan_id or ""].split
    with torch.no_grad():
        return bool(np.array_equal(answer.outputs, split(torch.from_numpy(x)).numpy()))


def lesser(x: NDArray[Any]) -> str:
    return f"the device's own answer for {len(x)}"


# The truth


def test_an_answer_is_the_split_s(server: FakeServer) -> None:
    with made(server) as client:
        for count in (1, 3, 7):
            answer = client.answer(images(0, count))
            assert answer.source == "server"
            assert answer.tries == 1
            assert right(server, answer, images(0, count))
        assert client.plan is not None
        assert client.plan.max_accuracy_drop == REQUEST.max_accuracy_drop
        assert client.is_well


def test_outputs_have_the_model_s_structure() -> None:
    structure = {"dict": [["logits", {"value": 0}], ["hidden", {"value": 1}]]}
    model, (left, right) = network("two inputs")
    known = qpart.profile(model, [{"left": left, "right": right}], progress=False)
    server = FakeServer(known, structure=structure)
    try:
        with made(server) as client:
            answer = client.answer(left[:5].numpy(), right=right[:5].numpy())
            split = server.plans[answer.plan_id or ""].split
            with torch.no_grad():
                expected = split(left[:5], right[:5])
        assert list(answer.outputs) == ["logits", "hidden"]
        assert all(np.array_equal(answer.outputs[name], expected[name].numpy()) for name in expected)
    finally:
        server.stop()


def test_many_threads_get_each_their_own_answer(server: FakeServer) -> None:
    with made(server) as client, ThreadPoolExecutor(8) as pool:
        inputs = [images(place, place + 1 + place % 3) for place in range(30)] * 4
        answers = list(pool.map(client.answer, inputs))
    assert all(right(server, answer, x) for answer, x in zip(answers, inputs, strict=True))
    assert len(set(server.calls)) == len(inputs)


def test_a_wrong_input_is_the_caller_s_mistake(server: FakeServer) -> None:
    with made(server, fallback=lesser) as client:
        for _ in range(3):
            with pytest.raises(qpart.RequestError, match="the head takes"):
                client(images().astype(np.float64))
        assert right(server, client.answer(images()), images())


def test_a_second_start_fetches_no_head(server: FakeServer, tmp_path: Path) -> None:
    with made(server, cache=tmp_path) as client:
        client.prepare()
    assert server.asked.count("Head") == 1
    with made(server, cache=tmp_path) as client:
        assert right(server, client.answer(images()), images())
    assert server.asked.count("Head") == 1
    first, second = server.queries
    assert first.holds is None
    assert second.holds is not None
    answer = next(made.answer for made in server.plans.values() if made.answer.head_hash == second.holds)
    assert len(second.encode()) + len(answer.encode(answer.text)) < 1024


def test_another_request_fetches_the_difference(server: FakeServer, tmp_path: Path) -> None:
    with made(server, cache=tmp_path) as client:
        client.prepare()
    with made(server, cache=tmp_path, request=STRICT) as client:
        assert right(server, client.answer(images()), images())
    assert server.queries[-1].holds == server.plans[server.plans.keys().__iter__().__next__()].answer.head_hash


# Lies


def other_output(answer: bytes) -> bytes:
    return pack_arrays([np.zeros((3, 4), np.float32)] * 2)


def flipped(answer: bytes) -> bytes:
    return answer[:20] + bytes([answer[20] ^ 4]) + answer[21:]


LIES: dict[str, Misbehaviour] = {
    "cut short": Misbehaviour(say=lambda answer: answer[:-3]),
    "altered": Misbehaviour(say=flipped),
    "empty": Misbehaviour(say=lambda answer: b""),
    "no message": Misbehaviour(say=lambda answer: b"no message at all"),
    "more values": Misbehaviour(say=other_output),
    "to another call": Misbehaviour(key=lambda key: "0" * 32),
    "broken": Misbehaviour(refuse={"Infer": (grpc.StatusCode.INTERNAL, "a bug", ())}),
    "unknown": Misbehaviour(refuse={"Infer": (grpc.StatusCode.UNKNOWN, "", ())}),
    "unreadable": Misbehaviour(refuse={"Infer": (grpc.StatusCode.INVALID_ARGUMENT, "no message", ())}),
    "overloaded": Misbehaviour(refuse={"Infer": (grpc.StatusCode.RESOURCE_EXHAUSTED, "later", ())}),
    "stopping": Misbehaviour(refuse={"Infer": (grpc.StatusCode.UNAVAILABLE, "stopping", ())}),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_that_is_none_is_the_fallback_s(server: FakeServer, lie: str) -> None:
    with made(server, fallback=lesser) as client:
        client.prepare()
        server.misbehaviour = LIES[lie]
        for _ in range(5):
            answer = client.answer(images())
            assert (answer.source, answer.outputs) == ("fallback", "the device's own answer for 3")
            assert answer.why
        server.misbehaviour = Misbehaviour()
        recovers(client, server)


def recovers(client: Client, server: FakeServer) -> None:
    """It comes back by itself."""
    pause = threading.Event()
    for _ in range(int(PATIENCE_S / 0.05)):
        answer = client.answer(images())
        if answer.source == "server":
            assert right(server, answer, images())
            return
        pause.wait(0.05)
    raise AssertionError("the client does not recover")


@pytest.mark.parametrize("lie", [lie for lie in LIES if lie != "unreadable"])
def test_without_a_fallback_a_call_waits_for_the_server(server: FakeServer, lie: str) -> None:
    with made(server) as client:
        client.prepare()
        server.misbehaviour = LIES[lie]
        timer = threading.Timer(0.3, setattr, (server, "misbehaviour", Misbehaviour()))
        timer.start()
        answer = client.answer(images())
        assert answer.source == "server"
        assert answer.tries > 1
        assert right(server, answer, images())
        timer.join()


def test_without_a_fallback_what_cannot_be_read_is_said_at_once(server: FakeServer) -> None:
    with made(server) as client:
        client.prepare()
        server.misbehaviour = LIES["unreadable"]
        with pytest.raises(qpart.RequestError, match="no message"):
            client(images())
        server.misbehaviour = Misbehaviour()
        assert right(server, client.answer(images()), images())


def test_a_late_answer_is_none(server: FakeServer) -> None:
    with made(server, timeout_s=0.5, fallback=lesser) as client:
        client.prepare()
        server.misbehaviour = Misbehaviour(delay_s=3.0)
        assert client.answer(images()).source == "fallback"
        assert client.answer(images(0, 2)).outputs == lesser(images(0, 2))
        server.misbehaviour = Misbehaviour()
        recovers(client, server)


def test_a_call_does_not_come_too_late_since_the_link_is_measured(server: FakeServer) -> None:
    with made(server, timeout_s=2.0, fallback=lesser) as client:
        client.prepare()
        with client._transport.link.measured(1.0) as alone:  # as long as it takes
            assert alone
            assert client.answer(images()).source == "server"


def test_without_a_fallback_lateness_is_said(server: FakeServer) -> None:
    with made(server, timeout_s=0.3) as client:
        client.prepare()
        server.misbehaviour = Misbehaviour(delay_s=1.5)
        with pytest.raises(qpart.QPartError, match="no server answers for model 'model'") as caught:
            client(images())
        assert isinstance(caught.value, ConnectionError)


REFUSALS: dict[str, tuple[Any, type[Exception], str]] = {
    "who asks": (
        (grpc.StatusCode.UNAUTHENTICATED, "no token", ()),
        qpart.QPartError,
        "refuses model 'model': no token",
    ),
    "permission": ((grpc.StatusCode.PERMISSION_DENIED, "not you", ()), qpart.QPartError, "not you"),
    "no model": ((grpc.StatusCode.NOT_FOUND, "there is none", ()), qpart.QPartError, "there is none"),
    "infeasible": (
        (grpc.StatusCode.FAILED_PRECONDITION, "deadline_s binds", ((protocol.LIMIT, "deadline_s"),)),
        qpart.InfeasibleError,
        "deadline_s binds",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_said_at_once(server: FakeServer, name: str) -> None:
    refusal, kind, words = REFUSALS[name]
    server.misbehaviour = Misbehaviour(refuse={"Plan": refusal})
    with made(server) as client:
        with pytest.raises(kind, match=words):
            client.prepare(PATIENCE_S)
        with pytest.raises(kind, match=words):
            client(images())
    with made(server, fallback=lesser) as client:
        assert client.answer(images()).source == "fallback"


def test_a_token_that_is_no_longer_good_is_said_at_once(server: FakeServer) -> None:
    with made(server) as client:
        client.prepare()
        server.misbehaviour = Misbehaviour(refuse={"Infer": (grpc.StatusCode.UNAUTHENTICATED, "it has expired", ())})
        with pytest.raises(qpart.QPartError, match="it has expired"):
            client(images())


def test_who_is_asked_to_wait_waits(server: FakeServer) -> None:
    with made(server, fallback=lesser) as client:
        client.prepare()
        later = (grpc.StatusCode.RESOURCE_EXHAUSTED, "later", ((protocol.RETRY_AFTER, "3600"),))
        server.misbehaviour = Misbehaviour(refuse={"Infer": later})
        assert client.answer(images()).source == "fallback"
        server.misbehaviour = Misbehaviour()
        server.asked.clear()
        for _ in range(20):
            assert client.answer(images()).source == "fallback"
        assert not server.asked


def test_a_plan_that_is_forgotten_is_asked_for_again(server: FakeServer) -> None:
    for fallback in (None, lesser):
        with made(server, fallback=fallback) as client:
            client.prepare()
            server.forget()
            answer = client.answer(images())
            assert answer.source == "server"
            assert right(server, answer, images())


# Heads


def damaged_once(server: FakeServer) -> Callable[[bytes], bytes]:
    def spoil(content: bytes) -> bytes:
        server.misbehaviour = Misbehaviour()
        return content[:40] + bytes([content[40] ^ 1]) + content[41:]

    return spoil


def test_a_damaged_head_is_fetched_again(server: FakeServer, tmp_path: Path) -> None:
    server.misbehaviour = Misbehaviour(spoil_head=damaged_once(server))
    with made(server, cache=tmp_path) as client:
        assert right(server, client.answer(images()), images())
    assert server.asked.count("Head") == 2


def test_a_head_cut_short_is_none(server: FakeServer) -> None:
    server.misbehaviour = Misbehaviour(spoil_head=lambda content: content[:-1])
    with made(server, fallback=lesser) as client:
        assert client.answer(images()).source == "fallback"
        assert client.plan is None
        server.misbehaviour = Misbehaviour()
        recovers(client, server)


def test_a_head_larger_than_was_said_is_given_up(server: FakeServer) -> None:
    server.misbehaviour = Misbehaviour(spoil_head=lambda content: content + bytes(1 << 20))
    with made(server, fallback=lesser) as client:
        assert client.answer(images()).source == "fallback"


def test_a_damaged_update_is_replaced_by_the_head(server: FakeServer, tmp_path: Path) -> None:
    with made(server, cache=tmp_path, request=STRICT) as client:
        client.prepare()
    server.asked.clear()
    server.misbehaviour = Misbehaviour(spoil_head=damaged_once(server))
    with made(server, cache=tmp_path) as client:
        assert right(server, client.answer(images()), images())
    assert server.asked.count("Head") <= 2


def test_what_is_damaged_on_the_disk_is_fetched_again(server: FakeServer, tmp_path: Path) -> None:
    cache = HeadCache(tmp_path)
    with made(server, cache=cache) as client:
        client.prepare()
    for path in tmp_path.glob("*.qpart"):
        path.write_bytes(path.read_bytes()[:-1])
    with made(server, cache=cache) as client:
        assert right(server, client.answer(images()), images())
    assert server.asked.count("Head") == 2


def test_a_whole_model_s_head_is_a_fallback(server: FakeServer, tmp_path: Path) -> None:
    known = profile("classifier")
    split = known.compile(known.plan(REQUEST, cut="output"), progress=False)
    path = tmp_path / "whole.qpart"
    path.write_bytes(split.packed_head("onnx"))
    server.misbehaviour = Misbehaviour(refuse={"Plan": (grpc.StatusCode.UNAVAILABLE, "gone", ())})
    with made(server, fallback=path) as client:
        answer = client.answer(images())
    assert answer.source == "fallback"
    with torch.no_grad():
        expected = split(torch.from_numpy(images())).numpy()
    assert np.allclose(answer.outputs, expected, rtol=1e-4, atol=1e-5)


def test_a_device_that_runs_all_of_the_model_sends_nothing() -> None:
    slow = replace(REQUEST, device=qpart.Device(clock_hz=1e12, cycles_per_mac=1), link=qpart.Link(1.0, 1e9))
    server = FakeServer(profile("classifier"))
    server.alone = (0,)
    try:
        with made(server, request=slow) as client:
            answer = client.answer(images())
            split = server.plans[answer.plan_id or ""].split
            assert split.plan is not None
            assert split.plan.cut == ("_6",)  # the last node
            server.stop()
            again = client.answer(images())
        assert (answer.source, again.source) == ("device", "device")
        assert "Infer" not in server.asked
        with torch.no_grad():
            assert np.allclose(again.outputs, split(torch.from_numpy(images())).numpy(), rtol=1e-4, atol=1e-5)
    finally:
        server.stop()


# Another link, another plan


def test_the_stream_goes_on_while_the_plan_changes(server: FakeServer) -> None:
    quick = Replanning(rate_factor=1.0001)
    with made(server, replanning=quick) as client:
        client.prepare()
        until = time.monotonic() + PATIENCE_S
        while len(server.queries) < 2 and time.monotonic() < until:
            for _ in range(3):
                client._meter.sent(100_000, 0, 4.0)  # a link of 200 kbit/s
            answer = client.answer(images())
            assert answer.source == "server"
            assert right(server, answer, images())
        assert len(server.queries) > 1
        assert server.queries[-1].request["link"]["uplink_bps"] == pytest.approx(2e5, rel=0.2)


def test_a_link_on_which_no_plan_is_good_enough_keeps_the_one_there_is(server: FakeServer) -> None:
    with made(server, replanning=Replanning()) as client:
        client.prepare()
        infeasible = (grpc.StatusCode.FAILED_PRECONDITION, "deadline_s", ((protocol.LIMIT, "deadline_s"),))
        server.misbehaviour = Misbehaviour(refuse={"Plan": infeasible})
        for _ in range(3):
            client._meter.sent(100_000, 0, 4.0)
        for _ in range(20):
            assert right(server, client.answer(images()), images())


def test_a_server_that_is_late_with_everything_is_no_slow_link(server: FakeServer) -> None:
    slow = replace(REQUEST, link=qpart.Link(uplink_bps=50e6, downlink_bps=50e6))
    with made(server, request=slow, replanning=Replanning()) as client:
        client.prepare()
        server.misbehaviour = Misbehaviour(late_s=0.2)  # most of which no message of this size takes
        for _ in range(12):
            assert right(server, client.answer(images()), images())
    assert all(query.request["link"]["uplink_bps"] >= 50e6 / 1.5 for query in server.queries)


def test_a_link_that_short_messages_do_not_measure_is_measured(server: FakeServer) -> None:
    slow = replace(REQUEST, link=qpart.Link(uplink_bps=1e5, downlink_bps=1e5))
    with made(server, request=slow, replanning=Replanning()) as client:
        client.prepare()
        until = time.monotonic() + PATIENCE_S
        while server.queries[-1].request["link"]["uplink_bps"] < 1e6 and time.monotonic() < until:
            assert right(server, client.answer(images(0, 1)), images(0, 1))
    assert server.queries[-1].request["link"]["uplink_bps"] >= 1e6


# The end


def test_a_closed_client_answers_no_more(server: FakeServer) -> None:
    client = made(server)
    client.prepare()
    client.close()
    client.close()
    with pytest.raises(qpart.QPartError, match="no server answers"):
        client(images())
    client = made(server, fallback=lesser)
    client.close()
    assert client(images()) == lesser(images())


def test_calls_under_way_end_when_it_closes(server: FakeServer) -> None:
    client = made(server)
    client.prepare()
    server.misbehaviour = Misbehaviour(delay_s=2.0)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(client, images()) for _ in range(4)]
        client.close()
        for call in calls:
            assert isinstance(call.exception(PATIENCE_S), ConnectionError)


def test_a_client_that_nobody_holds_ends(server: FakeServer) -> None:
    client = made(server)
    client.prepare()
    thread = client._keeper._thread
    del client
    gc.collect()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_a_process_ends_though_its_client_waits_for_a_server() -> None:
    work = """
        import qpart_fx as qpart
        from qpart_fx.device import Client
        request = qpart.Request.paper()
        client = Client("127.0.0.1:9", "model", request, fallback=lambda x: "own")
        print(client("x"))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(work)], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert done.stdout == "own\n"
    assert not done.stderr


# Arguments


def test_a_token_goes_over_no_open_link() -> None:
    for target in ("10.0.0.1:8001", "example.com:8001", "ipv4:10.0.0.1:8001", "localhost.example.com:1"):
        with pytest.raises(qpart.RequestError, match="without TLS"):
            Client(target, "model", REQUEST, token="secret")


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(qpart.RequestError, match="timeout_s = 0"):
        Client("localhost:1", "model", REQUEST, timeout_s=0)
    with pytest.raises(qpart.RequestError, match="refresh_s = -1"):
        Client("localhost:1", "model", REQUEST, refresh_s=-1)
    with pytest.raises(qpart.RequestError, match="belong together"):
        Client("localhost:1", "model", REQUEST, tls=Tls(key=tmp_path / "key"))
    with pytest.raises(qpart.RequestError, match="cannot read"):
        Client("localhost:1", "model", REQUEST, tls=Tls(ca=tmp_path / "ca"))
    with pytest.raises(qpart.ArtifactError, match="cannot read"):
        Client("localhost:1", "model", REQUEST, fallback=tmp_path / "none.qpart")


def test_hashes_are_the_protocol_s(server: FakeServer) -> None:
    with made(server) as client:
        client.prepare()
    answer = next(iter(server.plans.values())).answer
    assert hash_of(answer.text) == answer.hash
