"""`timbr_wamp.connect` to a real machine, in a real kernel, behind a real bridge and router."""

from __future__ import annotations

import _thread
import asyncio
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest
from wait_kit import until, wait_until

import timbr_wamp
from timbr_wamp import runtime
from timbr_wamp.client import Client, Gap, RemoteKernel, RemoteMachine, RunChanged
from timbr_wamp.contract import Policy, Progress, Record, SourceOptions, Status
from timbr_wamp.errors import (
    AmbiguousKernel,
    CanaryFailed,
    InvalidArgument,
    InvalidSource,
    MachineFull,
    NoMachine,
    NotASource,
    NotAuthorized,
    PayloadTooLarge,
    SlotOutOfRange,
    TableChanged,
    UnknownErrorGroup,
    UnknownKernel,
    UnknownMessage,
    UnknownPlugin,
    UnknownRevision,
    UnknownSlot,
)
from timbr_wamp.names import new_oid
from timbr_wamp.router import Router, TokenStore
from timbr_wamp.settings import Settings
from timbr_wamp.user_warnings import NotRunning

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

STARTUP = """
import timbr_wamp
m = timbr_wamp.Machine(stages=3, bufsize=2000)
small = timbr_wamp.Machine(stages=1, bufsize=2, name="small")
"""


@pytest.fixture(scope="module")
def host(router: Router, settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """A host, as `timbr-wamp host` runs it."""
    process = subprocess.Popen([sys.executable, "-m", "timbr_wamp", "host"], env=dict(os.environ))
    try:
        wait_until(lambda: runtime.host_file(settings.runtime_dir, router.unix_url).exists())
        yield process
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def client(router: Router, settings: Settings) -> Iterator[Client]:
    with timbr_wamp.connect(settings=settings) as made:
        yield made


@pytest.fixture(scope="module")
def kernel(
    client: Client, host: subprocess.Popen[bytes], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RemoteKernel]:
    """A kernel that makes two machines when it starts."""
    startup = tmp_path_factory.mktemp("startup") / "machines.py"
    startup.write_text(STARTUP)
    made = client.start_kernel("pump", str(startup))
    wait_until(lambda: {machine.name for machine in made.machines()} == {"machine", "small"})
    yield made
    made.shutdown()


@pytest.fixture
def machine(kernel: RemoteKernel) -> Iterator[RemoteMachine]:
    """The kernel's machine, running, with empty slots."""
    made = kernel.machine()
    for slot in range(3):
        del made[slot]
    made.start()
    yield made
    made.stop(drain=True)


# --- kernels -----------------------------------------------------------------------------------


def test_kernels_are_found_by_id_name_and_beginning(client: Client, kernel: RemoteKernel):
    listed = client.kernels()
    assert [each.kernel_id for each in listed if each.name == "pump"] == [kernel.id]
    assert kernel.id in repr(listed)
    assert "pump" in listed._repr_html_()
    assert client.kernel(kernel.id).id == client.kernel("pump").id == client.kernel("pum").id == kernel.id
    assert client.kernel().id == kernel.id
    assert "lab" in client.hosts()
    with pytest.raises(UnknownKernel):
        client.kernel("nobody")
    assert abs(kernel.ping() - time.time()) < 60
    assert kernel.info().kernel_id == kernel.id


def test_code_runs_and_its_output_comes_to_the_caller(kernel: RemoteKernel):
    seen: list[tuple[str, int]] = []
    reply = kernel.run(
        "for i in range(3): print('line', i)",
        on_output=lambda message: seen.append((message.msg_type, threading.get_ident())),
    )
    assert reply.status == "ok"
    assert "stream" in {kind for kind, _ in seen}
    assert {thread for _, thread in seen} == {threading.get_ident()}
    done = kernel.execute("print('one'); display('two'); 3")
    assert (done.ok, done.stdout, done.displays[0]["text/plain"], done.result) == (True, "one\n", "'two'", "3")
    failed = kernel.execute("print('before'); 1/0")
    assert (failed.status, failed.ename, failed.stdout) == ("error", "ZeroDivisionError", "before\n")
    assert failed.error == "ZeroDivisionError: division by zero"
    assert "upper" in " ".join(kernel.complete("'x'.upp").matches)
    assert kernel.is_complete("for i in x:").status == "incomplete"


# --- a machine that reads like one ---------------------------------------------------------------


def test_slots_are_set_read_and_deleted_like_a_machines(machine: RemoteMachine):
    factor = 3

    def triple(x):
        return x * factor

    machine[0] = triple
    machine[1] = lambda x: x + 1
    machine.set(2, source="def text(x):\n    return str(x)", name="clean")
    record = machine(14)
    assert list(record[1:]) == [14, 42, 43, "43"]
    assert machine(2, include_serialized=True).texts == ("2", "6", "7", '"7"')
    assert machine["clean"].slot == 2
    assert "x * factor" in (machine[0].source or "")
    assert (machine[1].source or "").startswith("lambda x")
    before = len(machine.revisions)
    machine[0:2] = [lambda x: -x, None]
    assert len(machine.revisions) == before + 1
    assert [slot.identity for slot in machine.slots] == [False, True, False]
    assert list(machine(5)[1:]) == [5, -5, -5, "-5"]
    machine.rollback(machine.revisions[-2].number)
    assert list(machine(14)[1:]) == [14, 42, 43, "43"]
    del machine["clean"]
    assert machine[2].identity
    machine.set(2, reference="math:sqrt")
    machine[0:2] = [None, None]
    assert machine(9).values[-1] == 3.0


def test_what_code_did_to_machines_is_known_when_execute_returns(kernel: RemoteKernel):
    for _ in range(3):
        assert kernel.execute("extra = timbr_wamp.Machine(1, name='extra')").ok
        assert kernel.machine("extra")("there")[-1] == "there"
        assert kernel.execute("extra.close()").ok
        with pytest.raises(NoMachine):
            kernel.machine("extra")
        assert "extra" not in [brief.name for brief in kernel.machines()]


def test_bad_input_is_answered_by_name(machine: RemoteMachine, kernel: RemoteKernel, client: Client):
    with pytest.raises(SlotOutOfRange) as raised:
        machine[7] = lambda x: x
    assert raised.value.slot_count == 3
    assert "SlotOutOfRange" in (raised.value.remote_traceback or "")
    with pytest.raises(UnknownSlot):
        machine["nowhere"]
    with pytest.raises(InvalidSource):
        machine[0] = "def broken(x:"
    with pytest.raises(InvalidArgument):
        machine[0] = threading.Lock()
    with pytest.raises(InvalidArgument):
        machine[0:3] = [lambda x: x]
    with pytest.raises(InvalidArgument):
        machine.put(object())
    with pytest.raises(PayloadTooLarge):
        machine.put("x" * 50_000_000)
    with pytest.raises(NoMachine, match="its machines: machine, small"):
        kernel.machine("absent")
    with pytest.raises(NoMachine, match="did you mean 'small'"):
        kernel.machine("smal")
    with pytest.raises(InvalidArgument, match="no host 'laab' is on the router; known hosts: lab; did you mean 'lab'"):
        client.start_kernel(host="laab")
    with pytest.raises(UnknownKernel, match="did you mean 'pump'"):
        client.kernel("pmup")
    assert machine.running


def test_what_json_can_carry_can_be_put(machine: RemoteMachine):
    with machine.records(timeout_s=10.0) as records:
        machine.put({"id": uuid.UUID(int=1), "pair": (1, 2)})
        assert next(records).input == {"id": str(uuid.UUID(int=1)), "pair": [1, 2]}
        for value, seen in [({1: 2}, {"1": 2}), ([{None: {3}}], [{"None": [3]}]), ({"x": float("nan")}, {"x": None})]:
            machine.put(value)
            assert next(records).input == seen


def test_what_cannot_be_sent_costs_its_caller_alone(client: Client, machine: RemoteMachine):
    for value in (2**70, "\ud800", {"x": object()}):
        with pytest.raises(InvalidArgument, match="message"):
            machine.put(value)
        with pytest.raises(InvalidArgument, match="message"):
            machine(value)
        with pytest.raises(InvalidArgument, match="argument 0"):
            client.call(f"io.timbr.kernel.{machine.aio.kernel_id}.ping", value)
    assert client.call(f"io.timbr.kernel.{machine.aio.kernel_id}.ping") > 0


def test_puts_are_counted_and_known_ids_are_not_put_twice(machine: RemoteMachine):
    before = machine.status.put
    oid = new_oid()
    assert machine.put(1, oid=oid) == machine.put(1, oid=oid) == oid
    result = machine.put_many([1, 2, 3])
    assert (len(result.oids), result.refused) == (3, 0)
    assert machine.wait(10.0)
    assert machine.status.put == before + 4


def test_a_put_waits_for_room_or_is_refused(kernel: RemoteKernel):
    small = kernel.machine("small")
    before = small.status.processed
    small.put(1)
    small.put(2)
    with pytest.raises(MachineFull):
        small.put(3)
    with pytest.raises(MachineFull):
        small.put(3, block=True, timeout=0.3)
    waiting = threading.Thread(target=small.put, args=(3,), kwargs={"block": True, "timeout": 20.0})
    waiting.start()
    small.start()
    waiting.join(20.0)
    assert not waiting.is_alive()
    assert small.wait(10.0)
    assert small.status.processed == before + 3
    small.stop()


def test_errors_are_seen_with_slot_and_traceback(machine: RemoteMachine):
    def reject(x):
        raise ValueError(f"not {x}")

    seen: list[Any] = []
    with machine.on_error(seen.append):
        machine[0:2] = [reject, lambda x: x]
        with machine.records(timeout_s=10.0) as records:
            oid = machine.put(31)
            record = next(records)
        assert (record.oid, record.errored) == (oid, True)
        assert [outcome.kind for outcome in record.outcomes] == ["error", "skipped", "skipped"]
        wait_until(lambda: seen)
    assert (seen[0].exc_class, seen[0].slot) == ("ValueError", 0)
    assert "raise ValueError" in machine.errors[-1].exc_tb
    machine[0] = lambda x: "mended"
    with machine.records(timeout_s=10.0) as records:
        assert machine.retry_errors([oid]) == [oid]
        again = next(records)
    assert (again.oid, again.attempt, again.errored) == (oid, 2, False)


def test_a_source_is_set_watched_and_taken_away(machine: RemoteMachine):
    def numbers():
        yield from range(5)

    with machine.records(timeout_s=20.0) as records:
        machine.source = numbers
        assert [next(records).input for _ in range(5)] == list(range(5))
    wait_until(lambda: machine.source.state == "exhausted")
    del machine.source
    machine.set_source([1, 2], total=2)
    assert machine.wait(10.0)
    del machine.source
    assert machine.source.state == "none"


def test_a_viewer_may_look_but_not_touch(machine: RemoteMachine, router: Router, settings: Settings):
    store = TokenStore(router.node_dir)
    token = store.create("onlooker", "viewer")
    try:
        with timbr_wamp.connect(token=token, settings=settings) as viewer:
            theirs = viewer.kernel("pump").machine()
            assert theirs.status.run == machine.status.run
            with pytest.raises(NotAuthorized, match=r"role 'viewer' may not call .*slot_set; that takes .* role admin"):
                theirs[0] = lambda x: x
            with pytest.raises(NotAuthorized, match="role operator"):
                theirs.put(1)
            with theirs.records(timeout_s=10.0) as records:
                machine.put("seen")
                assert next(records).input == "seen"
    finally:
        store.revoke("onlooker")


# --- records -------------------------------------------------------------------------------------


def test_records_are_complete_at_full_speed(machine: RemoteMachine):
    count = 5_000
    with machine.records(timeout_s=20.0) as records:
        thread = threading.Thread(
            target=lambda: [machine.put_many(list(range(i, i + 500)), timeout_s=20.0) for i in range(0, count, 500)]
        )
        thread.start()
        seen = [next(records) for _ in range(count)]
        thread.join(20.0)
    assert [record.input for record in seen] == list(range(count))
    assert [record.seq for record in seen] == list(range(seen[0].seq, seen[0].seq + count))


def test_a_reader_that_is_cancelled_again_and_again_misses_no_record(machine: RemoteMachine):
    count = 3_000

    async def main() -> list[Record]:
        seen: list[Any] = []
        async with machine.aio.records(timeout_s=20.0) as records:
            putting = asyncio.create_task(machine.aio.put_many(list(range(count)), timeout_s=20.0))
            while len(seen) < count:
                try:
                    seen.append(await asyncio.wait_for(anext(records), 0.0005 * (1 + len(seen) % 7)))
                except TimeoutError:
                    continue
            await putting
        return seen

    seen = asyncio.run(main())
    assert [record.input for record in seen] == list(range(count))


def test_drain_waits_until_all_is_recorded_and_handed_over(kernel: RemoteKernel, settings: Settings):
    with timbr_wamp.connect(settings=settings) as client:
        machine = client.kernel(kernel.id).machine()
        machine.start()
        with machine.records(timeout_s=20.0) as records:
            machine.put_many(list(range(500)), timeout_s=20.0)
            next(records)
            assert not machine.drain(0.2)  # nobody reads on
            assert client.statistics.buffered_rows > 0
            seen: list[Any] = []
            reading = threading.Thread(target=lambda: seen.extend(next(records) for _ in range(499)))
            reading.start()
            assert client.drain(20.0)
            reading.join(20.0)
            assert len(seen) == 499
            machine.pause()
            machine.put(1)
            assert not machine.drain(20.0)  # at once: a machine that is paused records nothing
            machine.resume()
            assert machine.wait(20.0)
            wait_until(lambda: client.statistics.buffered_rows == 1)
            left = client.close()
    assert left.rows == 1
    assert not client.close()


def test_records_can_be_read_again_from_the_oldest_kept(machine: RemoteMachine):
    machine.put_many([1, 2, 3])
    assert machine.wait(10.0)
    last = machine.status.last_seq
    items = until_seq(machine, last, after_seq=0)
    kept = [item for item in items if isinstance(item, Record)]
    gaps = [item for item in items if isinstance(item, Gap)]
    covered = [seq for gap in gaps for seq in range(gap.first, gap.last + 1)] + [record.seq for record in kept]
    assert covered == list(range(1, last + 1))
    assert [record.input for record in machine.recent(3)] == [1, 2, 3]
    assert [record.seq for record in until_seq(machine, last, after_seq=last - 2)] == [last - 1, last]


def until_seq(machine: RemoteMachine, last: int, *, after_seq: int) -> list[Any]:
    """Read records and gaps up to the number ``last``."""
    items: list[Any] = []
    with machine.records(after_seq=after_seq, timeout_s=20.0) as records:
        for item in records:
            items.append(item)
            if (item.last if isinstance(item, Gap) else item.seq) >= last:
                break
    return items


def test_a_slow_reader_misses_nothing_that_is_kept(machine: RemoteMachine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("timbr_wamp.client.record_stream.BUFFER_ROWS", 20)
    count = 600
    with machine.records(timeout_s=10.0) as records:
        machine.put_many(list(range(count)), timeout_s=20.0)
        assert machine.wait(20.0)
        seen = [next(records) for _ in range(count)]
    assert [record.input for record in seen] == list(range(count))


def test_status_comes_beside_the_records(machine: RemoteMachine):
    with machine.records(timeout_s=20.0, status=True) as records:
        kinds = set()
        machine.put(1)
        for item in records:
            kinds.add(type(item))
            if kinds >= {Record, Status}:
                break
    assert kinds >= {Record, Status}


def test_callbacks_may_call_the_client(machine: RemoteMachine):
    seen: list[Any] = []
    with (
        machine.on_record(lambda oid, values: seen.append((oid, values, machine.running))),
        machine.on_status(seen.append),
    ):
        wait_until(lambda: any(isinstance(item, Status) for item in seen))
        oids: list[str] = []

        def heard() -> bool:  # K.machine is live only: what comes before the bridge noticed us is not repeated
            oids.append(machine.put("live"))
            return any(isinstance(item, tuple) and item[0] in oids for item in seen)

        wait_until(heard)
    assert next(item for item in seen if isinstance(item, tuple))[1:] == (["live"] * 4, True)


# --- the async face ------------------------------------------------------------------------------


def test_the_async_face_works_in_a_loop_of_ones_own(client: Client, kernel: RemoteKernel, machine: RemoteMachine):
    async def main() -> None:
        theirs = (await client.aio.kernel(kernel.id)).machine()
        await theirs.set(0, lambda x: x * 2)
        async with theirs.records(timeout_s=10.0) as records:
            for number in range(20):
                await theirs.put(number)
            seen = [await anext(records) for _ in range(20)]
        assert [record.values[0] for record in seen] == [2 * number for number in range(20)]
        calls = await asyncio.gather(*(theirs.call(number) for number in range(10)))
        assert [record.values[0] for record in calls] == [2 * number for number in range(10)]
        assert (await theirs.status()).running
        assert [each.kernel_id for each in await client.aio.kernels() if each.name == "pump"] == [kernel.id]

    asyncio.run(main())


def test_an_ambiguous_prefix_of_a_kernel_name_is_refused(client: Client, kernel: RemoteKernel):
    other = client.start_kernel("pump2")
    try:
        with pytest.raises(AmbiguousKernel):
            client.kernel("pu")
        with pytest.raises(AmbiguousKernel):
            client.kernel()
        assert client.kernel("pump").id == kernel.id
    finally:
        other.shutdown()


# --- policies, handler, error groups -----------------------------------------------------------


def test_policies_are_set_remotely_and_apply(machine: RemoteMachine):
    before = machine.status
    machine.set(0, source="lambda x: 1 / x", name="inverse", policy={"on_error": "default", "default": -1})
    machine.set(1, source="lambda x: 1 / (x + 1)")
    machine.set_policy(1, "drop")
    assert machine.policy_of("inverse") == Policy(on_error="default", default=-1)
    assert machine.slots[1].policy == Policy(on_error="drop")
    for number in (1, 0):
        machine.put(number)
    assert machine.wait(10.0)
    kept, dropped = machine.recent(2)
    assert (kept.values[0], kept.meta.dropped) == (1.0, False)
    assert (dropped.values[0], dropped.meta.dropped) == (-1, True)
    after = machine.status
    assert (after.dropped - before.dropped, after.policies.defaults - before.policies.defaults) == (1, 1)
    machine.set_policy("inverse", None)
    assert machine.slots[0].policy is None
    machine.set_policy(None, Policy(on_error="dead_letter"))
    assert machine.status.on_error == machine.policy_of(0) == Policy(on_error="dead_letter")
    machine.set_policy(None, "record")
    machine.set_policy(1, None)
    with pytest.raises(InvalidArgument, match="not one of record, default"):
        machine.set_policy(0, "forget")
    with pytest.raises(UnknownSlot):
        machine.set_policy("nowhere", "drop")


def test_a_handler_is_chosen_by_name_with_its_options(machine: RemoteMachine):
    assert machine.set_handler("RetryHandler", {"retries": 2, "backoff_s": 0.0}).handler == "RetryHandler"
    machine.set(0, source="tries = []\ndef flaky(x):\n    tries.append(x)\n    return x if len(tries) > 2 else 1 / 0\n")
    before = machine.status.policies.mended
    machine.put(5)
    assert machine.wait(10.0)
    assert machine.recent(1)[0].values[0] == 5
    assert machine.status.policies.mended == before + 1
    machine.handler = "BaseEventHandler"
    assert machine.handler == "BaseEventHandler"
    with pytest.raises(UnknownPlugin, match="RetryHandler"):
        machine.set_handler("NoSuchHandler")
    with pytest.raises(InvalidArgument, match="retries"):
        machine.set_handler("RetryHandler", {"tries": 1})


def test_failures_are_grouped_and_tried_again(machine: RemoteMachine):
    machine.set(0, source="def grouped(x):\n    raise LookupError(f'no {x}')\n")
    oids = [machine.put(number) for number in range(3)]
    assert machine.wait(10.0)
    group = next(group for group in machine.error_groups if group.task == "grouped" or group.exc_class == "LookupError")
    assert (group.count, group.open, group.last_oid, group.exc_value) == (3, 3, oids[-1], "no 2")
    assert group.policies == {"record": 3}
    assert "LookupError" in str(machine.error_groups)
    assert "LookupError" in machine.error_groups._repr_html_()
    machine.set(0, source="lambda x: x")
    assert machine.retry_errors(oids[:2]) == oids[:2]
    assert machine.wait(10.0)
    assert [record.attempt for record in machine.recent(2)] == [2, 2]
    group = next(group for group in machine.error_groups if group.exc_class == "LookupError")
    assert (group.open, group.resolved) == (1, False)


def test_a_change_is_tried_on_failed_messages_committed_and_they_are_retried_by_canary(machine: RemoteMachine):
    broken = machine.set(1, source="def inverse(x):\n    return 1 / (x - 5)\n", name="inverse", reason="a first try")
    oids = [machine.put(number) for number in (5, 6, 5)]
    assert machine.wait(10.0)
    found = machine.lookup(oids[0])
    assert (found.state, found.message, found.attempts[0].revision) == ("errored", 5, broken.number)
    assert found.attempts[0].failure is not None
    assert found.attempts[0].failure.name == "inverse"
    assert "ZeroDivisionError" in str(found)
    group = next(group for group in machine.error_groups if group.task.endswith("(inverse)"))

    report = machine.trial("inverse", lambda x: 0 if x == 5 else 1 / (x - 5), oids=oids)
    assert [row.outcome for row in report] == ["mended", "same", "mended"]
    assert "ZeroDivisionError" in report._repr_html_()
    assert [row.outcome for row in machine.trial(1, "lambda x: x", samples=[7, 8])] == ["changed", "changed"]
    revision = report.commit(reason="5 is a message, too")
    assert (revision.number, revision.reason) == (broken.number + 1, "5 is a message, too")
    assert machine.revisions[-1].reason == "5 is a message, too"
    with pytest.raises(TableChanged):
        report.commit()

    diff = machine.compare(broken.number, revision.number, oids=oids)
    assert [(slot.slot, slot.change) for slot in diff.slots] == [(1, "changed")]
    assert diff.trial is not None
    assert diff.trial.mended == 2
    old = machine.replay(oids, into="trial", revision=broken.number)
    assert [row.outcome for row in old] == ["same", "same", "same"]
    assert machine.replay(oids[1], into="trial", with_values={1: 4})[0].changes == ["inverse: 1.0 → 4"]

    threads: list[int] = []
    take = lambda progress: threads.append(threading.get_ident())  # noqa: E731
    assert machine.retry_errors(group=group, canary=1, timeout=10.0, on_progress=take) == [oids[0], oids[2]]
    assert set(threads) == {threading.get_ident()}
    assert machine.wait(10.0)
    assert [attempt.state for attempt in machine.lookup(oids[2]).attempts] == ["errored", "processed"]
    assert machine.replay(oids[1]) == [oids[1]]
    assert machine.wait(10.0)


def test_what_cannot_be_looked_up_tried_or_retried_is_the_machines_own_error(machine: RemoteMachine):
    machine.set(0, source="lambda x: 1 / x")
    oid = machine.put(0)
    assert machine.wait(10.0)
    with pytest.raises(UnknownMessage):
        machine.lookup(new_oid())
    with pytest.raises(UnknownErrorGroup):
        machine.retry_errors(group="f2:OSError")
    with pytest.raises(CanaryFailed, match="ZeroDivisionError") as caught:
        machine.retry_errors([oid], canary=1)
    assert caught.value.oids == (oid,)
    with pytest.raises(UnknownRevision):
        machine.compare(0, 10**6)
    with pytest.raises(InvalidArgument, match="trial"):
        machine.replay(oid, revision=1)


def test_lists_and_statuses_show_themselves(machine: RemoteMachine):
    machine.set(0, source="lambda x: x * 2", name="double")
    assert "double" in machine.slots._repr_html_()
    assert "set 0" in str(machine.revisions)
    assert "slot_changed" in str(machine.events())
    assert "double" in str(machine.plot())
    assert "-->" in machine.plot().mermaid
    assert machine.graph.nodes[1].needs == ["in"]


# --- tables ------------------------------------------------------------------------------------


def test_records_are_tables_with_the_slots_names_however_they_are_read(machine: RemoteMachine):
    machine.set(0, source="lambda x: x * 2", name="double")
    with machine.records(timeout_s=20.0) as reader:
        machine.put_many([1, 2, 3])
        taken = reader.take(3)
        assert list(taken.to_frame()["double"]) == [2, 4, 6]
        assert taken.gaps == []
        assert pandas.DataFrame(list(taken)).columns.tolist() == ["oid", "in", "double", "f1", "f2"]
        machine.set(0, source="lambda x: x * 3", name="triple")
        machine.put(4)
        wait_until(lambda: machine.status.last_seq >= taken[-1].seq + 1)
        (last,) = reader.take(1)
        assert last.values[0] == 12
        wait_until(lambda: last._fields[2] == "triple")
    recent = machine.recent(2)
    assert recent.to_arrow().column_names[:3] == ["oid", "in", "triple"]
    assert machine(5)._fields[2] == machine.record(last.run, last.seq)._fields[2] == "triple"
    assert machine.slots.to_frame()["name"].iloc[0] == "triple"
    assert machine.status._asdict()["last_seq"] == last.seq
    machine.set(0, source="lambda x: x", name="unnamed")


def test_reading_some_records_ends_at_the_timeout_with_fewer(machine: RemoteMachine):
    with machine.records(timeout_s=0.2) as reader:
        assert reader.take(5) == []
    with machine.records() as reader, pytest.raises(InvalidArgument, match="n"):
        reader.take(0)


def test_a_table_or_file_of_this_computer_is_a_source_of_a_machine_elsewhere(machine: RemoteMachine, tmp_path: Path):
    before = machine.status.put
    frame = pandas.DataFrame({"n": [1, 2], "x": [0.5, None]})
    machine.source = frame
    assert machine.wait(20.0)
    assert [record.input for record in machine.recent(2)] == [{"n": 1, "x": 0.5}, {"n": 2, "x": None}]
    assert machine.source.total == 2
    file = tmp_path / "data.csv"
    file.write_text("n\n7\n")
    machine.set_source(file, replace=True)
    assert machine.wait(20.0)
    assert machine.recent(1)[0].input == {"n": 7}
    machine.set_source(f"__import__('pathlib').Path({str(file)!r})", replace=True)
    assert machine.wait(20.0)
    assert machine.status.put == before + 4
    with pytest.raises(NotASource, match="source text"):
        machine.set_source("nothing.csv", replace=True)
    with pytest.raises(InvalidArgument, match="put_many"):
        machine.set_source(pandas.DataFrame({"text": ["x" * 1000] * 1000}), replace=True)
    del machine.source


# --- progress and sources ----------------------------------------------------------------------

PACED = """
import threading
pace = threading.Semaphore(0)
def paced():
    for number in range(40):
        assert pace.acquire(timeout=30)
        yield number
"""


@pytest.fixture
def paced(kernel: RemoteKernel, machine: RemoteMachine) -> Iterator[RemoteMachine]:
    """The machine with a source of 40 messages, each of which is let through by a release in the kernel."""
    kernel.run(PACED)
    kernel.run("m.set_source(paced, total=40)")
    yield machine
    kernel.run("pace.release(100)")
    assert machine.wait(20.0)
    del machine.source


def test_progress_arrives_while_the_machine_runs(kernel: RemoteKernel, paced: RemoteMachine):
    assert paced.progress().total == 40
    seen: list[Progress] = []

    def look(progress: Progress) -> None:
        seen.append(progress)
        if not progress.complete:
            kernel.run("pace.release(10)")
        assert threading.current_thread() is threading.main_thread()

    last = paced.follow(look, interval_s=0.1, timeout=60.0)
    assert (last.done, last.percentage, last.complete) == (40, 100.0, True)
    assert len({progress.done for progress in seen}) >= 3
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)


def test_waiting_shows_a_bar_and_an_interrupt_leaves_the_machine_running(
    kernel: RemoteKernel, paced: RemoteMachine, capsys: pytest.CaptureFixture[str]
):
    kernel.run("pace.release(10)")
    threading.Timer(1.0, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        paced.wait(60.0, progress="rich")
    assert "10/40" in capsys.readouterr().err.replace(" ", "").replace("of", "/")
    assert paced.running
    kernel.run("pace.release(30)")
    assert paced.wait(20.0, progress="none")
    assert paced.progress().complete


def test_wait_returns_when_the_machine_does_not_run(kernel: RemoteKernel):
    small = kernel.machine("small")
    oid = small.put(1)
    started = time.monotonic()
    for progress in (False, "none"):
        with pytest.warns(NotRunning, match="nothing is processed: start") as warned:
            assert not small.wait(30.0, progress=progress)
        assert warned[0].filename == __file__
    assert time.monotonic() - started < 10
    small.start()
    assert small.wait(10.0)
    assert small.recent(1)[0].oid == oid
    small.stop()


def test_a_source_gets_its_options_remotely(machine: RemoteMachine):
    status = machine.set_source("range(30)", total=30, policy="wait", on_exhausted="stop", restarts=2, backoff_s=0.5)
    assert status.source.options == SourceOptions(on_exhausted="stop", restarts=2, backoff_s=0.5)
    wait_until(lambda: machine.status.state == "stopped")
    assert machine.status.source.count == 30
    del machine.source
    with pytest.raises(InvalidArgument, match="'speed' is unknown"):
        machine.set_source("range(3)", speed=3)
    with pytest.raises(InvalidArgument):
        machine.set_source("range(3)", policy="forget")
    assert machine.configure(concurrency=2).concurrency == 2
    assert machine.configure(concurrency=1).concurrency == 1


# --- live --------------------------------------------------------------------------------------


def test_a_tap_grows_with_each_record_and_is_closed_with_its_client(
    machine: RemoteMachine, settings: Settings, kernel: RemoteKernel
):
    machine.set(1, source="lambda x: x * 2", name="double")
    with timbr_wamp.connect(settings=settings) as other:
        remote = other.kernel(kernel.id).machine()
        taps = [remote.tap(label, 3) for label in ("in", "f1", "double", 1)]
        oids = []

        def put_and_look() -> bool:
            oids.append(machine.put(len(oids)))
            return all(len(tap) == 3 for tap in taps)

        wait_until(put_and_look)
        assert machine.wait(10.0)
        wait_until(lambda: taps[0].oids[-1] == oids[-1] == taps[1].oids[-1])
        assert list(taps[0]) == [len(oids) - 3, len(oids) - 2, len(oids) - 1]
        assert list(taps[1]) == list(taps[2]) == [2 * value for value in taps[0]]
        taps[3].close()
        assert taps[3].closed
        with pytest.raises(SlotOutOfRange):
            remote.tap("f99")
    assert all(tap.closed for tap in taps)
    assert len(taps[0]) == 3


def test_callbacks_get_events_of_their_kind(machine: RemoteMachine):
    kinds: list[str] = []
    every: list[str] = []
    failed: list[str] = []
    end = machine.on("paused", lambda event: kinds.append(event.kind))
    with (
        machine.on("*", lambda event: every.append(event.kind)),
        machine.on("error", lambda row: failed.append(row.oid)),
    ):
        machine.set(0, source="lambda x: 1 / 0")

        def fail_and_look() -> bool:  # the bridge begins to publish a topic with its first subscriber
            machine.put(1)
            machine.pause()
            machine.resume()
            return bool(kinds and failed and {"paused", "resumed"} <= set(every))

        wait_until(fail_and_look)
    assert set(kinds) == {"paused"}
    end()
    with pytest.raises(InvalidArgument, match="exploded"):
        machine.on("exploded", print)


# --- rights ------------------------------------------------------------------------------------


def test_a_viewer_sees_groups_graph_and_progress_but_changes_nothing(
    router: Router, settings: Settings, kernel: RemoteKernel
):
    store = TokenStore(router.node_dir)
    token = store.create("looker", "viewer")
    try:
        with timbr_wamp.connect(token=token, settings=settings) as other:
            remote = other.kernel(kernel.id).machine()
            assert isinstance(remote.error_groups, list)
            assert remote.graph.nodes[0].id == "in"
            assert remote.progress().done >= 0
            for forbidden in (
                lambda: remote.set_policy(0, "drop"),
                lambda: remote.set_handler("RetryHandler"),
                lambda: remote.configure(concurrency=2),
                lambda: remote.retry_errors(),
                lambda: remote.rollback(1),
            ):
                with pytest.raises(NotAuthorized):
                    forbidden()
    finally:
        store.revoke("looker")


def test_a_reader_gets_the_last_records_of_a_machine_that_a_newer_one_of_its_name_replaces(kernel: RemoteKernel):
    kernel.execute("old = timbr_wamp.Machine(1, name='twice', bufsize=5000)")
    machine = kernel.machine("twice")
    wait_until(lambda: "twice" in [one.name for one in kernel.info().machines])
    before = machine.status.run
    with machine.records(timeout_s=30.0) as records:
        machine.put("first")
        machine.start()
        assert next(records).input == "first"
        machine.put_many(list(range(3000)))
        done = kernel.execute("old.wait(30)\nnew = timbr_wamp.Machine(1, name='twice')\nold.status.last_seq")
        assert done.status == "ok", done
        wait_until(lambda: machine.status.run != before)
        machine.start()
        machine.put("new")
        items = []
        while not items or getattr(items[-1], "input", None) != "new":
            items.append(next(records))
    assert [item.input for item in items[:3000]] == list(range(3000))
    assert [type(item) for item in items[3000:]] == [RunChanged, Record]


SLEEPS = """
import pathlib, time
pathlib.Path({path!r}).write_text("started")
try:
    time.sleep({seconds})
except KeyboardInterrupt:
    pathlib.Path({path!r}).write_text("interrupted")
else:
    pathlib.Path({path!r}).write_text("ran to its end")
"""


def test_a_cancelled_execute_interrupts_its_own_cell(kernel: RemoteKernel, tmp_path: Path):
    told = tmp_path / "told"

    async def work() -> None:
        cell = asyncio.create_task(kernel.aio.execute(SLEEPS.format(path=str(told), seconds=60)))
        await until(lambda: told.exists() and told.read_text() == "started", "the cell runs")
        queued = asyncio.create_task(kernel.aio.execute("'of somebody else'"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(cell, 0.1)
        assert (await asyncio.wait_for(queued, 20)).status == "ok"

    asyncio.run(work())
    assert told.read_text() == "interrupted"


def test_a_cancelled_execute_that_waits_interrupts_no_other_cell(kernel: RemoteKernel, tmp_path: Path):
    told = tmp_path / "told"

    async def work() -> None:
        cell = asyncio.create_task(kernel.aio.execute(SLEEPS.format(path=str(told), seconds=1)))
        await until(lambda: told.exists() and told.read_text() == "started", "the cell runs")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(kernel.aio.execute("'waits'"), 0.2)
        await asyncio.wait_for(cell, 20)

    asyncio.run(work())
    assert told.read_text() == "ran to its end"


def test_a_cell_runs_on_when_the_link_of_its_caller_is_lost(
    kernel: RemoteKernel, settings: Settings, router: Router, tmp_path: Path
):
    told = tmp_path / "told"
    cell = SLEEPS.format(path=str(told), seconds=1)
    code = (
        "import os, sys, threading, timbr_wamp\n"
        f"kernel = timbr_wamp.connect().kernel({kernel.id!r})\n"
        f"threading.Thread(target=kernel.execute, args=({cell!r},), daemon=True).start()\n"
        "sys.stdin.read()\n"
        "os._exit(0)\n"
    )
    caller = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stdin=subprocess.PIPE)
    wait_until(lambda: told.exists() and told.read_text() == "started")
    caller.communicate(timeout=20)
    wait_until(lambda: told.read_text() != "started")
    assert told.read_text() == "ran to its end"
