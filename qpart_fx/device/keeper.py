"""Keeps a device's plan and head up to date in the background: at the start, when the link has changed, when the
server has forgotten the plan, after a failure, and every so often. Calls go on with what there is meanwhile."""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import ArtifactError, InfeasibleError, QPartError, RefusedError, RequestError, Unavailable
from .breaker import Breaker, State
from .failure import Failure, Kind
from .holdings import Holdings, Served
from .link_meter import LinkMeter
from .replanning import Replanning
from .transport import Transport

if TYPE_CHECKING:
    from ..request import Link

_LOG = logging.getLogger("qpart_fx.device")

_PINGS = 3
"""Of each look: most of those that the meter counts, so that they say how late a busy server is now."""

_PING_S = 2.0
_PLAN_S, _REFRESH_S = 60.0, 20.0
"""For the first plan, and for another one: the server may have to make its head first."""

_LEAST_GAP_S = 0.5
"""Between queries for plans because of the link."""

_QUIET_S = 2.0
"""For calls under way to end before the link is measured: pings that wait behind one's own messages say nothing."""

_LEAST_DOUBT_S = 2.0
"""Between measurements because messages are too short to tell how fast the link is."""

_LONGEST_WAIT_S = 3600.0

LASTING = {Kind.REFUSED, Kind.INFEASIBLE, Kind.FORGOTTEN, Kind.UNFIT}
"""What a query for a plan ends in where the server will not have it, now or in a second."""

_LASTING_REST_S = 5.0

_PROBE_BYTES, _PROBE_S = 60 * 1024, 0.2
"""Of the padding that measures the uplink: what takes so long at the rate believed in, so many bytes at most."""


class Keeper:
    """A thread that asks the server; what it finds is in ``served``, what goes wrong in ``breaker``.

    Args:
        link: to ask the first plan for.
        refresh_s: seconds after which the plan is asked for again though nothing happened; None for never.
    """

    def __init__(
        self,
        transport: Transport,
        holdings: Holdings,
        link: Link,
        *,
        meter: LinkMeter,
        breaker: Breaker,
        replanning: Replanning | None,
        refresh_s: float | None,
    ) -> None:
        self._transport, self._holdings = transport, holdings
        self._meter, self._breaker = meter, breaker
        self._replanning, self._refresh_s = replanning, refresh_s
        self.changed = threading.Condition()
        self._served: Served | None = None
        self._link = link  # to ask a plan for
        self._wanted = True
        self._unmeasured = False  # whether nothing was sent since the last look
        self._was_unfit = False
        self._closed = False
        self._looked = time.monotonic()
        self._next_look = math.inf
        self._thread = threading.Thread(target=self._run, name="qpart-keeper", daemon=True)
        self._thread.start()

    @property
    def served(self) -> Served | None:
        """What is to be used now; None before the first plan."""
        return self._served

    @property
    def closed(self) -> bool:
        return self._closed

    def transferred(self) -> None:
        """The meter knows more: ask for another plan if the link is not what the plan in use was made for, and measure
        it if it may be none of what is known."""
        doubtful = self._meter.doubtful and self._replanning is not None
        self._unmeasured = self._unmeasured and doubtful
        since = time.monotonic() - self._looked
        if self._wanted or since < _LEAST_GAP_S:
            return
        if doubtful and since >= _LEAST_DOUBT_S:
            _LOG.info("messages are too short to tell how fast the link is: measuring it")
            self._unmeasured = True
        elif self._changed_link() is not None:
            _LOG.info("the link is now %s: asking for another plan", self._meter.estimate)
        else:
            return
        with self.changed:
            self._wanted = True
            self.changed.notify_all()

    def forgotten(self, served: Served) -> None:
        """The server does not know the plan of ``served`` any more."""
        with self.changed:
            if self._served is served:
                self._served = None
                self._wanted = True
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
            self._is_there = False
            try:
                self._look()
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
                else:
                    left = 0.0 if self._wanted else self._next_look - time.monotonic()
                if left <= 0.0:
                    self._wanted, self._looked = False, time.monotonic()
                    return True
                self.changed.wait(min(left, _LONGEST_WAIT_S))
            return False

    def _look(self) -> None:
        """At the server, for a plan, which becomes the one in use.

        Raises:
            Failure: there is none.
            ArtifactError: it is of no use.
        """
        self._transport.ping(_PING_S)  # which may have to connect first
        with self._transport.link.measured(_QUIET_S) as alone:
            pings = [self._transport.ping(_PING_S) for _ in range(_PINGS if alone or self._served is None else 0)]
            self._meter.pinged(*pings)
            self._is_there = True
            measure, self._unmeasured = self._unmeasured or not self._meter.tells, True
            if measure and self._replanning is not None and self._served is not None:
                self._measure(self._served)
        self._plan(self._changed_link() or self._link)
        self._look_again(self._refresh_s)

    def _measure(self, served: Served) -> None:
        """The uplink, with more bytes as long as it turns out to be faster than they can tell.

        Raises:
            Failure: the server does not answer.
        """
        size = 0
        while size < _PROBE_BYTES:
            bps = self._meter.estimate.uplink_bps or served.link.uplink_bps
            size = int(min(_PROBE_BYTES, max(bps / 8 * _PROBE_S, 2 * size)))
            if self._holdings.measure(served, size, _REFRESH_S):
                return

    def _changed_link(self) -> Link | None:
        """What the link was measured to be, if that is not what the plan in use was made for."""
        served = self._served
        if served is None or self._replanning is None:
            return None
        return self._replanning.wanted(self._meter.estimate, served.link)

    def _plan(self, link: Link) -> None:
        served = self._served
        try:
            made = self._holdings.plan(link, served, _PLAN_S if served is None else _REFRESH_S)
        except Failure as failure:
            if failure.kind is not Kind.INFEASIBLE or served is None:
                raise
            _LOG.info("no plan meets the request on this link, and the one in use stays: %s", failure)
            made = replace(served, link=link)
        if served is None or made.answer.plan_id != served.answer.plan_id:
            size, cut = made.answer.head_bytes, ", ".join(made.plan.cut)
            _LOG.info("the plan in use: cut at %s, head of %d bytes", cut, size)
        with self.changed:
            self._served, self._link = made, link
            self.changed.notify_all()

    def _look_again(self, after_s: float | None) -> None:
        """The server is there: calls may go to it, and it is looked at again after some seconds, or never."""
        with self.changed:
            self._next_look = math.inf if after_s is None else time.monotonic() + after_s
            self._breaker.looks_well()
            self.changed.notify_all()

    def _fell(self, failure: Failure) -> None:
        """The server was looked at, and there is no plan of it."""
        if self._closed:
            return
        if failure.kind is Kind.UNFIT and not self._was_unfit:  # once, it may be the link that altered the query
            self._was_unfit, failure = True, Failure(Kind.BROKEN, str(failure))
        else:
            self._was_unfit = failure.kind is Kind.UNFIT
        if self._breaker.why is None or str(self._breaker.why) != str(failure):
            _LOG.info("no plan from the server: %s", failure)
        if self._is_there and self._served is not None:  # one that cannot plan now may run tails all the same
            self._look_again(max(failure.rest_s, _LASTING_REST_S))
            return
        self._breaker.still_bad(failure, rest_s=failure.rest_s or (_LASTING_REST_S if failure.kind in LASTING else 0))
        with self.changed:
            self._wanted = self._wanted or self._served is None
            self.changed.notify_all()


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
