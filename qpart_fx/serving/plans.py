"""From queries to plans and heads: each is made once, and kept while there is room."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ArtifactError, InternalError, RequestError
from ..request import Request
from ..serving_protocol import HEAD, SAME, UPDATE, Introduction, PlanAnswer, PlanQuery
from .catalog import Catalog, Model
from .kept import Kept, Once, Recent
from .load import Load, priced_by_load
from .log import log
from .planner import Planner
from .records import Record
from .refusal import invalid, not_found
from .runner import Runner

_MOST_BYTES = 32 << 20
"""Of answers, and of records: some thousands, of a few kB each."""

RUNTIME = "onnx"
"""What the heads are made for."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to a query. ``knows``: the hash of the answer that the device knows, if that is remembered;
    ``unknown``: that of the head that it holds, if nobody here knows whose that is."""

    answer: PlanAnswer
    knows: str | None
    unknown: str | None


@dataclass(frozen=True, slots=True)
class Sent:
    """What a device is sent for a head: ``kind`` as :mod:`qpart_fx.serving_protocol` calls it; ``hash`` of the head
    that it then has."""

    kind: str
    content: bytes
    hash: str


@dataclass(frozen=True, slots=True)
class _Head:
    content: bytes
    hash: str


class Plans:
    """Answers queries.

    Args:
        planner: who makes plans and heads. runner: who makes tails, for what they say of the model's output.
        kept: where heads and updates are kept.
        load: raises the server's price in queries; None to leave it.
    """

    def __init__(self, catalog: Catalog, planner: Planner, runner: Runner, kept: Kept, load: Load | None) -> None:
        self._catalog, self._planner, self._runner = catalog, planner, runner
        self._kept, self._load = kept, load
        self._answers: Recent[Hashable, PlanAnswer] = Recent(_MOST_BYTES)
        self._texts: Recent[str, bytes] = Recent(_MOST_BYTES)
        self._records: Recent[str, Record] = Recent(_MOST_BYTES)
        self._head_hashes: Recent[str, str] = Recent(_MOST_BYTES)
        self._by_head: Recent[tuple[Model, str], Record] = Recent(_MOST_BYTES)
        self._once: Once[Any] = Once()

    async def answer(self, query: PlanQuery, introduced: Record | None = None) -> Answered:
        """The answer to a query.

        Args:
            introduced: the plan of the head that the device holds, as it says.

        Raises:
            Refused: there is no such model, the request is none, or no plan meets it.
        """
        model = self._catalog.model(query.model)
        request = _servable(query.request)
        if self._load is not None:
            request = priced_by_load(request, self._load.factor)
        held = self._held(model, query.holds)
        if held is None and introduced is not None:
            await self._head(introduced)  # or nobody would believe that it is the one that is held
            held = self._held(model, query.holds)
        if held is not None:  # which says more than a request can
            request = replace(request, device_holds_head=False)
        key = model, request.to_json(), None if held is None else held.plan_id
        answer = self._answers.get(key)
        if answer is None:
            answer = await self._once.get(("answer", key), lambda: self._answered(key, held))
        knows = query.knows if query.knows is not None and self._texts.get(query.knows) is not None else None
        return Answered(answer, knows, query.holds if held is None else None)

    def text(self, answer_hash: str | None) -> bytes:
        """Of the answer of this hash, empty if it is not remembered."""
        return (answer_hash and self._texts.get(answer_hash)) or b""

    def record(self, plan_id: str) -> Record:
        """What the plan of this id is.

        Raises:
            Refused: it is not known, or its model is no longer what it was.
        """
        found = self._records.get(plan_id)
        if found is None or not self._catalog.is_current(found.model.name, found.model.hash):
            raise not_found("this plan is not known, or its model was replaced: ask for a plan again")
        return found

    def introduced(self, introduction: Introduction, plan_id: str | None = None) -> Record:
        """The plan that a device says another server made, of this id if one is given. Nothing of it is believed: its
        id follows from what it is, and it is made here as any other plan of the model.

        Raises:
            Refused: its model is another one here, or it has another id.
        """
        model = self._catalog.model(introduction.model)
        known = None if plan_id is None else self._records.get(plan_id)
        if known is not None and known.model == model:
            return known
        if model.hash != introduction.model_hash:
            raise not_found("the plan is one of another version of its model: ask for a plan again")
        try:
            record = Record.of(model, json.dumps(introduction.plan))
        except ArtifactError as error:
            raise not_found(f"what was introduced is no plan that is understood here: {str(error)[:300]}") from None
        if plan_id not in (None, record.plan_id):
            raise not_found("the plan that was introduced has another id: ask for a plan again")
        return self._known(record)

    def recorded(self, model: Model, plan: str) -> Record:
        """What a plan of this model, as JSON, is known by from now on."""
        return self._known(Record.of(model, plan))

    def whole(self, name: str) -> Record:
        """The float model, cut at its input.

        Raises:
            Refused: there is no such model.
        """
        return Record.whole(self._catalog.model(name))

    async def update(self, record: Record, holds: str | None) -> Sent:
        """What to send to a device that holds the head of this hash."""
        held = self._held(record.model, holds)
        if held is not None and holds is not None and held.plan_id == record.plan_id:
            return Sent(SAME, b"", holds)
        head = await self._head(record)
        if holds == head.hash:
            return Sent(SAME, b"", head.hash)
        if held is None:
            return Sent(HEAD, head.content, head.hash)
        key = "update", held.plan_id, record.plan_id
        found: bytes | None = self._kept.get(key)
        if found is None:
            found = await self._once.get(key, lambda: self._made_update(key, held, head))
        smaller = len(found) < len(head.content)
        return Sent(UPDATE, found, head.hash) if smaller else Sent(HEAD, head.content, head.hash)

    def _known(self, record: Record) -> Record:
        self._records.put(record.plan_id, record, len(record.plan or ""))
        return record

    def _held(self, model: Model, holds: str | None) -> Record | None:
        """The plan of the head that a device holds, if it is one of this model."""
        return None if holds is None else self._by_head.get((model, holds))

    async def _answered(self, key: tuple[Model, str, str | None], held: Record | None) -> PlanAnswer:
        model, request, _ = key
        text = await self._planner.plan(model, request, None if held is None else held.plan)
        record = self.recorded(model, text)
        head = await self._head(record)
        signature = await self._runner.signature(record)
        update_bytes = None
        if held is not None:
            sent = await self.update(record, self._head_hashes.get(held.plan_id))
            update_bytes = None if sent.kind == HEAD else len(sent.content)
        plan = json.loads(text)
        answer = PlanAnswer(
            plan, record.plan_id, head.hash, len(head.content), update_bytes, signature.outputs, model.hash,
            signature.alone,
        )  # fmt: skip
        self._answers.put(key, answer, len(answer.text))
        self._texts.put(answer.hash, answer.text, len(answer.text))
        log(
            "info", "planned", model=model.name, plan=record.plan_id, cut=plan["cut"], head_bytes=len(head.content),
            update_bytes=update_bytes,
        )  # fmt: skip
        return answer

    async def _head(self, record: Record) -> _Head:
        """The head of a plan."""
        key = "head", record.plan_id
        found: _Head | None = self._kept.get(key)
        if found is None:
            found = await self._once.get(key, lambda: self._made_head(key, record))
        return found

    async def _made_head(self, key: Hashable, record: Record) -> _Head:
        if record.plan is None:
            raise not_found("the whole model has no head")
        content = await self._planner.head(record.model, record.plan)
        head = _Head(content, hashlib.sha256(content).hexdigest())
        if self._head_hashes.get(record.plan_id) not in (None, head.hash):
            raise InternalError(f"the head of plan {record.plan_id} came out different when it was made again")
        self._head_hashes.put(record.plan_id, head.hash, len(head.hash))
        self._by_head.put((record.model, head.hash), record, len(record.plan))
        self._keep(key, head, content)
        return head

    async def _made_update(self, key: Hashable, held: Record, head: _Head) -> bytes:
        update = await self._planner.update((await self._head(held)).content, head.content)
        self._keep(key, update, update)
        return update

    def _keep(self, key: Hashable, value: Any, content: bytes) -> None:
        self._kept.put(key, value, {id(content): len(content)})


def _servable(record: Mapping[str, Any]) -> Request:
    """The request in a query.

    Raises:
        Refused: it is none, or for a runtime that the heads are not made for.
    """
    try:
        request = Request.from_json(json.dumps(record))
        if request.device.runtime not in (None, RUNTIME):
            raise RequestError(
                f"Device.runtime = {request.device.runtime!r}: the heads of this server are for {RUNTIME!r}"
            )
        return replace(request, device=replace(request.device, runtime=RUNTIME))
    except RequestError as error:
        raise invalid(str(error)[:1000]) from None
