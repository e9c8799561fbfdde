"""The machine behind the contract's `MachineApi`: wire values in, wire values out.

One `MachineService` for each call: it has the caller (`author`) and the receiver of progress.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import orjson

from timbr_wamp.contract import (
    PAYLOAD_LIMIT_BYTES,
    ROW_LIMIT_BYTES,
    CallResult,
    ErrorGroup,
    ErrorRow,
    Event,
    FunctionRef,
    Graph,
    Lookup,
    Metrics,
    Policy,
    RecordRow,
    RecordsPage,
    RevisionDiff,
    RevisionInfo,
    SlotInfo,
    SourceOptions,
    Status,
    TrialResult,
    TrialRow,
    outcome_kind,
)
from timbr_wamp.errors import PayloadTooLarge
from timbr_wamp.machine.inquiries import chosen
from timbr_wamp.machine.records.batches import page
from timbr_wamp.machine.records.provenance import Selection
from timbr_wamp.machine.records.rows import CompactRow, whole_text
from timbr_wamp.machine.serving.bounds import bounded_diff, bounded_lookup, bounded_trial
from timbr_wamp.machine.serving.counter_samples import CounterSamples
from timbr_wamp.machine.serving.waiting_calls import check_count
from timbr_wamp.machine.slots.functions import load
from timbr_wamp.machine.slots.graph import graph_of
from timbr_wamp.machine.slots.table import Revision, Slot, make_step
from timbr_wamp.names import slot_key
from timbr_wamp.values import parse_json, to_json

if TYPE_CHECKING:
    from timbr_wamp.machine.machine import Machine

T = TypeVar("T")

#: Total size of the texts in one page of records; leaves room for the rest of a payload.
PAGE_BYTES = PAYLOAD_LIMIT_BYTES // 2
#: Characters of one part of a large record's text.
PART_CHARACTERS = 128 * 1024
PAGE_ROWS = 1_000
#: Longest time of one trial, replay or retry with canaries, seconds.
LONGEST_S = 600.0


class MachineService:
    """Answers for one caller; see `timbr_wamp.contract.MachineApi` for what each method means.

    `put_many` and `progress`, which wait, are in `timbr_wamp.machine.serving.waiting_calls`.
    """

    def __init__(
        self, machine: Machine, author: str | None, progress: Callable[[Any], None], samples: CounterSamples
    ) -> None:
        self._machine, self._author, self._progress, self._samples = machine, author, progress, samples

    def status(self) -> Status:
        return self._machine.status

    def slots(self) -> list[SlotInfo]:
        slots, size = self._machine.slots, 0
        for info in slots:
            size += len((info.source or "").encode())
            if size > PAGE_BYTES:  # `slot` returns it whole
                info.source = None
        return slots

    def slot(self, slot: int | str) -> SlotInfo:
        machine = self._machine
        return machine.slots[machine.slot_number(slot)]

    def records(self, run: str, after_seq: int, limit: int = 200) -> RecordsPage:
        first, last, kept = self._machine.recorder.after(run, after_seq, min(max(limit, 1), PAGE_ROWS), PAGE_BYTES)
        return RecordsPage(run=run, first_available=first, last_seq=last, batches=page(run, kept, PAGE_BYTES))

    def record(self, run: str, seq: int) -> RecordRow:
        kept = self._machine.recorder.row(run, seq)
        row = bounded_row(kept)
        if row.text is None:
            characters = whole_text(kept[2], kept[4]).decode()
            for start in range(0, len(characters), PART_CHARACTERS):
                self._progress(characters[start : start + PART_CHARACTERS])
        return row

    def recent(self, n: int = 50) -> list[RecordRow]:
        newest_first = map(bounded_row, reversed(self._machine.recorder.ring.newest(min(n, PAGE_ROWS))))
        return _page(newest_first)[::-1]

    def errors(self, n: int = 50) -> list[ErrorRow]:
        rows = self._machine.recorder.errors.rows(min(n, PAGE_ROWS))
        return _within(rows, lambda row: 4 * (len(row.exc_tb) + len(row.exc_value) + len(row.input)))

    def revisions(self) -> list[RevisionInfo]:
        return _within(self._machine.revisions, lambda one: 4 * sum(len(name or "") for name in one.functions))

    def events(self, n: int = 100) -> list[Event]:
        return _within(self._machine.events(min(n, PAGE_ROWS)), lambda event: len(to_json(event.data)))

    def metrics(self, last_s: float = 600.0) -> Metrics:
        return self._samples.metrics(last_s)

    def put(self, message: Any, oid: str | None = None) -> str:
        return self._machine.put(message, oid=oid)

    def call(self, message: Any) -> CallResult:
        record = self._machine(message, include_serialized=True)
        text = "[" + ",".join(record.texts) + "]"
        if (size_bytes := _utf8_bytes(text)) > PAGE_BYTES:
            raise PayloadTooLarge(size_bytes, PAGE_BYTES)
        return CallResult(oid=record.oid, text=text, revision=record.revision, errored=record.errored)

    def start(self) -> Status:
        self._machine.start(author=self._author)
        return self._machine.status

    def stop(self, drain: bool = False, timeout_s: float = 5.0) -> Status:
        self._machine.stop(drain, min(timeout_s, 600.0), author=self._author)
        return self._machine.status

    def pause(self) -> Status:
        self._machine.pause(author=self._author)
        return self._machine.status

    def resume(self) -> Status:
        self._machine.resume(author=self._author)
        return self._machine.status

    def lookup(self, oid: str) -> Lookup:
        return bounded_lookup(self._machine.lookup(oid), PAGE_BYTES // 2)

    def replay(
        self,
        run: str | None = None,
        seqs: list[int] | None = None,
        oids: list[str] | None = None,
        group: str | None = None,
        timeout_s: float = 0.0,
    ) -> list[str]:
        for name, several in (("seqs", seqs), ("oids", oids)):
            check_count(name, several or ())
        machine = self._machine
        messages: Any = oids
        if run is not None and seqs is not None:
            machine.recorder.check_run(run)
        return machine.replay(
            messages, seqs, group=group, timeout=min(timeout_s, LONGEST_S), on_progress=self._progress
        )

    def retry_errors(
        self, oids: list[str] | None = None, group: str | None = None, canary: int = 0, timeout_s: float = 60.0
    ) -> list[str]:
        limit_s = min(timeout_s, LONGEST_S)
        return self._machine.retry_errors(oids, group=group, canary=canary, timeout=limit_s, on_progress=self._progress)

    def compare(self, a: int, b: int) -> RevisionDiff:
        return bounded_diff(self._machine.compare(a, b), PAGE_BYTES)

    def trial_report(
        self,
        slot: int | str,
        function: FunctionRef,
        last: int | None = None,
        oids: list[str] | None = None,
        group: str | None = None,
        samples: list[Any] | None = None,
        timeout_s: float = 60.0,
    ) -> TrialResult:
        report = self._machine.trial(
            slot, function, last, oids=oids, group=group, samples=samples, timeout=min(timeout_s, LONGEST_S)
        )
        return bounded_trial(report.result, PAGE_BYTES)

    def table_trial(
        self,
        after: int | None = None,
        before: int | None = None,
        last: int | None = None,
        oids: list[str] | None = None,
        group: str | None = None,
        seqs: list[int] | None = None,
        with_values: dict[str, Any] | None = None,
        timeout_s: float = 60.0,
    ) -> TrialResult:
        messages = Selection(seqs=seqs) if seqs is not None else chosen(last, oids, group)
        values = {slot_key(slot): value for slot, value in (with_values or {}).items()}
        result = self._machine.try_revisions(
            before, after, messages, timeout=min(timeout_s, LONGEST_S), with_values=values
        )
        return bounded_trial(result, PAGE_BYTES)

    def error_groups(self, n: int = 50) -> list[ErrorGroup]:
        groups = self._machine.error_groups[: max(n, 0)]
        return _within(groups[::-1], lambda one: 4 * (len(one.exc_tb) + len(one.exc_value) + len(one.input)))[::-1]

    def graph(self) -> Graph:
        return graph_of(self._machine.slot_table())

    def handler_set(self, handler: str, options: dict[str, Any] | None = None) -> Status:
        self._machine.set_handler(str(handler), options, author=self._author)
        return self._machine.status

    def policy_set(self, slot: int | str | None, policy: Policy | None, reason: str | None = None) -> RevisionInfo:
        return self._machine.set_policy(slot, policy, author=self._author, reason=reason)

    def slot_set(
        self,
        slot: int | str,
        function: FunctionRef | list[FunctionRef | None],
        name: str | None = None,
        policy: Policy | None = None,
        reason: str | None = None,
        if_revision: int | None = None,
    ) -> RevisionInfo:
        why: Any = {"author": self._author, "reason": reason, "if_revision": if_revision}
        if isinstance(function, FunctionRef):
            return self._machine.set(slot, function, name=name, policy=policy, **why)
        first = self._machine.slot_number(slot)
        functions = {first + i: ref for i, ref in enumerate(function)}
        policies = {} if policy is None else dict.fromkeys(functions, policy)
        return self._machine.assign(functions, policies=policies, **why)

    def slot_delete(self, slot: int | str, reason: str | None = None) -> RevisionInfo:
        return self._machine.set(slot, None, author=self._author, reason=reason)

    def configure(
        self, bufsize: int | None = None, stages: int | None = None, concurrency: int | None = None
    ) -> Status:
        self._machine.configure(bufsize=bufsize, stages=stages, concurrency=concurrency, author=self._author)
        return self._machine.status

    def trial(self, slot: int | str, function: FunctionRef, n: int = 5) -> list[TrialRow]:
        machine = self._machine
        with machine.tried(slot, function) as tried:
            rows = [_try(machine, tried, row) for row in machine.recorder.ring.newest(min(n, 100))]
        return _within(rows, lambda row: 4 * (len(row.text) + len(row.input) + len(row.before or "")))

    def rollback(self, number: int, reason: str | None = None, if_revision: int | None = None) -> RevisionInfo:
        return self._machine.rollback(number, author=self._author, reason=reason, if_revision=if_revision)

    def source_set(
        self,
        source: FunctionRef,
        total: int | None = None,
        replace: bool = False,
        options: SourceOptions | None = None,
    ) -> Status:
        machine = self._machine
        loaded = load(source, machine.namespace)
        fields = {} if options is None else msgspec.structs.asdict(options)
        machine.set_source(loaded, total=total, replace=replace, author=self._author, **fields)
        return machine.status

    def source_delete(self) -> Status:
        self._machine.delete_source(author=self._author)
        return self._machine.status


def bounded_row(row: CompactRow) -> RecordRow:
    """Return a kept row for the wire: a text over the limit is left out, and ``meta`` says its size.

    Values that are carried count once, as long as the whole row fits a page.
    """
    seq, oid, compact, meta, layout = row
    text = whole_text(compact, layout)
    if len(compact) <= ROW_LIMIT_BYTES and len(text) <= PAGE_BYTES:
        return RecordRow(seq, oid, text.decode(), meta.decode())
    return RecordRow(seq, oid, None, meta[:-1].decode() + f',"text_bytes":{len(text)}}}')


def _page(rows: Iterable[RecordRow]) -> list[RecordRow]:
    """Return the first rows that fit one payload together, at least one."""
    page: list[RecordRow] = []
    size = 0
    for row in rows:
        size += _utf8_bytes(row.text or "") + _utf8_bytes(row.meta)
        if page and size > PAGE_BYTES:
            break
        page.append(row)
    return page


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _within(items: Sequence[T], size_bytes: Callable[[T], int]) -> list[T]:
    """Return the newest of ``items`` that fit one payload together, oldest of them first."""
    found: list[T] = []
    size = 0
    for item in reversed(items):
        size += size_bytes(item)
        if found and size > PAGE_BYTES:
            break
        found.append(item)
    return found[::-1]


def _try(machine: Machine, slot: Slot, row: CompactRow) -> TrialRow:
    """Run one function on the values of a kept record before its slot."""
    values = parse_json(whole_text(row[2], row[4]))
    before = values[: slot.number + 1]
    before += [before[-1]] * (slot.number + 1 - len(before))  # the table was shorter at that time
    # A table with this one step, after the given values.
    step = make_step(slot, 0, machine.policy_of())
    revision = Revision(0, (slot,), (step,), slot.number, 0.0, None, "trial")
    texts = [orjson.dumps(value) for value in before]
    broken = [None if outcome_kind(value) == "value" else value["_exception"]["task"] for value in before]
    started = time.perf_counter()
    text, errored = machine.try_step(revision, before, texts, broken)
    duration_s = time.perf_counter() - started
    known = values[slot.number + 1 : slot.number + 2]
    return TrialRow(
        oid=row[1], text=text.decode(), errored=errored, duration_s=duration_s, input=orjson.dumps(values[0]).decode(),
        before=orjson.dumps(known[0]).decode() if known else None,
    )  # fmt: skip
