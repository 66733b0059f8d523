"""Several servers of one catalog: a plan that one made is the other's too, once it is told; nobody is believed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from qpart_fx.device import Client, HeadRuntime, Tls, unpack_arrays
from qpart_fx.errors import RequestError
from qpart_fx.head_update import apply_update
from qpart_fx.serving_protocol import (
    CALL,
    HASH,
    HEAD_METHOD,
    INFER_METHOD,
    INTRODUCES,
    KIND,
    PLAN,
    PLAN_METHOD,
    UNKNOWN,
    HeadQuery,
    Introduction,
    PlanAnswer,
    PlanQuery,
    build_outputs,
)
from tests.networks import images

from .certificates import authority
from .running import PATIENCE_S, REQUEST, Caller, Running, profile, refusal, running, split_of, token_row, write_tokens

X = images(3, seed=5)
TOKEN, NARROW = "wide-token-of-32-characters-or-more", "narrow-token-of-32-characters-or-more"


@pytest.fixture(scope="module")
def servers(catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Running]]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens.json"
    write_tokens(tokens, token_row("wide", TOKEN, "*"), token_row("narrow", NARROW, ["net"]))
    with ExitStack() as stack:
        one, other = (stack.enter_context(running(catalog, "--tokens", str(tokens))) for _ in range(2))
        yield one, other


@pytest.fixture(scope="module")
def callers(servers: tuple[Running, Running]) -> tuple[Caller, Caller]:
    one, other = (Caller(server.port, token=TOKEN) for server in servers)
    return one, other


def asked(bits: int) -> Any:
    """A request for a plan of such weights, which no other test asks for."""
    return replace(REQUEST, max_accuracy_drop=0.5, device=replace(REQUEST.device, weight_bits=(bits,)))


def introduction(answer: PlanAnswer, model: str = "net", **changes: Any) -> Introduction:
    return replace(Introduction(model, answer.model_hash, answer.plan), **changes)


def introduced(
    caller: Caller, method: str, message: bytes, said: bytes, *metadata: tuple[str, str], size: str | None = None
) -> tuple[bytes, dict[str, Any]]:
    """The answer to a message behind an introduction, and all metadata that come with it."""
    sent = (*caller.metadata, *metadata, (INTRODUCES, str(len(said)) if size is None else size))
    if method == HEAD_METHOD:
        stream = caller.channel.unary_stream(method)(said + message, metadata=sent, timeout=PATIENCE_S)
        return b"".join(stream), dict(stream.initial_metadata())
    answer, call = caller.channel.unary_unary(method).with_call(said + message, metadata=sent, timeout=PATIENCE_S)
    return answer, dict(call.trailing_metadata())


def infer(caller: Caller, answer: PlanAnswer, message: bytes, said: bytes, size: str | None = None) -> Any:
    metadata = (PLAN, answer.plan_id), (CALL, "a call")
    found, _ = introduced(caller, INFER_METHOD, message, said, *metadata, size=size)
    return build_outputs(answer.outputs, unpack_arrays(found))


def status(call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **options)
    return refusal(caught.value)[0]


def test_a_plan_has_the_same_id_and_head_everywhere(callers: tuple[Caller, Caller]) -> None:
    one, other = (caller.plan("net", asked(7)) for caller in callers)
    assert one == other
    assert callers[0].head(one.plan_id) == callers[1].head(one.plan_id)


def test_a_server_runs_the_tail_of_a_plan_that_it_is_told(callers: tuple[Caller, Caller]) -> None:
    maker, other = callers
    answer = maker.plan("net", asked(8))
    split = split_of(profile(), answer)
    message = split.pack_activation(split.head(X))
    assert status(other.infer, answer.plan_id, message) == "NOT_FOUND"
    found = infer(other, answer, message, introduction(answer).encode())
    np.testing.assert_allclose(found, split(X).detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(other.infer(answer.plan_id, message)[0], found, rtol=1e-4, atol=1e-5)


def test_a_server_sends_the_head_of_a_plan_that_it_is_told(callers: tuple[Caller, Caller]) -> None:
    maker, other = callers
    answer = maker.plan("net", asked(9))
    assert status(other.head, answer.plan_id) == "NOT_FOUND"
    query = HeadQuery(answer.plan_id).encode()
    content, said = introduced(other, HEAD_METHOD, query, introduction(answer).encode())
    assert (said[KIND], said[HASH]) == ("head", answer.head_hash)
    assert hashlib.sha256(content).hexdigest() == answer.head_hash


def test_a_server_updates_a_head_that_it_is_told_of(callers: tuple[Caller, Caller]) -> None:
    maker, other = callers
    held = maker.plan("net", replace(REQUEST, max_accuracy_drop=0.2))
    _, content = maker.head(held.plan_id)
    query = PlanQuery("net", json.loads(replace(REQUEST, max_accuracy_drop=0.001).to_json()), held.head_hash).encode()
    packed, call = other.channel.unary_unary(PLAN_METHOD).with_call(query, metadata=other.metadata, timeout=PATIENCE_S)
    said = dict(call.trailing_metadata())
    assert said[UNKNOWN] == held.head_hash
    assert PlanAnswer.decode(packed, said[HASH]).update_bytes is None
    packed, said = introduced(other, PLAN_METHOD, query, introduction(held).encode())
    wanted = PlanAnswer.decode(packed, said[HASH])
    assert UNKNOWN not in said
    kind, update = other.head(wanted.plan_id, held.head_hash)
    assert (kind, len(update)) == ("update", wanted.update_bytes)
    assert hashlib.sha256(apply_update(content, update)).hexdigest() == wanted.head_hash


def test_what_is_introduced_is_not_believed(callers: tuple[Caller, Caller]) -> None:
    maker, other = callers
    answer = maker.plan("net", asked(10))
    split = split_of(profile(), answer)
    message = split.pack_activation(split.head(X))
    layers = [dict(layer) for layer in answer.plan["layers"]]
    layers[0] |= {"bits": 2, "resolution": 2.0}
    lies = {
        "another plan": introduction(answer, plan={**answer.plan, "layers": layers}),
        "no plan": introduction(answer, plan={"format": "qpart.plan"}),
        "a cut that does not exist": introduction(answer, plan={**answer.plan, "cut": ["nowhere"]}),
        "another model": introduction(answer, "other"),
        "no model": introduction(answer, "../net"),
        "another version": introduction(answer, model_hash="0" * 64),
    }
    found = {name: status(infer, other, answer, message, lie.encode()) for name, lie in lies.items()}
    assert found == dict.fromkeys(lies, "NOT_FOUND")
    said = introduction(answer).encode()
    for size in ("0", "-1", "x", "99999999", str(len(said) + len(message) + 1), str(len(said) - 1)):
        assert status(infer, other, answer, message, said, size) == "INVALID_ARGUMENT"
    bomb = Introduction("net", "0" * 64, {"plan": "0" * (1 << 21)}).encode()
    assert status(infer, other, answer, message, bomb) == "INVALID_ARGUMENT"
    assert infer(other, answer, message, said).shape == (3, 4)


def test_a_plan_opens_no_model_that_the_token_does_not(servers: tuple[Running, Running]) -> None:
    maker, wide, narrow = (
        Caller(server.port, token=token)
        for server, token in ((servers[0], TOKEN), (servers[1], TOKEN), (servers[1], NARROW))
    )
    answer = maker.plan("other", asked(12))
    said = introduction(answer, "other").encode()
    split = split_of(profile(), answer)
    message = split.pack_activation(split.head(X))
    query = PlanQuery("net", json.loads(REQUEST.to_json()), answer.head_hash).encode()
    assert status(infer, narrow, answer, message, said) == "PERMISSION_DENIED"
    assert status(introduced, narrow, HEAD_METHOD, HeadQuery(answer.plan_id).encode(), said) == "PERMISSION_DENIED"
    assert status(introduced, narrow, PLAN_METHOD, query, said) == "PERMISSION_DENIED"
    assert infer(wide, answer, message, said).shape == (3, 4)
    assert status(infer, narrow, answer, message, said) == "PERMISSION_DENIED"


def test_a_device_takes_tokens_to_several_servers_of_its_machine(servers: tuple[Running, Running]) -> None:
    target = "ipv4:" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
    with Client(target, "net", REQUEST, token=TOKEN, timeout_s=PATIENCE_S, replanning=None) as client:
        for _ in range(6):
            answer = client.answer(X.numpy())
            assert answer.source == "server"
    with pytest.raises(RequestError, match="readable on the way"):
        Client("ipv4:127.0.0.1:1,10.0.0.1:1", "net", REQUEST, token=TOKEN)


def test_a_plan_made_under_load_is_every_server_s(catalog: Path) -> None:
    """With prices that follow the load, the same query leads to other plans; the id stands for one."""
    with running(catalog, "--price-by-load") as server, running(catalog) as other:
        answer = Caller(server.port).plan("net", replace(REQUEST, server=replace(REQUEST.server, price_per_s=0.5)))
        split = split_of(profile(), answer)
        dear = {**answer.plan, "cost": 7.5, "objective": 9.5, "prices": {**answer.plan["prices"], "server_cost": 7.5}}
        found = infer(Caller(other.port), answer, split.pack_activation(split.head(X)), introduction(
            answer, plan=dear).encode())  # fmt: skip
        np.testing.assert_allclose(found, split(X).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_several_servers_over_tls(catalog: Path, tmp_path: Path) -> None:
    ours = authority(tmp_path, "ours")
    certificate, key = ours.sign("server")
    options = ("--tls-cert", str(certificate), "--tls-key", str(key))
    with running(catalog, *options) as one, running(catalog, *options) as other:
        target = f"ipv4:127.0.0.1:{one.port},127.0.0.1:{other.port}"
        tls = Tls(ca=ours.certificate, server_name="localhost")
        with Client(target, "net", REQUEST, tls=tls, timeout_s=PATIENCE_S, replanning=None) as client:
            assert {client.answer(X.numpy()).source for _ in range(6)} == {"server"}


def test_heads_are_read_by_those_that_run_them(callers: tuple[Caller, Caller]) -> None:
    answer = callers[0].plan("net", asked(11))
    _, head = callers[0].head(answer.plan_id)
    message = HeadRuntime(head).message(X.numpy())
    expected = split_of(profile(), answer)(X).detach().numpy()
    found = infer(callers[1], answer, message, introduction(answer).encode())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
