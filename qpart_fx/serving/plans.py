"""From queries to plans, heads and tails: each is made once, and kept while there is room."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from grpc import StatusCode

from ..errors import ArtifactError, InternalError, RequestError
from ..plan import TERMS, Plan
from ..request import Request
from ..serving_protocol import HEAD, SAME, UPDATE, PlanAnswer, PlanQuery
from .catalog import Catalog, Model
from .load import Load, priced_by_load
from .log import log
from .planner import Planner, Tail
from .refusal import Refused, invalid, not_found
from .tails import ServedTail, SharedWeights

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_MOST_BYTES = 32 << 20
"""Of answers, and of records: some thousands, of a few kB each."""

RUNTIME = "onnx"
"""What the heads are made for."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a plan is known by, and made again from. ``plan``: as JSON, with nothing in it that differs from request to
    request; None for the whole model, which has no head."""

    plan_id: str
    model: Model
    plan: str | None
    head_hash: str
    head_bytes: int


class Recent(Generic[K, T]):
    """The values used last, of ``most_bytes`` together."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._items: OrderedDict[K, tuple[T, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: K) -> T | None:
        """None if it is not there."""
        found = self._items.get(key)
        if found is None:
            return None
        self._items.move_to_end(key)
        return found[0]

    def put(self, key: K, value: T, size: int) -> None:
        """``size``: about its bytes."""
        _, before = self._items.pop(key, (None, 0))
        self._items[key] = value, size
        self._bytes += size - before
        while self._bytes > self._most_bytes and len(self._items) > 1:
            _, (_, gone) = self._items.popitem(last=False)
            self._bytes -= gone


class Kept:
    """Heads, updates and tails, those used last, within a limit of memory. What several hold is counted once."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._items: OrderedDict[Hashable, tuple[Any, Mapping[int, int]]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: Hashable) -> Any:
        """None if it is not there."""
        if (found := self._items.get(key)) is None:
            return None
        self._items.move_to_end(key)
        return found[0]

    def put(self, key: Hashable, value: Any, parts: Mapping[int, int]) -> None:
        """``parts``: bytes of what it holds, by something that tells them apart."""
        self._items[key] = value, parts
        self._items.move_to_end(key)
        self._measure()
        while self.bytes > self._most_bytes and len(self._items) > 1:
            self._items.popitem(last=False)
            self._measure()

    @property
    def parts(self) -> set[int]:
        """All that is held."""
        return {part for _, parts in self._items.values() for part in parts}

    def _measure(self) -> None:
        together: dict[int, int] = {}
        for _, parts in self._items.values():
            together.update(parts)
        self.bytes = sum(together.values())


class Once(Generic[T]):
    """What is made at the moment, by key: who asks for the same waits for the same."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[T]] = {}

    async def get(self, key: Hashable, make: Callable[[], Awaitable[T]]) -> T:
        """What ``make`` returns. It goes on if the caller does not wait any longer: others may."""
        task = self._tasks.get(key)
        if task is None:

            async def made() -> T:
                return await make()

            task = self._tasks[key] = asyncio.create_task(made())
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    def _forget(self, key: Hashable, done: asyncio.Task[T]) -> None:
        del self._tasks[key]
        if not done.cancelled():
            done.exception()  # whoever asked has it, or has gone


class Plans:
    """Answers queries.

    Args:
        memory_bytes: of heads and tails that are kept.
        load: raises the server's price in queries; None to leave it.
    """

    def __init__(self, catalog: Catalog, planner: Planner, memory_bytes: int, load: Load | None) -> None:
        self._catalog, self._planner, self._load = catalog, planner, load
        self._kept = Kept(memory_bytes)
        self._weights = SharedWeights()
        self._answers: Recent[Hashable, PlanAnswer] = Recent(_MOST_BYTES)
        self._texts: Recent[str, bytes] = Recent(_MOST_BYTES)
        self._records: Recent[str, Record] = Recent(_MOST_BYTES)
        self._by_head: Recent[tuple[Model, str], str] = Recent(_MOST_BYTES)
        self._by_plan: Recent[tuple[Model, str], Record] = Recent(_MOST_BYTES)
        self._once: Once[Any] = Once()
        self._sharing = asyncio.Lock()

    @property
    def kept(self) -> Kept:
        """The heads and tails in memory."""
        return self._kept

    async def answer(self, query: PlanQuery) -> tuple[PlanAnswer, str | None]:
        """The answer to a query, and the hash of the one that the device knows, if that is remembered.

        Raises:
            Refused: there is no such model, the request is none, or no plan meets it.
        """
        model = self._catalog.model(query.model)
        request = _servable(query.request)
        if self._load is not None:
            request = priced_by_load(request, self._load.factor)
        held = self._held(model, query.holds)
        if held is not None:  # which says more than a request can
            request = replace(request, device_holds_head=False)
        key = model, request.to_json(), None if held is None else held.head_hash
        answer = self._answers.get(key)
        if answer is None:
            answer = await self._once.get(("answer", key), lambda: self._answered(key, held))
        knows = query.knows if query.knows is not None and self._texts.get(query.knows) is not None else None
        return answer, knows

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

    def whole(self, name: str) -> Record:
        """The float model, cut at its input.

        Raises:
            Refused: there is no such model.
        """
        return Record(f"whole:{name}", self._catalog.model(name), None, "", 0)

    async def head(self, record: Record) -> bytes:
        """The head's file of a plan."""
        key = "head", record.model.hash, record.head_hash
        found: bytes | None = self._kept.get(key)
        if found is None:
            found = await self._once.get(key, lambda: self._remade_head(record))
        return found

    async def update(self, record: Record, holds: str | None) -> tuple[str, bytes]:
        """A kind of :mod:`qpart_fx.serving_protocol`, and the bytes to send to a device that holds the head of this
        hash."""
        held = self._held(record.model, holds)
        if holds == record.head_hash:
            return SAME, b""
        head = await self.head(record)
        if held is None:
            return HEAD, head
        key = "update", held.head_hash, record.head_hash
        found: bytes | None = self._kept.get(key)
        if found is None:
            found = await self._once.get(key, lambda: self._made_update(key, held, head))
        return (UPDATE, found) if len(found) < len(head) else (HEAD, head)

    def ready_tail(self, record: Record) -> ServedTail | None:
        """The tail of a plan, if it is in memory."""
        found: ServedTail | None = self._kept.get(("tail", record.plan_id, record.model.hash))
        return found

    async def tail(self, record: Record) -> ServedTail:
        """The tail of a plan.

        Raises:
            Refused: it cannot be made.
        """
        found = self.ready_tail(record)
        if found is None:
            key = "tail", record.plan_id, record.model.hash
            found = await self._once.get(key, lambda: self._made_tail(key, record))
        return found

    def _held(self, model: Model, holds: str | None) -> Record | None:
        """The plan of the head that a device holds, if it is one of this model."""
        plan_id = None if holds is None else self._by_head.get((model, holds))
        return None if plan_id is None else self._records.get(plan_id)

    async def _answered(self, key: tuple[Model, str, str | None], held: Record | None) -> PlanAnswer:
        model, request, _ = key
        text = await self._planner.plan(model, request, None if held is None else held.plan)
        record = await self.recorded(model, text)
        tail = await self.tail(record)
        update_bytes = None
        if held is not None:
            kind, content = await self.update(record, held.head_hash)
            update_bytes = None if kind == HEAD else len(content)
        plan = json.loads(text)
        answer = PlanAnswer(
            plan,
            record.plan_id,
            record.head_hash,
            record.head_bytes,
            update_bytes,
            tail.outputs,
            model.hash,
            tail.alone,
        )
        self._answers.put(key, answer, len(answer.text))
        self._texts.put(answer.hash, answer.text, len(answer.text))
        log(
            "info", "planned", model=model.name, plan=record.plan_id, cut=plan["cut"], head_bytes=record.head_bytes,
            update_bytes=update_bytes,
        )  # fmt: skip
        return answer

    async def recorded(self, model: Model, plan: str) -> Record:
        """What a plan of this model, as JSON, is known by from now on."""
        plan = general(plan)
        found = self._by_plan.get((model, plan))
        if found is None:
            found = await self._once.get(("record", model, plan), lambda: self._made_record(model, plan))
        return found

    async def _made_record(self, model: Model, plan: str) -> Record:
        head = await self._planner.head(model, plan)
        head_hash = hashlib.sha256(head).hexdigest()
        # The head names its cut and the weights' hash, so it names the tail; names of models are told apart by tokens.
        plan_id = hashlib.sha256(f"{model.name}\n{model.hash}\n{head_hash}".encode()).hexdigest()[:32]
        record = Record(plan_id, model, plan, head_hash, len(head))
        self._keep(("head", model.hash, head_hash), head)
        self._records.put(plan_id, record, len(plan))
        self._by_head.put((model, head_hash), plan_id, len(plan))
        self._by_plan.put((model, plan), record, len(plan))
        return record

    async def _remade_head(self, record: Record) -> bytes:
        if record.plan is None:
            raise not_found("the whole model has no head")
        head = await self._planner.head(record.model, record.plan)
        if hashlib.sha256(head).hexdigest() != record.head_hash:
            raise InternalError(f"the head of plan {record.plan_id} came out different when it was made again")
        self._keep(("head", record.model.hash, record.head_hash), head)
        return head

    async def _made_update(self, key: Hashable, held: Record, head: bytes) -> bytes:
        update = await self._planner.update(await self.head(held), head)
        self._keep(key, update)
        return update

    async def _made_tail(self, key: Hashable, record: Record) -> ServedTail:
        tail = await self._planner.tail(record.model, record.plan)
        async with self._sharing:
            made, sizes = await asyncio.to_thread(self._loaded, tail)
            self._kept.put(key, made, sizes)
            self._weights.keep(self._kept.parts)
        return made

    def _loaded(self, tail: Tail) -> tuple[ServedTail, dict[int, int]]:
        try:
            made = ServedTail(tail)
        except ArtifactError as error:
            raise Refused(StatusCode.INTERNAL, str(error)) from error
        return made, self._weights.share(made.module)

    def _keep(self, key: Hashable, content: bytes) -> None:
        self._kept.put(key, content, {id(content): len(content)})


def general(plan: str) -> str:
    """A plan as JSON without what differs between requests that lead to the same head, so that these share it. Its
    budget is then what it is predicted to lose."""
    read = Plan.from_json(plan)
    budget = read.max_accuracy_drop if read.predicted_drop is None else read.predicted_drop
    same = replace(
        read, max_accuracy_drop=budget, time_s=0.0, energy_j=0.0, cost=0.0, objective=0.0,
        prices=dict.fromkeys(TERMS, 0.0), download_bytes=0, upload_bytes=0, device_memory_bytes=0,
        inferences_per_download=1, by_cut=(), lower_bound=None, updates_held_head=False,
    )  # fmt: skip
    return json.dumps(json.loads(same.to_json()))


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
