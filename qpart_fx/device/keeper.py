"""Keeps a device's plan and head up to date in the background: at the start, when the link has changed, when the
server has forgotten the plan, after a failure, and every so often. Calls go on with what there is meanwhile."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import serving_protocol as protocol
from ..container import deflate
from ..errors import ArtifactError, InfeasibleError, QPartError, RefusedError, RequestError, Unavailable
from ..head_update import apply_update
from ..plan import Plan
from ..serving_protocol import PlanAnswer, PlanQuery
from .breaker import Breaker, State
from .head_cache import HeadCache, hash_of
from .link_meter import LinkMeter
from .replanning import Replanning
from .runtime import HeadRuntime
from .transport import Failure, Kind, Transport

if TYPE_CHECKING:
    from ..request import Link, Request

_LOG = logging.getLogger("qpart_fx.device")

_PINGS = 2
_PING_S = 2.0
_PLAN_S = 60.0
"""For a plan: the server may have to make its head first."""

LASTING = {Kind.REFUSED, Kind.INFEASIBLE, Kind.FORGOTTEN, Kind.UNFIT}
"""What a query for a plan ends in where the server will not have it, now or in a second."""

_LASTING_REST_S = 5.0

_PROBE_BYTES, _PROBE_S = 48 * 1024, 0.2
"""Of the padding that measures the uplink: what takes so long at the rate believed in, so many bytes at most."""


@dataclass(frozen=True, eq=False)
class Served:
    """All that a call needs: swapped as one."""

    answer: PlanAnswer
    plan: Plan
    head: HeadRuntime
    link: Link
    """That the plan was made for."""

    @property
    def outputs(self) -> Mapping[str, Any]:
        return self.answer.outputs


class Keeper:
    """A thread that asks the server; what it finds is in ``served``, what goes wrong in ``breaker``.

    Args:
        name: what the cache knows plans for this request by.
        refresh_s: seconds after which the plan is asked for again though nothing happened; None for never.
    """

    def __init__(
        self,
        transport: Transport,
        model: str,
        request: Request,
        *,
        cache: HeadCache | None,
        name: str,
        meter: LinkMeter,
        breaker: Breaker,
        replanning: Replanning | None,
        refresh_s: float | None,
        threads: int | None,
    ) -> None:
        self._transport, self._model, self._request = transport, model, request
        self._cache, self._name, self._meter, self._breaker = cache, name, meter, breaker
        self._replanning, self._refresh_s, self._threads = replanning, refresh_s, threads
        self._fields: dict[str, Any] = json.loads(request.to_json())
        self.changed = threading.Condition()
        self._served: Served | None = None
        self._head: bytes | None = None
        self._wanted: Link | None = None
        self._was_unfit = False
        self._planned_for = request.link
        self._asked = True  # at the start
        self._unmeasured = False  # whether nothing was sent since the last look
        self._closed = False
        self._next_look = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="qpart-keeper", daemon=True)
        self._thread.start()

    @property
    def served(self) -> Served | None:
        """What is to be used now; None before the first plan."""
        return self._served

    @property
    def structure(self) -> Mapping[str, Any] | None:
        """How the model's output is built, as far as any plan said."""
        known = self._known()
        return None if known is None else known.outputs

    @property
    def closed(self) -> bool:
        return self._closed

    def transferred(self) -> None:
        """The meter knows more: ask for another plan if the link is not what the plan in use was made for."""
        served, self._unmeasured = self._served, False
        if self._replanning is None or served is None or self._wanted is not None:
            return
        if (link := self._replanning.wanted(self._meter.estimate, served.link)) is not None:
            _LOG.info("the link is now %s: asking for another plan", self._meter.estimate)
            with self.changed:
                self._wanted = link
                self.changed.notify_all()

    def forgotten(self, served: Served) -> None:
        """The server does not know the plan of ``served`` any more."""
        with self.changed:
            if self._served is served:
                self._served = None
                self._asked = True
            self.changed.notify_all()

    def failed(self, why: Failure) -> None:
        """A call has failed: calls stop, and the server is looked at until it is well."""
        if self._breaker.failed(why, rest_s=why.rest_s or (_LASTING_REST_S if why.kind in LASTING else 0.0)):
            _LOG.info("the server does not answer: %s", why)
        if why.kind is Kind.LATE:  # perhaps it is the link that is slow
            self._meter.forget()
            self._unmeasured = True
        with self.changed:
            self.changed.notify_all()

    def worked(self) -> None:
        """A call was answered."""
        if self._breaker.worked():
            _LOG.info("the server answers again")
            with self.changed:
                self.changed.notify_all()

    def undecided(self) -> None:
        """A call that was admitted says nothing about the server."""
        self._breaker.undecided()
        with self.changed:
            self.changed.notify_all()

    def close(self) -> None:
        with self.changed:
            self._closed = True
            self.changed.notify_all()

    def join(self) -> None:
        """Wait until the thread has ended, but not for long."""
        if threading.current_thread() is not self._thread:
            self._thread.join(5.0)

    def _run(self) -> None:
        while self._wait():
            link = self._take()
            try:
                self._refresh(link)
            except Failure as failure:
                self._fell(failure)
            except ArtifactError as error:  # what came is no head, or is one that this device cannot run
                self._fell(Failure(Kind.BROKEN, str(error)))
            except Exception as error:  # the device must go on, whatever it is
                _LOG.exception("a mistake in qpart_fx: please report it")
                self._fell(Failure(Kind.BROKEN, f"{type(error).__name__}: {error}"))

    def _wait(self) -> bool:
        """Until there is something to do; False when there is nothing any more."""
        with self.changed:
            while not self._closed:
                if self._breaker.state is State.OPEN:
                    left = self._breaker.rests_s
                elif self._asked or self._wanted is not None:
                    left = 0.0
                else:
                    left = self._next_look - time.monotonic() if self._refresh_s is not None else 3600.0
                if left <= 0.0:
                    return True
                self.changed.wait(min(left, 3600.0))
            return False

    def _take(self) -> Link | None:
        with self.changed:
            wanted, self._asked = self._wanted, False
            return wanted

    def _fell(self, failure: Failure) -> None:
        """The server was looked at, and is not well."""
        if self._closed:
            return
        if failure.kind is Kind.UNFIT and not self._was_unfit:  # once, it may be the link that altered the query
            self._was_unfit, failure = True, Failure(Kind.BROKEN, str(failure))
        else:
            self._was_unfit = failure.kind is Kind.UNFIT
        if self._breaker.why is None or str(self._breaker.why) != str(failure):
            _LOG.info("no plan from the server: %s", failure)
        self._breaker.still_bad(failure, rest_s=failure.rest_s or (_LASTING_REST_S if failure.kind in LASTING else 0))
        with self.changed:
            self._wanted = None
            self._asked = self._asked or self._served is None
            self.changed.notify_all()

    def _refresh(self, wanted: Link | None) -> None:
        """Look at the server, ask for a plan, and make it the one in use.

        Raises:
            Failure: the server gives none.
            ArtifactError: what it gives is of no use.
        """
        self._transport.ping(_PING_S)  # which may have to connect first
        for _ in range(_PINGS):
            self._meter.pinged(self._transport.ping(_PING_S))
        with self.changed:
            measure, self._unmeasured = self._unmeasured, True
        link = self._link(wanted)
        self._ask(link)
        if measure and self._replanning is not None and self._served is not None:
            self._measure(self._served)
            if (changed := self._link(None)) != link:
                self._ask(changed)
        with self.changed:
            self._wanted = None
            if self._refresh_s is not None:
                self._next_look = time.monotonic() + self._refresh_s
            self._breaker.looks_well()
            self.changed.notify_all()

    def _link(self, wanted: Link | None) -> Link:
        """The link to plan for: at first the one that was given, then what it was measured to be."""
        served = self._served
        if served is None or self._replanning is None:
            return self._planned_for
        return self._replanning.wanted(self._meter.estimate, served.link) or served.link

    def _ask(self, link: Link) -> None:
        """For a plan of ``link``, which is made the one in use."""
        known, served = self._known(), self._served
        held = self._held(known)
        try:
            answer, _ = self._transport.plan(self._query(link, held, known), known, _PLAN_S)
        except Failure as failure:
            if failure.kind is not Kind.INFEASIBLE or served is None:
                raise
            _LOG.info("no plan meets the request on this link, and the one in use stays: %s", failure)
            self._use(dataclasses.replace(served, link=link), known)
            return
        if served is None or answer.hash != served.answer.hash or link != served.link:
            self._use(self._made(answer, held, link), known)

    def _measure(self, served: Served) -> None:
        """The uplink, by asking once more, with padding."""
        size = int(min(_PROBE_BYTES, served.link.uplink_bps / 8 * _PROBE_S))
        query = self._query(served.link, self._head, served.answer)
        _, seconds = self._transport.plan(query, served.answer, _PLAN_S, padding=size)
        self._meter.sent(size, 0, seconds)

    def _known(self) -> PlanAnswer | None:
        """The last answer, perhaps that of another process before this one."""
        if self._served is not None:
            return self._served.answer
        if self._cache is None:
            return None
        text = self._cache.recall(self._name) or self._cache.recall(self._model)
        if text is None:
            return None
        try:
            return PlanAnswer.decode(deflate(text), hash_of(text))
        except ArtifactError:
            return None

    def _held(self, known: PlanAnswer | None) -> bytes | None:
        """The head's file that the device has."""
        if self._head is None and known is not None and self._cache is not None:
            self._head = self._cache.get(known.head_hash)
        return self._head

    def _query(self, link: Link, held: bytes | None, known: PlanAnswer | None) -> PlanQuery:
        request = self._fields if link == self._request.link else self._fields | {"link": dataclasses.asdict(link)}
        return PlanQuery(
            self._model, request, None if held is None else hash_of(held), None if known is None else known.hash
        )

    def _made(self, answer: PlanAnswer, held: bytes | None, link: Link) -> Served:
        """What ``answer`` says, with its head."""
        plan = Plan.from_json(json.dumps({**answer.plan}))
        if plan.max_accuracy_drop != self._request.max_accuracy_drop:
            raise Failure(Kind.BROKEN, "the plan is for another accuracy than was asked for")
        served = self._served
        if served is not None and served.answer.head_hash == answer.head_hash:
            return Served(answer, plan, served.head, link)
        content = self._fetched(answer, held)
        head = HeadRuntime(content, threads=self._threads)
        self._head = content
        return Served(answer, plan, head, link)

    def _fetched(self, answer: PlanAnswer, held: bytes | None) -> bytes:
        """The head's file of ``answer``: the held one, one from the cache, or downloaded."""
        if held is not None and hash_of(held) == answer.head_hash:
            return held
        if self._cache is not None and (cached := self._cache.get(answer.head_hash)) is not None:
            return cached
        content = None
        if held is not None:
            content = self._downloaded(answer, held)
        if content is None:
            content = self._downloaded(answer, None)
        if content is None:
            raise Failure(Kind.BROKEN, "the head that has come is not the plan's")
        if self._cache is not None:
            self._cache.put(content)
        return content

    def _downloaded(self, answer: PlanAnswer, held: bytes | None) -> bytes | None:
        """None if what has come does not make the head of ``answer``."""
        start = time.perf_counter()
        download = self._transport.head(answer, None if held is None else hash_of(held))
        self._meter.received(*download.timed)
        content: bytes | None = download.content
        try:
            if download.kind == protocol.UPDATE:
                content = None if held is None else apply_update(held, download.content)
            elif download.kind == protocol.SAME:
                content = held
        except ArtifactError as error:
            _LOG.info("an update is of no use here, and the whole head is fetched: %s", error)
            return None
        if content is None or hash_of(content) != answer.head_hash:
            return None
        _LOG.info(
            "fetched a head of %d bytes as %s of %d bytes in %.3f s",
            len(content), download.kind, len(download.content), time.perf_counter() - start,
        )  # fmt: skip
        return content

    def _use(self, served: Served, known: PlanAnswer | None) -> None:
        before = self._served
        with self.changed:
            self._served, self._planned_for = served, served.link
            self.changed.notify_all()
        if before is None or before.answer.plan_id != served.answer.plan_id:
            _LOG.info(
                "the plan in use: cut at %s, head of %d bytes", ", ".join(served.plan.cut), served.answer.head_bytes
            )
        if self._cache is not None and (known is None or known.hash != served.answer.hash):
            self._cache.remember(self._name, served.answer.text)
            self._cache.remember(self._model, served.answer.text)


def as_error(failure: Failure, model: str) -> QPartError:
    """What a caller is told of ``failure``."""
    match failure.kind:
        case Kind.INFEASIBLE if failure.limit is not None:
            return InfeasibleError(str(failure), limit=failure.limit)
        case Kind.REFUSED | Kind.INFEASIBLE:
            return RefusedError(f"the server refuses model '{model}': {failure}")
        case Kind.FORGOTTEN:
            return RefusedError(f"the server has no model '{model}': {failure}")
        case Kind.UNFIT:
            return RequestError(f"the server cannot take the request: {failure}")
    return Unavailable(f"no server answers for model '{model}': {failure}")
