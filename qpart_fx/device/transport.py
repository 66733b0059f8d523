"""Calls to the server: each ends within its time, with an answer that has been looked at, or a :class:`Failure`."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import serving_protocol as protocol
from ..errors import ArtifactError, MissingDependencyError, RequestError
from ..serving_protocol import HeadQuery, PlanAnswer, PlanQuery
from .arrays import unpack_arrays
from .failure import Failure, Kind
from .quiet_link import QuietLink

try:
    import grpc
except ModuleNotFoundError as error:
    raise MissingDependencyError("a device's client", extra="device") from error

_PING = "/inference.GRPCInferenceService/ServerLive"

_MAX_ANSWER = 1 << 28
_STALL_S = 20.0
"""A stream of which nothing has come for so long is given up."""

_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection
    ("grpc.enable_retries", 0),  # who calls decides
    ("grpc.lb_policy_name", "round_robin"),  # over all addresses of the target, but for the dead ones
    ("grpc.max_receive_message_length", _MAX_ANSWER),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


@dataclass(frozen=True)
class Tls:
    """How a connection is encrypted. ``ca``: a file of PEM certificates that the server's is to be signed by; by
    default those that the system trusts. ``certificate``, ``key``: files with the device's own, where the server wants
    one. ``server_name``: the name in the server's certificate, where it is not the target's."""

    ca: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None
    server_name: str | None = None

    def credentials(self) -> Any:
        """For grpc.

        Raises:
            RequestError: a file cannot be read, or one of certificate and key is missing.
        """
        if (self.certificate is None) != (self.key is None):
            raise RequestError("Tls: certificate and key belong together, and one of them is missing")
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.certificate))


@dataclass(frozen=True)
class Planned:
    """The server's answer to a query. ``seconds``: without the server's own. ``knows_held``: whether it knows whose
    the head is that the device holds."""

    answer: PlanAnswer
    seconds: float
    knows_held: bool


@dataclass(frozen=True)
class Reply:
    """The server's answer to a call of the tail: ``values``, in the order of the model's outputs."""

    values: tuple[Any, ...]
    received: int
    seconds: float
    """Without the server's own."""
    server_s: float


class Transport:
    """A connection, made anew after each failure, so that nothing waits on one that is dead without knowing.

    Args:
        target: of grpc: ``"host:port"``, or several as ``"ipv4:10.0.0.1:8001,10.0.0.2:8001"``. Calls take turns over
            those that can be reached.
        token: sent with each call, or a function that returns it.
        tls: None for no encryption; only then with a token if the server is on this machine.

    Attributes:
        servers: that the target names; behind a name of DNS there may be more.
        link: which calls of the tail keep from using while it is measured.

    Raises:
        RequestError: a token over an open connection to another machine; or what :meth:`Tls.credentials` raises.
    """

    def __init__(self, target: str, *, token: str | Callable[[], str] | None = None, tls: Tls | None = None) -> None:
        if token is not None and tls is None and not _is_local(target):
            raise RequestError(f"a token to {target} without TLS is readable on the way: give tls=Tls(...)")
        self._target, self._token = target, token
        self.servers = target.count(",") + 1
        self._credentials = None if tls is None else tls.credentials()
        name = None if tls is None else tls.server_name
        self._options = _OPTIONS if name is None else (*_OPTIONS, ("grpc.ssl_target_name_override", name))
        self._lock = threading.Lock()
        self._connection: _Connection | None = None
        self._closed = False
        self.link = QuietLink()

    def ping(self, timeout_s: float) -> float:
        """Seconds that a call without a message takes.

        Raises:
            Failure: the server is not there.
        """
        start = time.perf_counter()
        with self._call() as connection:
            connection.unary(_PING)(b"", timeout=timeout_s, metadata=self._metadata())
        return time.perf_counter() - start

    def plan(
        self,
        query: PlanQuery,
        known: PlanAnswer | None,
        timeout_s: float,
        *,
        introduces: bytes | None = None,
        padding: int = 0,
    ) -> Planned:
        """The answer to ``query``, whose ``knows`` is ``known``.

        Args:
            introduces: the plan of the head that the query holds, as an :class:`~.serving_protocol.Introduction`.
            padding: bytes without meaning that are sent too.

        Raises:
            Failure: there is none.
        """
        said, sent = _introduced(query.padded(padding) if padding else query.encode(), introduces)
        start = time.perf_counter()
        with self._call() as connection:
            packed, call = connection.unary(protocol.PLAN_METHOD).with_call(
                sent, timeout=timeout_s, metadata=self._metadata(*said)
            )
            seconds = time.perf_counter() - start
            metadata = _metadata_of(call)
            if packed is None:  # where the link altered what the frames are
                raise Failure(Kind.BROKEN, "the answer is empty")
            if metadata.get(protocol.CHECK) != protocol.check_of(sent):
                raise Failure(Kind.BROKEN, "the query was altered on its way")
            against = known.text if known is not None and metadata.get(protocol.KNOWN) == known.hash else b""
            answer = PlanAnswer.decode(packed, metadata.get(protocol.HASH, ""), against)
            seconds = max(seconds - _seconds(metadata.get(protocol.SERVER_S)), 0.0)
            return Planned(answer, seconds, protocol.UNKNOWN not in metadata)

    def head(self, answer: PlanAnswer, holds: str | None, introduces: bytes | None = None) -> Download:
        """What makes the head of the plan ``answer`` out of the one with the hash ``holds``.

        Args:
            introduces: the plan, for a server that does not know it.

        Raises:
            Failure: it has not come whole.
        """
        said, sent = _introduced(HeadQuery(answer.plan_id, holds).encode(), introduces)
        with self._call() as connection:
            stream = connection.stream(protocol.HEAD_METHOD)(sent, metadata=self._metadata(*said))
            watch = _Watch(stream.cancel)
            try:
                return _downloaded(stream, watch, answer)
            except grpc.RpcError:
                if watch.barked:
                    raise Failure(Kind.LATE, f"nothing of the head has come for {_STALL_S:g} s") from None
                raise
            finally:
                watch.stop()
                stream.cancel()

    def infer(self, plan_id: str, message: bytes, timeout_s: float, introduces: bytes | None = None) -> Reply:
        """The tail's answer to ``message``.

        Args:
            introduces: the plan, for a server that does not know it.

        Raises:
            Failure: there is none within ``timeout_s``, or it is not an answer to this call.
        """
        key = uuid.uuid4().hex
        said, sent = _introduced(message, introduces)
        metadata = self._metadata((protocol.PLAN, plan_id), (protocol.CALL, key), *said)
        with self.link.used(timeout_s) as left_s, self._call() as connection:
            start = time.perf_counter()
            answer, call = connection.unary(protocol.INFER_METHOD).with_call(sent, timeout=left_s, metadata=metadata)
            seconds = time.perf_counter() - start
            told = _metadata_of(call)
            if (
                answer is None
                or told.get(protocol.CALL) != key
                or told.get(protocol.CHECK) != protocol.check_of(answer)
            ):
                raise Failure(Kind.BROKEN, "the answer is to another call")
            server_s = min(_seconds(told.get(protocol.SERVER_S)), seconds)
            return Reply(unpack_arrays(answer), len(answer), seconds - server_s, server_s)

    def close(self) -> None:
        """Calls under way fail."""
        with self._lock:
            self._closed, connection, self._connection = True, self._connection, None
        if connection is not None:
            connection.channel.close()

    @contextmanager
    def _call(self) -> Iterator[_Connection]:
        """A connection for one call. One that failed is used no more."""
        connection = self._borrow()
        try:
            yield connection
        except grpc.RpcError as error:
            failure = _failure(error)
            if failure.kind in (Kind.BROKEN, Kind.LATE, Kind.UNFIT):
                self._drop(connection)
            raise failure from None
        except ArtifactError as error:
            self._drop(connection)
            raise Failure(Kind.BROKEN, str(error)) from None
        except Failure:
            self._drop(connection)
            raise
        except ValueError as error:  # of grpc, where the channel was closed meanwhile
            raise Failure(Kind.BROKEN, f"the connection was closed: {error}") from None
        finally:
            self._give_back(connection)

    def _borrow(self) -> _Connection:
        with self._lock:
            if self._closed:
                raise Failure(Kind.BROKEN, "the client is closed")
            if self._connection is None:
                self._connection = _Connection(self._channel())
            self._connection.users += 1
            return self._connection

    def _give_back(self, connection: _Connection) -> None:
        with self._lock:
            connection.users -= 1
            idle = connection.users == 0 and connection is not self._connection
        if idle:
            connection.channel.close()

    def _drop(self, connection: _Connection) -> None:
        """Other calls that are under way on it go on; whoever ends last closes it."""
        with self._lock:
            if self._connection is connection:
                self._connection = None

    def _channel(self) -> Any:
        if self._credentials is None:
            return grpc.insecure_channel(self._target, self._options)
        return grpc.secure_channel(self._target, self._credentials, self._options)

    def _metadata(self, *others: tuple[str, str]) -> tuple[tuple[str, str], ...]:
        try:
            token = self._token() if callable(self._token) else self._token
        except Exception as error:  # of the caller's function
            raise Failure(Kind.BROKEN, f"the token cannot be had: {error}") from error
        return others if token is None else (*others, (protocol.AUTHORIZATION, f"{protocol.BEARER}{token.strip()}"))


class _Connection:
    """A channel, and how many calls are under way on it."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.users = 0
        self._methods: dict[str, Any] = {}

    def unary(self, method: str) -> Any:
        """A method of bytes to bytes."""
        if method not in self._methods:
            self._methods[method] = self.channel.unary_unary(method)
        return self._methods[method]

    def stream(self, method: str) -> Any:
        return self.channel.unary_stream(method)


class _Watch:
    """Calls ``bark`` unless it is patted every so often."""

    def __init__(self, bark: Callable[[], Any]) -> None:
        self.barked = False
        self._bark = bark
        self._patted = threading.Event()
        self._stopped = False
        threading.Thread(target=self._run, name="qpart-watch", daemon=True).start()

    def pat(self) -> None:
        self._patted.set()

    def stop(self) -> None:
        self._stopped = True
        self._patted.set()

    def _run(self) -> None:
        while self._patted.wait(_STALL_S):
            if self._stopped:
                return
            self._patted.clear()
        self.barked = True
        self._bark()


@dataclass(frozen=True)
class Download:
    """``kind`` as :mod:`~qpart_fx.serving_protocol` calls it. ``timed``: bytes that came after the first chunk, and
    the seconds they took."""

    kind: str
    content: bytes
    timed: tuple[int, float]


def _downloaded(stream: Any, watch: _Watch, answer: PlanAnswer) -> Download:
    metadata = dict(stream.initial_metadata() or ())
    watch.pat()
    kind, size = metadata.get(protocol.KIND), metadata.get(protocol.BYTES, "")
    content = bytearray()
    first: tuple[int, float] | None = None
    for chunk in stream:  # raises what the call ended in, if it has no metadata for that
        watch.pat()
        content += chunk
        if len(content) > answer.head_bytes:
            raise Failure(Kind.BROKEN, "the server sends more of the head than there is")
        first = first or (len(content), time.perf_counter())
    if kind not in (protocol.HEAD, protocol.UPDATE, protocol.SAME) or metadata.get(protocol.HASH) != answer.head_hash:
        raise Failure(Kind.BROKEN, "what the server says of the head does not agree with the plan")
    if size != str(len(content)):
        raise Failure(Kind.BROKEN, f"{len(content):,} bytes of {size[:20]} have come of the head")
    timed = (0, 0.0) if first is None else (len(content) - first[0], time.perf_counter() - first[1])
    return Download(kind, bytes(content), timed)


_MEANINGS = {
    "DEADLINE_EXCEEDED": Kind.LATE,
    "RESOURCE_EXHAUSTED": Kind.OVERLOADED,
    "NOT_FOUND": Kind.FORGOTTEN,
    "UNAUTHENTICATED": Kind.REFUSED,
    "PERMISSION_DENIED": Kind.REFUSED,
    "UNIMPLEMENTED": Kind.REFUSED,
    "FAILED_PRECONDITION": Kind.INFEASIBLE,
    "INVALID_ARGUMENT": Kind.UNFIT,
}


def _failure(error: Any) -> Failure:
    code = error.code()
    name = "UNKNOWN" if code is None else code.name
    said = {key: value for key, value in error.trailing_metadata() or () if isinstance(value, str)}
    rest_s = min(_seconds(said.get(protocol.RETRY_AFTER)), 3600.0)
    words = f"{str(error.details() or 'no answer')[:500]} ({name})"
    return Failure(_MEANINGS.get(name, Kind.BROKEN), words, rest_s=rest_s, limit=said.get(protocol.LIMIT))


def _introduced(message: bytes, introduces: bytes | None) -> tuple[tuple[tuple[str, str], ...], bytes]:
    """Metadata, and a message behind the introduction, if there is one."""
    return ((), message) if introduces is None else (
        ((protocol.INTRODUCES, str(len(introduces))),), introduces + message
    )  # fmt: skip


def _metadata_of(call: Any) -> dict[str, str]:
    pairs = (*(call.initial_metadata() or ()), *(call.trailing_metadata() or ()))
    return {key: value for key, value in pairs if isinstance(value, str)}


def _seconds(text: str | None) -> float:
    """A time in metadata; 0 for what is none."""
    try:
        value = float(text or 0.0)
    except ValueError:
        return 0.0
    return value if 0.0 <= value < 1e9 else 0.0


def _is_local(target: str) -> bool:
    hosts = target.removeprefix("dns:").removeprefix("///").removeprefix("ipv4:").removeprefix("ipv6:").split(",")
    known = ("localhost", "127.0.0.1", "::1")
    return target.startswith("unix:") or all(host.rsplit(":", 1)[0].strip("[]") in known for host in hosts)


def _read(path: Path | str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RequestError(f"Tls: cannot read {path}: {error.strerror}") from error
