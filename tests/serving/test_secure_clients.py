"""The client against ``qpart serve`` as it should be run: over TLS, with certificates of its own, with tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qpart_fx.device import Client, RefusedError, Tls, Unavailable
from tests.networks import images
from tests.serving.certificates import Authority
from tests.serving.running import PATIENCE_S, REQUEST, Running, profile, running, token_row, write_tokens

TOKEN, OTHER, NEW = (f"{word}-token-of-32-characters-or-more" for word in ("right", "other", "new"))

X = images(2, seed=3)

IN_VAIN_S = 2.0
"""For clients that nobody lets in."""


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens.json"
    write_tokens(path, token_row("one", TOKEN, "*"))
    return path


@pytest.fixture(scope="module")
def server(catalog: Path, ours: Authority, tokens: Path) -> Iterator[Running]:
    """That wants certificates and tokens of its clients."""
    certificate, key = ours.sign("server")
    options = "--tls-cert", certificate, "--tls-key", key, "--client-ca", ours.certificate, "--tokens", tokens
    with running(catalog, *map(str, options)) as found:
        yield found


@pytest.fixture(scope="module")
def tls(ours: Authority) -> Tls:
    certificate, key = ours.sign("device")
    return Tls(ca=ours.certificate, certificate=certificate, key=key)


def client_of(server: Running, **others: Any) -> Client:
    given: dict[str, Any] = {"token": TOKEN, "replanning": None, "timeout_s": PATIENCE_S} | others
    return Client(f"localhost:{server.port}", "net", REQUEST, **given)


def require_right(client: Client) -> None:
    """That it answers as the split of its plan does."""
    found = client(X.numpy())
    assert client.plan is not None
    with torch.no_grad():
        expected = profile().compile(client.plan, progress=False)(X).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_device_with_certificate_and_token_is_answered(server: Running, tls: Tls) -> None:
    with client_of(server, tls=tls) as client:
        require_right(client)
    with client_of(server, tls=tls, token=lambda: f"{TOKEN}\n") as client:  # as it stands in a file
        require_right(client)


@pytest.mark.parametrize("token", [None, OTHER, TOKEN[:-1]])
def test_a_device_without_the_right_token_is_refused(server: Running, tls: Tls, token: str | None) -> None:
    with client_of(server, tls=tls, token=token) as client, pytest.raises(RefusedError, match="bearer token"):
        client(X.numpy())


def test_a_device_without_the_right_token_has_its_fallback(server: Running, tls: Tls) -> None:
    with client_of(server, tls=tls, token=OTHER, fallback=len) as client:
        answer = client.answer(X.numpy())
    assert (answer.source, answer.outputs) == ("fallback", len(X))
    assert "bearer token" in str(answer.why)


def made_tls(kind: str, ours: Authority, theirs: Authority) -> Tls:
    """Of a device that should not be let in, or that should not trust the server."""
    if kind == "none":
        return Tls(ca=ours.certificate)
    if kind == "another authority for the server":
        certificate, key = ours.sign("device2")
        return Tls(ca=theirs.certificate, certificate=certificate, key=key)
    certificate, key = theirs.sign("device3") if kind == "foreign" else ours.sign("device4", days=-1)
    return Tls(ca=ours.certificate, certificate=certificate, key=key)


@pytest.mark.parametrize("kind", ["none", "foreign", "expired", "another authority for the server"])
def test_a_device_with_a_wrong_certificate_gets_nothing(
    server: Running, ours: Authority, theirs: Authority, kind: str
) -> None:
    with client_of(server, tls=made_tls(kind, ours, theirs), timeout_s=IN_VAIN_S) as client:
        with pytest.raises(Unavailable, match="no server answers"):
            client(X.numpy())
        assert client.plan is None


def test_a_server_that_does_not_encrypt_gets_nothing(server: Running, catalog: Path, tls: Tls) -> None:
    with running(catalog) as unencrypted:
        for target, given in ((unencrypted, tls), (server, None)):  # nor does a device that does not
            with client_of(target, tls=given, timeout_s=IN_VAIN_S) as client, pytest.raises(Unavailable):
                client(X.numpy())


@pytest.mark.parametrize(("name", "days"), [("expired", -1), ("elsewhere", 2)])
def test_a_server_whose_certificate_is_none_gets_nothing(catalog: Path, ours: Authority, name: str, days: int) -> None:
    certificate, key = ours.sign(name, days=days)
    with running(catalog, "--tls-cert", str(certificate), "--tls-key", str(key)) as server:
        wrong_name = None if name == "expired" else "elsewhere.example"
        tls = Tls(ca=ours.certificate, server_name=wrong_name)
        with client_of(server, tls=tls, timeout_s=IN_VAIN_S) as client, pytest.raises(Unavailable):
            client(X.numpy())


def test_a_token_may_change_while_all_runs(catalog: Path, ours: Authority, tmp_path: Path) -> None:
    """On the server first: the device falls back; then on the device, which goes on without a new start."""
    certificate, key = ours.sign("server2")
    listed, held = tmp_path / "tokens.json", tmp_path / "token"
    write_tokens(listed, token_row("one", TOKEN, "*"))
    held.write_text(TOKEN)
    options = "--tls-cert", certificate, "--tls-key", key, "--tokens", listed
    with running(catalog, *map(str, options)) as server:
        tls = Tls(ca=ours.certificate)
        with client_of(server, tls=tls, token=lambda: held.read_text(), fallback=len, timeout_s=5.0) as client:
            client.prepare()
            require_right(client)
            write_tokens(listed, token_row("one", NEW, "*"))
            server.wait_for("tokens read again")
            assert client.answer(X.numpy()).source == "fallback"
            held.write_text(NEW)
            wait_until(lambda: client.answer(X.numpy()).source == "server")
            require_right(client)


def test_a_model_that_a_token_does_not_open_is_refused(catalog: Path, ours: Authority, tmp_path: Path) -> None:
    certificate, key = ours.sign("server3")
    write_tokens(tmp_path / "tokens.json", token_row("one", TOKEN, ["other"]))
    options = "--tls-cert", certificate, "--tls-key", key, "--tokens", tmp_path / "tokens.json"
    with running(catalog, *map(str, options)) as server:
        client = client_of(server, tls=Tls(ca=ours.certificate))
        with client, pytest.raises(RefusedError, match="does not open"):
            client(X.numpy())
