"""What a device holds of the server's: the last plan and the head that goes with it, in memory and on its disk, and how
it comes by the next one."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import serving_protocol as protocol
from ..container import deflate
from ..errors import ArtifactError
from ..head_update import apply_update
from ..plan import Plan
from ..serving_protocol import PlanAnswer, PlanQuery
from .failure import Failure, Kind
from .head_cache import HeadCache, hash_of
from .introducing import Introducing
from .link_meter import LinkMeter
from .runtime import HeadRuntime
from .transport import Transport

if TYPE_CHECKING:
    from ..request import Link, Request

_LOG = logging.getLogger("qpart_fx.device")


@dataclass(frozen=True, eq=False)
class Served:
    """All that a call needs: swapped as one."""

    answer: PlanAnswer
    plan: Plan
    head: HeadRuntime
    link: Link
    """That the plan was made for."""
    introducing: Introducing

    @property
    def outputs(self) -> Mapping[str, Any]:
        return self.answer.outputs


class Holdings:
    """Asks for plans and fetches heads, whatever of them is not here.

    Args:
        cache: None to hold nothing but in memory.
        threads: that a head may use.
    """

    def __init__(
        self,
        transport: Transport,
        model: str,
        request: Request,
        *,
        cache: HeadCache | None,
        meter: LinkMeter,
        threads: int | None,
    ) -> None:
        self._transport, self._model, self._request = transport, model, request
        self._cache, self._meter, self._threads = cache, meter, threads
        text = request.to_json()
        self._fields: dict[str, Any] = json.loads(text)
        self._names = f"{model} {text}", model  # what the cache knows the last answer by: the closest one first
        self._answer: PlanAnswer | None = None
        self._head: bytes | None = None  # only where the cache does not have it

    @property
    def answer(self) -> PlanAnswer | None:
        """The last one, perhaps that of another process before this one."""
        if self._answer is None and self._cache is not None:
            for name in self._names:
                text = self._cache.recall(name)
                if text is not None and (answer := _read(text)) is not None:
                    self._answer = answer
                    break
        return self._answer

    def plan(self, link: Link, served: Served | None, timeout_s: float) -> Served:
        """What the server's plan for ``link`` is, with its head; ``served`` itself if that is it.

        Raises:
            Failure: there is none.
            ArtifactError: what has come is no plan or no head, or one that this device cannot run.
        """
        held = self._held()
        query = self._query(link, held)
        planned = self._transport.plan(query, self._answer, timeout_s)
        if held is not None and not planned.knows_held and self._answer is not None:
            words = Introducing(self._model, self._answer).content
            planned = self._transport.plan(query, self._answer, timeout_s, introduces=words)
        answer = planned.answer
        if served is not None and answer.hash == served.answer.hash and link == served.link:
            return served
        plan = Plan.from_json(json.dumps(dict(answer.plan)))
        if plan.max_accuracy_drop != self._request.max_accuracy_drop:
            raise Failure(Kind.BROKEN, "the plan is for another accuracy than was asked for")
        if served is not None and answer.head_hash == served.answer.head_hash:
            head = served.head
        else:
            content = self._fetched(answer, held)
            head = HeadRuntime(content, threads=self._threads)
            if max(answer.alone or (), default=0) >= head.returns:
                raise Failure(Kind.BROKEN, "the head has fewer values than the plan says")
            self._keep(content, answer)
        self._remember(answer)
        return Served(answer, plan, head, link, Introducing(self._model, answer))

    def measure(self, served: Served, size: int, timeout_s: float) -> bool:
        """The uplink, with ``size`` bytes and those of a query, by asking for the plan once more. Returns whether that
        told its rate, and not only that it is faster.

        Raises:
            Failure: the server does not answer.
        """
        query = self._query(served.link, self._held())
        planned = self._transport.plan(query, self._answer, timeout_s, padding=size)
        return self._meter.probed(len(query.padded(size)), planned.seconds)

    def _query(self, link: Link, held: bytes | None) -> PlanQuery:
        fields = self._fields if link == self._request.link else self._fields | {"link": dataclasses.asdict(link)}
        knows = None if self._answer is None else self._answer.hash
        return PlanQuery(self._model, fields, None if held is None else hash_of(held), knows)

    def _held(self) -> bytes | None:
        """The last plan's head."""
        answer = self.answer
        if self._head is None and answer is not None and self._cache is not None:
            return self._cache.get(answer.head_hash)
        return self._head

    def _fetched(self, answer: PlanAnswer, held: bytes | None) -> bytes:
        """The head's file of ``answer``: the held one, one from the cache, or downloaded."""
        if held is not None and hash_of(held) == answer.head_hash:
            return held
        if self._cache is not None and (cached := self._cache.get(answer.head_hash)) is not None:
            return cached
        content = None if held is None else self._downloaded(answer, held)
        if content is None:
            content = self._downloaded(answer, None)
        if content is None:
            raise Failure(Kind.BROKEN, "the head that has come is not the plan's")
        return content

    def _downloaded(self, answer: PlanAnswer, held: bytes | None) -> bytes | None:
        """None if what has come does not make the head of ``answer``."""
        start, holds = time.perf_counter(), None if held is None else hash_of(held)
        try:
            download = self._transport.head(answer, holds)
        except Failure as failure:
            if failure.kind is not Kind.FORGOTTEN:
                raise
            download = self._transport.head(answer, holds, Introducing(self._model, answer).content)
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

    def _keep(self, content: bytes, answer: PlanAnswer) -> None:
        self._head = content
        if self._cache is not None:
            if not self._cache.holds(answer.head_hash):
                self._cache.put(content)
            if self._cache.holds(answer.head_hash):
                self._head = None

    def _remember(self, answer: PlanAnswer) -> None:
        before, self._answer = self._answer, answer
        if self._cache is not None and (before is None or before.hash != answer.hash):
            for name in self._names:
                self._cache.remember(name, answer.text)


def _read(text: bytes) -> PlanAnswer | None:
    try:
        return PlanAnswer.decode(deflate(text), hash_of(text))
    except ArtifactError:
        return None
