"""Random operations on a real machine: in any order, counts and records are right.

Everything is checked from outside: puts as the test counted them, records as a sink got them, values
as computed independently by `tests.random_machine_kit`.
"""

from __future__ import annotations

import itertools
import threading
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machine_kit import Recorder, assert_counts_add_up, in_thread
from wait_kit import wait_until

from tests.random_machine_kit import KINDS, BrokenNode, Observed, RecordChecker, SlotError, Spec, Table, make_function
from timbr_wamp.contract import Policy
from timbr_wamp.errors import (
    InvalidArgument,
    MachineEmpty,
    MachineFull,
    MachineRunning,
    MessageKept,
    NotCallable,
    PrepFailed,
    WrongState,
)
from timbr_wamp.machine import Machine
from timbr_wamp.names import new_oid
from timbr_wamp.user_warnings import NotRunning

STAGES = 5

policies = st.builds(
    Policy,
    on_error=st.sampled_from(["record", "record", "default", "drop", "dead_letter", "pause", "stop"]),
    retries=st.integers(0, 2),
    backoff_s=st.sampled_from([0.0, 0.001, 0.004]),
    default=st.sampled_from([None, 7, [], {"n": 0, "k": -1}]),
)
specs = st.builds(
    Spec,
    uid=st.integers(1, 999),
    arity=st.integers(-1, 3),
    fails_on=st.sampled_from([-1, *KINDS]),
    times=st.none() | st.integers(1, 2),
    is_async=st.sampled_from([False, False, True]),
    is_object=st.sampled_from([False, False, True]),
)
kinds = st.lists(st.sampled_from(KINDS), min_size=1, max_size=6)
options = st.fixed_dictionaries(
    {"policy": st.sampled_from(["wait", "drop_new", "drop_old", "sample"])},
    optional={
        "sample_every": st.integers(1, 3),
        "on_exhausted": st.sampled_from(["keep", "stop", "restart"]),
        "restarts": st.integers(0, 2),
        "backoff_s": st.just(0.001),
    },
)

#: Event handlers: name, options, and the policy that they answer.
HANDLERS = [
    ("BaseEventHandler", {}, None),
    ("RetryHandler", {"retries": 1, "backoff_s": 0.001}, Policy(retries=1)),
    ("RetryHandler", {"retries": 1, "backoff_s": 0.0, "then": "default", "default": 3},
     Policy(on_error="default", retries=1, default=3)),
    ("DeadLetterHandler", {}, Policy(on_error="dead_letter")),
    ("RawEventDebugger", {}, Policy(on_error="stop")),
    ("DaskEventDebugger", {}, Policy(on_error="stop")),
]  # fmt: skip

#: What may be done to a machine: methods of `RandomMachine` and their arguments.
STEPS: dict[str, dict[str, Any]] = {
    "put": {"kinds": kinds},
    "put_from_another_thread": {"kinds": kinds},
    "put_with_an_oid": {"kind": st.sampled_from(KINDS)},
    "put_the_same_oid_again": {},
    "call": {"kind": st.sampled_from(KINDS)},
    "get": {},
    "retry_errors": {},
    "replay": {"count": st.integers(1, 3)},
    "set_slot": {"slot": st.integers(0, STAGES - 1), "spec": specs, "policy": st.none() | policies},
    "set_two_slots_at_once": {"spec": specs, "other": specs | st.none()},
    "an_object_cannot_be_opened": {"spec": specs},
    "delete_slot": {"slot": st.integers(0, STAGES - 1)},
    "rollback": {"back": st.integers(0, 5)},
    "set_policy": {"slot": st.none() | st.integers(0, STAGES - 1), "policy": policies},
    "resize": {"stages": st.integers(1, STAGES)},
    "change_the_queue": {"bufsize": st.integers(1, 12)},
    "change_the_concurrency": {"concurrency": st.integers(1, 4)},
    "change_the_handler": {"choice": st.sampled_from(HANDLERS)},
    "verb": {"verb": st.sampled_from(["start", "start", "start", "pause", "resume", "stop"])},
    "drain": {},
    "wait": {},
    "work": {"rounds": st.integers(1, 3), "kinds": kinds},
    "set_a_list": {"kinds": kinds},
    "set_a_generator": {"count": st.integers(0, 20), "fails": st.booleans(), "options": options},
    "delete_the_source": {},
}
steps = st.one_of(*(st.tuples(st.just(name), st.fixed_dictionaries(given)) for name, given in STEPS.items()))
scripts = st.lists(steps, min_size=5, max_size=40)
initial_states = st.fixed_dictionaries(
    {
        "stages": st.integers(1, STAGES),
        "bufsize": st.integers(1, 12),
        "concurrency": st.integers(1, 3),
        "policy": policies,
        "slots": st.lists(specs, max_size=STAGES),
        "started": st.booleans(),
    }
)


class RandomMachine:
    """A machine, the operations that a test may call on it, and what must hold after each."""

    def __init__(self, executor: str, begin: dict[str, Any]) -> None:
        self.observed, self.sink = Observed(), Recorder()
        self.checker = RecordChecker(self.observed)
        self.entered = 0
        #: Attempts that the test asked for, by the message's number.
        self.asked: Counter[int] = Counter()
        self.refused = 0
        #: Messages of ready sources: read in order, as far as they were read.
        self.lists: list[list[int]] = []
        self.sources = itertools.count(1)
        self.known: tuple[str, int] | None = None
        self.machine = Machine(
            begin["stages"], begin["bufsize"], serve=False, sinks=[self.sink], on_error=begin["policy"],
            concurrency=begin["concurrency"], executor=executor,
        )  # fmt: skip
        self.table = Table.empty(begin["stages"], begin["policy"])
        self.checker.tables[0] = self.table
        for slot, spec in enumerate(begin["slots"][: begin["stages"]]):
            self.set_slot(slot, spec, None)
        if begin["started"]:
            self.machine.start()

    def live(self, script: list[tuple[str, dict[str, Any]]]) -> int:
        """Do the operations of a script; check after each and at the end. Return the number of records."""
        try:
            for name, given in script:
                getattr(self, name)(**given)
                self.check()
            self.come_to_the_end()
        finally:
            self.machine.close()
        self.check_the_end()
        return len(self.checker.records)

    # --- messages ---

    def put(self, kinds: list[int]) -> None:
        for kind in kinds:
            self._put(kind)

    def put_from_another_thread(self, kinds: list[int]) -> None:
        in_thread(self.put, kinds).result()

    def put_with_an_oid(self, kind: int) -> None:
        oid = new_oid()
        number = self._put(kind, oid=oid)
        if number is not None:
            self.known = (oid, number)

    def put_the_same_oid_again(self) -> None:
        if self.known is None:
            return
        before = self.machine.status.refused
        assert self.machine.put({"n": self.known[1], "k": 0}, oid=self.known[0]) == self.known[0]
        assert self.machine.status.refused == before

    def _put(self, kind: int, **options: Any) -> int | None:
        message = self.observed.message("hand", kind)
        try:
            self.machine.put(message, **options)
        except MachineFull:
            self.refused += 1
            return None
        self.asked[message["n"]] += 1
        return message["n"]

    def call(self, kind: int) -> None:
        record = self.machine(self.observed.message("call", kind))
        assert record.revision == self.machine.revision
        self.checker.check(record)

    def get(self) -> None:
        try:
            oid, *_ = self.machine.get()
        except (MachineRunning, MachineEmpty, MessageKept, SlotError):
            return
        assert len(oid) == 24

    def retry_errors(self) -> None:
        self._again(self.machine.retry_errors)

    def replay(self, count: int) -> None:
        self.look()
        seqs = [record.seq for record in self.checker.records[-count:]]
        if seqs:
            self._again(lambda: self.machine.replay(self.machine.run, seqs))

    def _again(self, verb: Callable[[], list[str]]) -> None:
        try:
            oids = verb()
        except MachineFull:
            return
        wait_until(lambda: self._knows(oids), "what is put again has a record of the attempt before")
        of = {oid: number for number, oid in self.checker.oids.items()}
        self.asked.update(of[oid] for oid in oids)

    def _knows(self, oids: list[str]) -> bool:
        self.look()
        return set(oids) <= set(self.checker.oids.values())

    # --- slots ---

    def _changed(self, table: Table) -> None:
        self.table = self.checker.tables[self.machine.revision] = table

    def set_slot(self, slot: int, spec: Spec, policy: Policy | None) -> None:
        slot %= len(self.table.specs)
        if _asks_too_much(spec, slot):
            with pytest.raises(NotCallable):
                self.machine.set(slot, make_function(spec, self.observed), policy=policy)
            return
        table = self.table.with_slots({slot: spec}, policy)
        self.checker.tables[self.machine.revision + 1] = table
        self.machine.set(slot, make_function(spec, self.observed), policy=policy)
        self._changed(table)

    def set_two_slots_at_once(self, spec: Spec, other: Spec | None) -> None:
        if len(self.table.specs) > 1 and not _asks_too_much(spec, 0) and not _asks_too_much(other, 1):
            table = self.table.with_slots({0: spec, 1: other})
            self.checker.tables[self.machine.revision + 1] = table
            functions = [None if one is None else make_function(one, self.observed) for one in (spec, other)]
            self.machine[0:2] = functions
            self._changed(table)

    def an_object_cannot_be_opened(self, spec: Spec) -> None:
        before = self.machine.revision
        node = BrokenNode(lambda: None, None, self.observed, False)
        with pytest.raises(PrepFailed):
            self.machine[0] = node
        assert self.machine.revision == before

    def delete_slot(self, slot: int) -> None:
        slot %= len(self.table.specs)
        table = self.table.with_slots({slot: None})
        self.checker.tables[self.machine.revision + 1] = table
        del self.machine[slot]
        self._changed(table)

    def rollback(self, back: int) -> None:
        number = max(self.machine.revision - back, 0)
        self.checker.tables[self.machine.revision + 1] = self.checker.tables[number]
        self.machine.rollback(number)
        self._changed(self.checker.tables[number])

    def set_policy(self, slot: int | None, policy: Policy) -> None:
        slot = None if slot is None else slot % len(self.table.specs)
        table = self.table.with_policy(slot, policy)
        self.checker.tables[self.machine.revision + 1] = table
        self.machine.set_policy(slot, policy)
        self._changed(table)

    def resize(self, stages: int) -> None:
        before = len(self.table.specs)
        stands = any(spec is not None for spec in self.table.specs[stages:])
        self.checker.tables[self.machine.revision + 1] = table = self.table.resized(stages)
        try:
            self.machine.configure(stages=stages)
        except InvalidArgument:
            assert stands
        else:
            assert not stands
            if stages != before:
                self._changed(table)

    def change_the_queue(self, bufsize: int) -> None:
        self.machine.configure(bufsize=bufsize)

    def change_the_concurrency(self, concurrency: int) -> None:
        self.machine.configure(concurrency=concurrency)

    def change_the_handler(self, choice: tuple[str, dict[str, Any], Policy | None]) -> None:
        name, options, policy = choice
        if policy is not None:
            self.checker.handlers.append(policy)
        self.machine.set_handler(name, options)

    # --- life ---

    def verb(self, verb: str) -> None:
        try:
            getattr(self.machine, verb)()
        except (WrongState, SlotError):
            return

    def drain(self) -> None:
        try:
            self.machine.stop(drain=True)
        except (SlotError, TimeoutError):
            return

    def wait(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotRunning)  # it may not run, and says so
                self.machine.wait(0.02)
        except SlotError:
            assert self.machine.status.state == "stopped"

    def work(self, rounds: int, kinds: list[int]) -> None:
        self.verb("start")
        for _ in range(rounds):
            self.put(kinds)
            self.wait()

    # --- sources ---

    def set_a_list(self, kinds: list[int]) -> None:
        producer = f"source {next(self.sources)}"
        messages = [self.observed.message(producer, kind) for kind in kinds]
        self.lists.append([message["n"] for message in messages])
        self.machine.set_source(messages, replace=True)

    def set_a_generator(self, count: int, fails: bool, options: dict[str, Any]) -> None:
        producer, left = f"source {next(self.sources)}", itertools.repeat(None, count)

        def generate() -> Any:
            for count_before, _ in enumerate(left):
                message = self.observed.message(producer, count_before % len(KINDS))
                self.asked[message["n"]] += 1
                yield message
                if fails and count_before == count // 3:
                    raise SlotError("the source is gone")

        self.machine.set_source(generate, replace=True, **options)

    def delete_the_source(self) -> None:
        self.machine.delete_source()

    # --- what must be so ---

    def look(self) -> None:
        """Check what the sink got since the last look."""
        rows = len(self.sink.rows)
        if rows > self.entered:
            records = self.sink.records[self.entered : rows]
            self.entered = rows
            self.checker.enter(records)

    def check(self) -> None:
        """Fail unless what is seen from outside adds up."""
        status = self.machine.status
        assert_counts_add_up(status)
        settled = status.processed + status.errored + status.dropped
        assert settled <= len(self.sink.rows), "each counted message has a record"
        given = sum(list(self.asked.values())) + sum(map(len, self.lists))
        assert status.put <= given
        assert status.refused >= self.refused
        assert status.hook_failures == 0
        assert status.state != "failed", status.reason
        self.look()
        assert self.observed.violations == []

    def come_to_the_end(self) -> None:
        """Run until every message that was put is recorded."""
        machine = self.machine
        machine.handler = "BaseEventHandler"
        for slot in range(len(self.table.specs)):
            self.set_policy(slot, Policy())
        machine.delete_source()
        try:
            machine.stop()
        except SlotError:
            assert machine.status.state == "stopped"
        machine.start()
        wait_until(self._all_is_recorded, "everything that was put has a record")

    def _all_is_recorded(self) -> bool:
        self.look()
        missing = {n for n, count in list(self.asked.items()) if len(self.checker.attempts[n]) < count}
        return not missing and self.machine.wait(0)

    def check_the_end(self) -> None:
        """Fail unless every attempt at every message has its one right record, and nothing is left."""
        self.look()
        status, records = self.machine.status, self.checker.records
        assert_counts_add_up(status)
        assert (status.in_flight, status.queue_size) == (0, 0)
        assert status.put == len(records)
        assert status.errored == sum(record.errored for record in records)
        assert status.dropped == sum(record.meta.dropped for record in records)
        for numbers in self.lists:
            read = [number for number in numbers if number in self.checker.attempts]
            assert read == numbers[: len(read)], "read from the first on"
            self.asked.update(read)
        attempts = {number: sorted(seen) for number, seen in self.checker.attempts.items()}
        assert attempts == {number: list(range(1, count + 1)) for number, count in self.asked.items()}
        self.checker.check_order()
        for node in self.observed.nodes:
            assert node.opened == node.closed
        left = [thread.name for thread in threading.enumerate() if thread.name.startswith("timbr ")]
        wait_until(lambda: not any(t.name.startswith("timbr ") for t in threading.enumerate()), f"ended: {left}")


hypothesis_settings = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(hypothesis_settings, max_examples=50)
@given(initial_states, scripts)
def test_random_operations_inline(begin: dict[str, Any], script: list[tuple[str, dict[str, Any]]]) -> None:
    assert RandomMachine("inline", begin).live(script) >= 0


@settings(hypothesis_settings, max_examples=30)
@given(initial_states, scripts)
def test_random_operations_in_threads(begin: dict[str, Any], script: list[tuple[str, dict[str, Any]]]) -> None:
    assert RandomMachine("threads", begin).live(script) >= 0


def _asks_too_much(spec: Spec | None, slot: int) -> bool:
    """Tell whether there are fewer values and texts before a slot than its function requires."""
    return spec is not None and spec.arity > 2 * (slot + 1)
