"""Who is let in: certificates, tokens, rates; and that nothing secret is written down."""

from __future__ import annotations

import hashlib
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from qpart_fx.cli import main

from .certificates import Authority
from .running import REQUEST, Caller, Running, refusal, running, token_row, write_tokens

TOKEN, NARROW, SLOW = (f"{word}-token-of-32-characters-or-more" for word in ("wide", "narrow", "slow"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens.json"
    rows = [
        token_row("wide", TOKEN, "*"),
        token_row("narrow", NARROW, ["net"]),
        token_row("slow", SLOW, "*", calls_per_s=1e-3),
    ]
    write_tokens(path, *rows)
    return path


@pytest.fixture(scope="module")
def server(catalog: Path, ours: Authority, tokens: Path) -> Iterator[Running]:
    certificate, key = ours.sign("server")
    options = ("--tls-cert", str(certificate), "--tls-key", str(key), "--tokens", str(tokens), "--metrics-port", "0")
    with running(catalog, *options) as found:
        yield found


def trusting(who: Authority) -> object:
    return grpc.ssl_channel_credentials(who.certificate.read_bytes())


def status_of(caller: Caller, model: str = "net") -> str:
    try:
        caller.plan(model, REQUEST)
    except grpc.RpcError as error:
        return refusal(error)[0]
    return "OK"


def test_a_token_opens_the_models_that_it_names(server: Running, ours: Authority) -> None:
    wide, narrow = (Caller(server.port, trusting(ours), token) for token in (TOKEN, NARROW))
    assert [status_of(wide), status_of(wide, "other"), status_of(wide, "none")] == ["OK", "OK", "NOT_FOUND"]
    assert [status_of(narrow), status_of(narrow, "other"), status_of(narrow, "none")] == [
        "OK", "PERMISSION_DENIED", "PERMISSION_DENIED",
    ]  # fmt: skip
    of_other = wide.plan("other", REQUEST)
    for call in (lambda: narrow.head(of_other.plan_id), lambda: narrow.infer(of_other.plan_id, b"")):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert refusal(caught.value)[0] == "PERMISSION_DENIED"


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN[:-1], TOKEN + "x", NARROW.upper()])
def test_other_tokens_open_nothing(server: Running, ours: Authority, token: str | None) -> None:
    assert status_of(Caller(server.port, trusting(ours), token)) == "UNAUTHENTICATED"


def test_every_method_asks_for_a_token(server: Running, ours: Authority) -> None:
    from tritonclient.grpc import service_pb2 as pb
    from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

    channel = Caller(server.port, trusting(ours)).channel
    stub = GRPCInferenceServiceStub(channel)
    calls = [
        lambda: channel.unary_unary("/qpart.v1.QPart/Plan")(b""),
        lambda: list(channel.unary_stream("/qpart.v1.QPart/Head")(b"")),
        lambda: channel.unary_unary("/qpart.v1.QPart/Infer")(b""),
        lambda: stub.ServerMetadata(pb.ServerMetadataRequest()),
        lambda: stub.ModelReady(pb.ModelReadyRequest(name="net")),
        lambda: stub.ModelMetadata(pb.ModelMetadataRequest(name="net")),
        lambda: stub.ModelInfer(pb.ModelInferRequest(model_name="net")),
    ]
    call: Any
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert refusal(caught.value)[0] == "UNAUTHENTICATED"


def test_a_client_that_calls_too_often_is_told_when_to_come_again(server: Running, ours: Authority) -> None:
    slow = Caller(server.port, trusting(ours), SLOW)
    assert status_of(slow) == "OK"
    with pytest.raises(grpc.RpcError) as caught:
        slow.plan("net", REQUEST)
    status, _, metadata = refusal(caught.value)
    assert status == "RESOURCE_EXHAUSTED"
    assert float(metadata["retry-after"]) > 1


def test_a_token_that_is_taken_out_of_the_file_opens_nothing(catalog: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    write_tokens(path, token_row("one", TOKEN, "*"))
    with running(catalog, "--tokens", str(path)) as server:
        caller = Caller(server.port, token=TOKEN)
        assert status_of(caller) == "OK"
        path.write_text("{")
        server.wait_for("cannot look for changes")
        assert status_of(caller) == "OK"
        path.write_text(json.dumps({"clients": []}))
        server.wait_for("tokens read again")
        assert status_of(caller) == "UNAUTHENTICATED"


def test_without_tls_or_with_another_authority_nobody_gets_through(
    server: Running, ours: Authority, theirs: Authority
) -> None:
    assert status_of(Caller(server.port, token=TOKEN)) == "UNAVAILABLE"
    assert status_of(Caller(server.port, trusting(theirs), TOKEN)) == "UNAVAILABLE"


def test_clients_show_certificates_where_these_are_asked_for(catalog: Path, ours: Authority, theirs: Authority) -> None:
    certificate, key = ours.sign("server2")
    options = ("--tls-cert", str(certificate), "--tls-key", str(key), "--client-ca", str(ours.certificate))
    with running(catalog, *options) as server:
        for signed_by, status in ((ours, "OK"), (theirs, "UNAVAILABLE"), (None, "UNAVAILABLE")):
            pair: tuple[bytes | None, bytes | None] = (None, None)
            if signed_by is not None:
                certificate, key = signed_by.sign("device")
                pair = key.read_bytes(), certificate.read_bytes()
            credentials = grpc.ssl_channel_credentials(ours.certificate.read_bytes(), *pair)
            assert status_of(Caller(server.port, credentials)) == status


def test_neither_tokens_nor_payloads_are_logged_or_counted(server: Running, ours: Authority) -> None:
    caller = Caller(server.port, trusting(ours), TOKEN)
    answer = caller.plan("net", REQUEST)
    secret = b"a payload that nobody should read"
    with pytest.raises(grpc.RpcError):
        caller.infer(answer.plan_id, secret)
    serving = next(json.loads(line) for line in server.lines if '"serving"' in line)
    with urllib.request.urlopen(f"http://127.0.0.1:{serving['metrics_port']}/metrics") as page:
        metrics = page.read().decode()
    assert 'qpart_calls_total{code="INVALID_ARGUMENT",method="Infer"}' in metrics
    assert "qpart_queue_calls 0.0" in metrics
    for text in ("\n".join(server.lines), metrics):
        assert TOKEN not in text
        assert secret.decode() not in text
        assert hashlib.sha256(TOKEN.encode()).hexdigest() not in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tls-cert", "x.pem"], "--tls-key"),
        (["--tls-cert", "x.pem", "--tls-key", "y.pem"], "x.pem|y.pem"),
        (["--client-ca", "x.pem"], "--tls-cert"),
        (["--tokens", "none.json"], "none.json"),
        (["--host", "0.0.0.0", "--tokens", "none.json"], "without TLS"),
        (["--queue", "0"], "--queue"),
        (["--port", "70000"], "--port"),
        (["--max-delay-ms", "-1"], "--max-delay-ms"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(tmp_path), *options]) == 1
    said = capsys.readouterr().err
    assert any(each in said for each in words.split("|"))


def test_a_catalog_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path / "nothing")]) == 1
    assert "nothing" in capsys.readouterr().err
