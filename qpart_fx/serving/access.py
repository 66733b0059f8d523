"""Who may call, which models, and how often.

A file of tokens is JSON, and holds hashes of tokens, so that who reads it cannot call:

    {"clients": [{"name": "camera", "token_sha256": "9f86d0...", "models": ["digits"]}]}

``models``: names, or ``"*"`` for all. ``"calls_per_s": 100`` may be added. A token should be 32 random bytes in
hexadecimal, as ``openssl rand -hex 32`` makes them; ``printf %s TOKEN | sha256sum`` is its hash.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc import StatusCode

from ..errors import RequestError
from ..serving_protocol import AUTHORIZATION, BEARER
from .refusal import Refused, overloaded

_MOST_BUCKETS = 10_000

_BURST_S = 1.0
"""So many seconds' worth of calls may come at once."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Client:
    """``name``: as logs and limits know it. ``models``: that it may use, None for all. ``calls_per_s``: None for the
    server's own limit."""

    name: str
    models: frozenset[str] | None = None
    calls_per_s: float | None = None

    def require(self, model: str) -> None:
        """Refuse a model that it may not use, whether there is one or not.

        Raises:
            Refused: it may not.
        """
        if self.models is not None and model not in self.models:
            raise Refused(StatusCode.PERMISSION_DENIED, f"this token does not open the model {model[:128]!r}")


class Access:
    """Lets calls in, or not.

    Args:
        tokens: the file of tokens; None to let everybody in, by the address.
        calls_per_s: of one client, None for no limit.

    Raises:
        RequestError: the file cannot be read, or is malformed.
    """

    def __init__(self, tokens: Path | None = None, calls_per_s: float | None = None) -> None:
        self._path, self._calls_per_s = tokens, calls_per_s
        self._state: tuple[int, int] | None = None
        self._clients: dict[bytes, Client] | None = None
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self.refresh()

    def refresh(self) -> bool:
        """Read the file again if it has changed; returns whether it has. A token that is no longer in it opens nothing.

        Raises:
            RequestError: as above; what was read before stays.
        """
        if self._path is None:
            return False
        try:
            found = self._path.stat()
            state = found.st_mtime_ns, found.st_size
            if state == self._state:
                return False
            self._clients = _clients(json.loads(self._path.read_bytes()))
        except (OSError, ValueError, RecursionError) as error:
            if isinstance(error, RequestError):
                raise
            raise RequestError(f"--tokens {self._path}: {getattr(error, 'strerror', None) or error}") from error
        self._state = state
        return True

    def admit(self, metadata: Mapping[str, Any], peer: str) -> Client:
        """Who calls.

        Args:
            metadata: of the call.
            peer: what the caller is known by without a token: the name in its certificate, or its address.

        Raises:
            Refused: the token is missing or unknown, or this client has called too often.
        """
        client = Client(peer) if self._clients is None else self._holder(self._clients, metadata.get(AUTHORIZATION))
        rate = self._calls_per_s if client.calls_per_s is None else client.calls_per_s
        if rate is not None:
            self._count(client.name, rate)
        return client

    @staticmethod
    def _holder(clients: Mapping[bytes, Client], authorization: Any) -> Client:
        """The client whose token it is. All are compared, and by their hashes: how long that takes says nothing."""
        given = authorization if isinstance(authorization, str) else ""
        digest = hashlib.sha256(given.removeprefix(BEARER).encode()).digest()
        found = None
        for known, client in clients.items():
            if hmac.compare_digest(known, digest):
                found = client
        if found is None or not given.startswith(BEARER):
            raise Refused(StatusCode.UNAUTHENTICATED, "a bearer token that is known here is needed")
        return found

    def _count(self, name: str, rate: float) -> None:
        """Take one call from the client's bucket, which fills at ``rate``."""
        now, most = time.monotonic(), max(rate * _BURST_S, 1.0)
        left, since = self._buckets.pop(name, (most, now))
        left = min(left + (now - since) * rate, most)
        self._buckets[name] = (left - 1 if left >= 1 else left), now
        if len(self._buckets) > _MOST_BUCKETS:
            self._buckets.popitem(last=False)
        if left < 1:
            raise overloaded(f"this client may call {rate:g} times a second", (1 - left) / rate)


def _clients(record: Any) -> dict[bytes, Client]:
    rows = record.get("clients") if isinstance(record, dict) and record.keys() == {"clients"} else None
    if not isinstance(rows, list):
        raise RequestError('--tokens: the file is no object of the form {"clients": [...]}')
    found: dict[bytes, Client] = {}
    for place, row in enumerate(rows):
        digest, client = _client(row, f"--tokens: clients[{place}]")
        if digest in found or any(client.name == other.name for other in found.values()):
            raise RequestError(f"--tokens: clients[{place}]: its name or token is another's as well")
        found[digest] = client
    return found


def _client(row: Any, where: str) -> tuple[bytes, Client]:
    known = {"name", "token_sha256", "models", "calls_per_s"}
    if not isinstance(row, dict) or not {"name", "token_sha256", "models"} <= row.keys() <= known:
        raise RequestError(
            f"{where}: it has the fields name, token_sha256, models, and at most calls_per_s beside them"
        )
    name, digest, models, rate = row["name"], row["token_sha256"], row["models"], row.get("calls_per_s")
    if not isinstance(name, str) or not 0 < len(name) <= 128:
        raise RequestError(f"{where}.name: it is no text of 1 to 128 characters")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise RequestError(f"{where}.token_sha256: it is no SHA-256 in lower-case hexadecimal")
    if models != "*" and not (isinstance(models, list) and all(isinstance(each, str) for each in models)):
        raise RequestError(f'{where}.models: it is neither a list of names nor "*"')
    if rate is not None and not (type(rate) in (int, float) and 0 < rate < 1e9):
        raise RequestError(f"{where}.calls_per_s: it is no number above 0")
    return bytes.fromhex(digest), Client(name, None if models == "*" else frozenset(models), rate)
