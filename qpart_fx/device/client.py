"""A device's client: called as the model is, it answers with the head here and the tail on a server.

    client = Client("server:8001", "mobilenet", request, cache="heads", fallback="whole_model.qpart")
    logits = client(image)

Each call ends, within its time, in exactly one answer: the server's, or the fallback's, or an
:class:`~qpart_fx.errors.Unavailable`. What the server says is looked at first; an answer that is damaged, or to another
call, is none.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ArtifactError, RequestError
from ..serving_protocol import build_outputs
from .arrays import Array
from .breaker import Breaker, State
from .failure import Failure, Kind
from .fallback import Fallback, LocalModel
from .head_cache import HeadCache
from .holdings import Holdings, Served
from .keeper import LASTING, Keeper, as_error
from .link_meter import LinkEstimate, LinkMeter
from .replanning import Replanning
from .transport import Tls, Transport

if TYPE_CHECKING:
    from ..plan import Plan
    from ..request import Request

_TRIES = 3
"""Of one call whose connection breaks, or whose answer is damaged, while there is time."""

_OWN_SHARE = 0.5
"""Of its time, that a call has to leave the server before being late says something about it."""


@dataclass(frozen=True)
class Answer:
    """``outputs``: the model's, in its own structure, as numpy arrays. ``source``: who answered; the device by itself
    where the plan gives it all of the model. ``plan_id``: the plan of an answer that is no fallback's. ``seconds``: the
    whole call. ``sent_bytes``, ``received_bytes``: of the server's answer, the message and what came back. ``tries``:
    how often the server was asked. ``why``: what was wrong with the server."""

    outputs: Any
    source: Literal["server", "device", "fallback"]
    plan_id: str | None
    seconds: float
    sent_bytes: int
    received_bytes: int
    tries: int
    why: str | None


class Client:
    """Asks the server at ``target`` for a plan and a head in the background, from the moment that it is made; may be
    called from many threads, and as a context manager closes itself.

    Args:
        target: ``"host:port"``, or several servers of one catalog as ``"ipv4:10.0.0.1:8001,10.0.0.2:8001"``: calls take
            turns over those that can be reached, and one that comes back is used again.
        model: its name in the server's catalog.
        request: what the plan has to meet. Its ``link`` is where to begin: it is measured while calls go on.
        cache: the folder of a :class:`HeadCache`, which keeps heads for the next start and for other processes.
        token: sent with each call, or a function that returns it.
        tls: how the connection is encrypted; None for not at all.
        fallback: what answers when the server does not: a function of arrays, or the file of a whole model's head. None
            to wait for the server while there is time, and to raise then.
        timeout_s: of one call, seconds; the fallback's own time comes on top of it.
        replanning: when to ask for another plan since the link has changed; None for never.
        refresh_s: seconds after which the plan is asked for again in any case: the server's price, or the model, may
            have changed. None for never.
        threads: that a head may use; by default as many as there are cores.

    Raises:
        RequestError: an argument makes no sense.
        ArtifactError: the fallback's file cannot be used.
        MissingDependencyError: grpc is not installed.
    """

    def __init__(
        self,
        target: str,
        model: str,
        request: Request,
        *,
        cache: HeadCache | str | Path | None = None,
        token: str | Callable[[], str] | None = None,
        tls: Tls | None = None,
        fallback: Fallback | None = None,
        timeout_s: float = 5.0,
        replanning: Replanning | None = Replanning(),  # noqa: B008  # immutable
        refresh_s: float | None = 60.0,
        threads: int | None = None,
    ) -> None:
        if not 0.0 < timeout_s < 1e6:
            raise RequestError(f"timeout_s = {timeout_s}: give seconds above 0")
        if refresh_s is not None and not refresh_s > 0.0:
            raise RequestError(f"refresh_s = {refresh_s}: give seconds above 0, or None for never")
        self._model, self._timeout_s = model, timeout_s
        self._fallback = None if fallback is None else LocalModel(fallback, threads=threads)
        self._meter = LinkMeter(request.link.downlink_bps / request.link.uplink_bps)
        self._breaker = Breaker()
        self._has_waited = False  # in vain, for the first plan
        self._transport = Transport(target, token=token, tls=tls)
        cache = cache if isinstance(cache, HeadCache | None) else HeadCache(cache)
        self._holdings = Holdings(self._transport, model, request, cache=cache, meter=self._meter, threads=threads)
        self._keeper = Keeper(
            self._transport,
            self._holdings,
            request.link,
            meter=self._meter,
            breaker=self._breaker,
            replanning=replanning,
            refresh_s=refresh_s,
        )
        self._finalizer = weakref.finalize(self, _close, self._keeper, self._transport)

    def __call__(self, *args: Array, **kwargs: Array) -> Any:
        """The model's output for arrays, given as the model is called.

        Raises:
            RequestError: they are not what the model takes.
            Unavailable: no server answers in time, and there is no fallback; a
                :class:`~qpart_fx.errors.RefusedError` or an InfeasibleError where asking again would not help.
        """
        return self.answer(*args, **kwargs).outputs

    def answer(self, *args: Array, **kwargs: Array) -> Answer:
        """The model's output, and where it comes from.

        Raises:
            As a call.
        """
        start = time.monotonic()
        until = start + self._timeout_s
        message: tuple[Served, bytes] | None = None
        why: Failure | None = None
        tries = 0
        while (served := self._turn(until)) is not None:
            if (alone := served.answer.alone) is not None:
                values = served.head(*args, **kwargs)
                outputs = build_outputs(served.outputs, [values[place] for place in alone])
                return Answer(outputs, "device", served.answer.plan_id, time.monotonic() - start, 0, 0, 0, None)
            try:
                if message is None or message[0] is not served:
                    message = served, served.head.message(*args, uplink_bps=self._uplink_bps(served), **kwargs)
                tries, given_s = tries + 1, until - time.monotonic()
                introduces = served.introducing.next()
                outputs, received = self._asked(served, message[1], given_s, introduces)
            except Failure as failure:
                why = failure
                if not self._goes_on(served, failure, tries, given_s, introduced=introduces is not None):
                    break
            except BaseException:
                self._keeper.undecided()
                raise
            else:
                seconds = time.monotonic() - start
                size, words = len(message[1]), None if why is None else str(why)
                return Answer(outputs, "server", served.answer.plan_id, seconds, size, received, tries, words)
        reason = why or self._reason()
        if self._fallback is None:
            raise as_error(reason, self._model)
        last = self._holdings.answer
        outputs = self._fallback(None if last is None else last.outputs, args, kwargs)
        return Answer(outputs, "fallback", None, time.monotonic() - start, 0, 0, tries, str(reason))

    def prepare(self, timeout_s: float = 60.0) -> Plan:
        """Wait until there is a plan and its head is here; returns the plan.

        Raises:
            Unavailable: there is none within ``timeout_s`` seconds; or as a call.
        """
        until = time.monotonic() + timeout_s
        with self._keeper.changed:
            while (served := self._keeper.served) is None:
                left = until - time.monotonic()
                if left <= 0.0 or self._keeper.closed or self._is_refused():
                    raise as_error(self._reason(), self._model)
                self._keeper.changed.wait(left)
            return served.plan

    @property
    def plan(self) -> Plan | None:
        """The one in use; None before the first."""
        served = self._keeper.served
        return None if served is None else served.plan

    @property
    def link(self) -> LinkEstimate:
        """As it was measured so far."""
        return self._meter.estimate

    @property
    def is_well(self) -> bool:
        """Whether calls go to the server."""
        return self._keeper.served is not None and self._breaker.state is State.CLOSED

    def close(self) -> None:
        """Stop. Calls under way end in the fallback, or are unavailable."""
        self._finalizer()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _turn(self, until: float) -> Served | None:
        """What to ask the server with; None where it should not be asked: it is not well, and there is a fallback or no
        more time. Without a fallback it is worth waiting for."""
        with self._keeper.changed:
            while not self._keeper.closed:
                served = self._keeper.served
                left = until - time.monotonic()
                if left <= 0.0:
                    self._has_waited = served is None
                    return None
                if served is not None and (served.answer.alone is not None or self._breaker.admits()):
                    self._has_waited = False
                    return served
                if served is None and self._has_waited and self._fallback is not None:
                    return None
                if self._breaker.state is not State.CLOSED and (self._fallback is not None or self._is_refused()):
                    return None
                self._keeper.changed.wait(left)
        return None

    def _asked(self, served: Served, message: bytes, timeout_s: float, introduces: bytes | None) -> tuple[Any, int]:
        """The model's output from the server, and the bytes of its answer.

        Raises:
            Failure: there is none.
        """
        reply = self._transport.infer(served.answer.plan_id, message, timeout_s, introduces)
        try:
            outputs = build_outputs(served.outputs, reply.values)
        except ArtifactError as error:
            raise Failure(Kind.BROKEN, str(error)) from None
        self._meter.sent(len(message), reply.received, reply.seconds, reply.server_s)
        self._keeper.worked()
        self._keeper.transferred()
        return outputs, reply.received

    def _goes_on(self, served: Served, failure: Failure, tries: int, given_s: float, *, introduced: bool) -> bool:
        """Whether a call whose server failed, which had ``given_s`` seconds and ``introduced`` its plan or did not,
        asks again once it is its turn. The keeper is told what it has to know."""
        keeper = self._keeper
        match failure.kind:
            case Kind.FORGOTTEN:
                keeper.undecided()
                if introduced:  # and still it is none of the server's
                    keeper.forgotten(served)
                else:
                    served.introducing.forgotten()
                return True
            case Kind.OVERLOADED if tries < self._transport.servers and self._breaker.state is State.CLOSED:
                return True  # another one may have time
            case Kind.UNFIT:  # the link may have altered the message; or else it is this one alone that is no good
                keeper.undecided()
                return tries < 2
            case Kind.BROKEN if tries < _TRIES and self._breaker.state is State.CLOSED:
                return True
            case Kind.LATE if given_s < self._timeout_s * _OWN_SHARE:
                keeper.undecided()
                return False
        keeper.failed(failure)
        return True

    def _uplink_bps(self, served: Served) -> float:
        return self._meter.estimate.uplink_bps or served.link.uplink_bps

    def _reason(self) -> Failure:
        why = self._breaker.why
        return why if isinstance(why, Failure) else Failure(Kind.LATE, "no plan has come yet")

    def _is_refused(self) -> bool:
        return self._breaker.state is State.OPEN and self._reason().kind in LASTING


def _close(keeper: Keeper, transport: Transport) -> None:
    keeper.close()
    transport.close()
    keeper.join()
