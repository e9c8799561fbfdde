"""A machine's local wire, used by a real ZeroMQ subscriber and a real control client."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import msgspec
import orjson
import pytest
import zmq
from machine_kit import LIMIT_S, MemoryJournal, in_thread
from wait_kit import wait_until
from wire_kit import Peer, file_of

from timbr_wamp import runtime
from timbr_wamp.contract import MACHINE, FunctionRef, SourceOptions, records_from_batch
from timbr_wamp.contract.structs import PAYLOAD_LIMIT_BYTES, ROW_LIMIT_BYTES
from timbr_wamp.errors import (
    InvalidArgument,
    InvalidSource,
    MachineFull,
    NoSuchProcedure,
    RecordTooLarge,
    RemoteError,
    SlotOutOfRange,
    UnsafeFolder,
)
from timbr_wamp.machine.events.hooks import POINTS
from timbr_wamp.machine.serving import sockets
from timbr_wamp.names import BATCHES, new_listener
from timbr_wamp.user_warnings import MachineReplaced

# --- records ---------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_records_are_published_in_the_original_format_with_meta_behind(machines, connect, transport):
    machine = machines()
    machine.serve(transport=transport)
    assert machine.endpoint.startswith(transport)
    peer = connect(machine)
    peer.wait_subscribed(machine)
    before = machine.status.last_seq
    machine[0] = lambda x: x**2
    oids = [machine.put(n) for n in range(3)]
    machine.start()
    for n in range(3):
        oid, text, meta = peer.records.recv_multipart()
        assert oid.decode() == oids[n]
        assert text == b"[%d,%s]" % (n, b",".join([b"%d" % n**2] * 8))
        decoded = orjson.loads(meta)
        assert (decoded["run"], decoded["seq"]) == (machine.run, before + n + 1)
        assert (decoded["attempt"], decoded["revision"], decoded["errored"]) == (1, 1, False)
        assert decoded["received_at"] <= decoded["finished_at"]
    assert machine.wait(LIMIT_S)
    assert peer.status().processed == machine.status.processed == before + 3


def test_a_machine_whose_runtime_file_cannot_be_written_leaves_no_sockets(machines, runtime_dir, monkeypatch):
    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source, None, target)

    machine = machines()
    with monkeypatch.context() as patched:
        patched.setattr(runtime.os, "replace", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*/machine-[0-9]+-\w+\.json'$"):
            machine.serve()
    assert list(runtime_dir.iterdir()) == []
    machine.serve()
    assert file_of(machine, runtime_dir)


@pytest.mark.filterwarnings("ignore::timbr_wamp.user_warnings.MachineReplaced")
def test_a_machine_whose_wire_cannot_be_opened_takes_no_name_from_an_older_one(
    machines, served, runtime_dir, connect, monkeypatch
):
    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source, None, target)

    served.start()
    newer = machines()
    with monkeypatch.context() as patched:
        patched.setattr(runtime.os, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            newer.serve()
    assert served.running
    assert connect(served).status().run == served.run
    newer.serve()
    assert not served.running
    assert served.endpoint is None
    assert connect(newer).status().run == newer.run


@pytest.mark.filterwarnings("ignore::timbr_wamp.user_warnings.MachineReplaced")
def test_a_replaced_machine_answers_until_its_last_record_was_read(machines, served, runtime_dir, peer, new_gate):
    topic = new_listener(BATCHES)
    peer.records.setsockopt(zmq.SUBSCRIBE, topic)
    wait_until(lambda: peer.status().run == served.run, "an answer")
    gate = new_gate()
    served[0] = gate
    served.start()
    served.put("last")
    gate.wait_until_entered(LIMIT_S)
    newer = machines()
    serving = in_thread(newer.serve)
    wait_until(lambda: file_of(newer, runtime_dir).run == newer.run, "the newer one's file")
    assert peer.status().in_flight == 1, "it still answers"
    gate.open()
    while not (frames := peer.records.recv_multipart())[0].startswith(topic):
        pass
    assert orjson.loads(frames[2])[-1][0] == served.status.last_seq
    assert peer.status().state == "stopped", "whoever reads all may still ask"
    peer.close()
    serving.result(LIMIT_S)
    assert served.endpoint is None


def test_over_tcp_only_who_has_the_keys_of_the_runtime_file_gets_an_answer(machines, runtime_dir):
    machine = machines()
    machine.serve(transport="tcp")
    file = file_of(machine, runtime_dir)
    assert file.control.startswith("tcp://127.0.0.1:")
    stranger_key, stranger_secret = zmq.curve_keypair()
    for change in (
        {"curve_server_key": None, "curve_client_public": None, "curve_client_secret": None},
        {"curve_server_key": stranger_key.decode()},
        {"curve_client_public": stranger_key.decode(), "curve_client_secret": stranger_secret.decode()},
    ):
        fields = {**msgspec.structs.asdict(file), **change}
        stranger = Peer(runtime.MachineFile(**fields))
        stranger.control.rcvtimeo = 200
        try:
            with pytest.raises(zmq.Again):
                stranger.status()
        finally:
            stranger.close()
    friend = Peer(file)
    assert friend.status().run == machine.run
    friend.close()


def test_the_runtime_file_names_the_machine_and_is_gone_with_its_sockets_after_close(served, runtime_dir):
    file = file_of(served, runtime_dir)
    assert (file.name, file.run, file.pid) == ("machine", served.run, os.getpid())
    assert file.alive()
    names = {path.name for path in runtime_dir.iterdir()}
    assert len(names) == 3
    for path in runtime_dir.iterdir():
        assert stat.S_IMODE(runtime_dir.stat().st_mode) == 0o700
        assert len(os.fsencode(path)) <= runtime.SOCKET_PATH_LIMIT_BYTES
    served.close()
    assert list(runtime_dir.iterdir()) == []


def test_a_runtime_folder_with_a_long_path_gets_its_sockets_elsewhere_and_nothing_is_left(
    machines, monkeypatch, runtime_dir
):
    long = runtime_dir / ("x" * 90)
    monkeypatch.setenv("TIMBR_WAMP_RUNTIME_DIR", str(long))
    machine = machines(serve=True)
    peer = Peer(file_of(machine, long))
    assert peer.status().state == "idle"
    peer.close()
    folder = Path(machine.endpoint.removeprefix("ipc://")).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    machine.close()
    assert not folder.exists()
    assert list(long.iterdir()) == []


def test_a_world_readable_runtime_folder_is_refused(machines, runtime_dir):
    runtime_dir.chmod(0o755)
    machine = machines()
    with pytest.raises(UnsafeFolder):
        machine.serve()
    assert list(runtime_dir.iterdir()) == []
    assert machine.endpoint is None


def test_a_machine_replaced_by_a_new_one_of_its_name_is_stopped_and_can_be_started_again(machines, served, runtime_dir):
    older = machines(serve=True)
    older.source = range(10)
    older.start()
    with pytest.warns(MachineReplaced, match="takes the name 'machine' of one that was running"):
        machines(serve=True)
    assert not older.running
    assert older.status.state == "stopped"
    assert older.events()[-1].data["reason"] == older.status.reason
    older.start()  # a reference to the older one can still be used
    assert older.wait(5.0)
    assert older.status.processed == 10


def test_the_status_of_a_machine_that_was_replaced_says_so_until_it_is_started(machines, served, runtime_dir):
    served.put(1)
    with pytest.warns(MachineReplaced, match="of one that was idle with 1 message waiting"):
        newer = machines(serve=True)
    served.put(2)
    assert served.status.state == "stopped"
    assert served.status.reason.startswith("replaced by a new machine of the same name")
    assert served.status.queue_size == 2
    assert newer.status.reason is None
    served.start()
    assert served.status.reason is None


def test_a_machine_without_work_is_replaced_without_a_warning(machines, served, runtime_dir):
    machines(serve=True)
    assert served.status.reason.startswith("replaced")


def test_a_warning_that_is_an_error_leaves_the_older_machine_as_it_was(machines, served, runtime_dir, connect):
    served.start()
    with pytest.raises(MachineReplaced):
        machines(serve=True)
    assert served.running
    assert connect(served).status().run == served.run


def test_the_newer_of_two_machines_with_one_name_is_served(machines, served, runtime_dir, connect):
    other = machines(serve=True, name="other")
    newer = machines(serve=True)
    assert served.endpoint is None
    assert file_of(newer, runtime_dir).run == newer.run
    assert connect(newer).status().run == newer.run
    assert connect(other).status().name == "other"
    served.put(1)
    assert served.get()[1] == "1", "the older one works without a wire"
    served.close()
    assert file_of(newer, runtime_dir).run == newer.run


def test_a_machine_can_be_served_again(served, connect):
    served.unserve()
    served.unserve()
    assert served.endpoint is None
    served.serve()
    served.serve()
    assert connect(served).status().run == served.run


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_closing_the_wire_ends_in_time_though_its_thread_is_stuck(machines, new_gate, monkeypatch, transport):
    gate, threads = new_gate(), set()

    def clock() -> float:
        if threading.current_thread().name.endswith(" control"):
            threads.add(threading.current_thread())
            gate(None)
        return time.time()

    monkeypatch.setattr(sockets, "CLOSE_LIMIT_S", 0.1)
    machine = machines(1, serve=False, clock=clock)
    machine.serve(transport=transport)
    gate.wait_until_entered()
    in_thread(machine.unserve).result()
    assert machine.endpoint is None
    gate.open()
    wait_until(lambda: not any(thread.is_alive() for thread in threads), "the control thread ends")


def test_a_slow_subscriber_loses_records_but_can_ask_for_all_of_them(served, peer):
    served.configure(bufsize=20_000)
    served.start()
    oids = [served.put(n) for n in range(10_000)]
    assert served.wait(LIMIT_S)
    after, seen = 0, []
    while after < 10_000:
        page = MACHINE["records"].result(peer.call("records", served.run, after, 1000))
        assert page.last_seq == 10_000
        seen += [record.oid for batch in page.batches for record in records_from_batch(batch)]
        after = page.batches[-1].last_seq
    assert seen == oids


def test_closing_while_records_stream_ends_quietly(machines, connect, records):
    for _ in range(5):
        machine = machines(serve=True, sinks=[records])
        before = len(records.rows)
        connect(machine)
        machine.source = itertools.count()
        machine.start()
        records.wait_for(before + 200)
        machine.close()
        assert not machine.running
        assert machine.endpoint is None


# --- control ---------------------------------------------------------------------------------


def test_calls_are_answered_with_results_and_errors_of_the_contract(served, peer):
    oid = peer.call("put", {"mag": 1})
    assert served.get()[:2] == (oid, '{"mag":1}')
    assert peer.call("slot_set", 0, {"kind": "source", "text": "lambda x: x + 1"})["number"] == 1
    assert served.revisions[-1].author == "ada"
    assert peer.call("call", 1)["text"] == "[1,2,2,2,2,2,2,2,2]"
    assert peer.call("start")["state"] == "running"
    for bad, error in [
        (("slot", 99), SlotOutOfRange),
        (("slot",), InvalidArgument),
        (("records", 5, 5), InvalidArgument),
        (("reboot",), NoSuchProcedure),
        (("slot_set", 0, {"kind": "source", "text": "lambda x x"}), InvalidSource),
        (("slot_set", 0, {"kind": "source", "text": "raise SystemExit"}), InvalidSource),
    ]:
        with pytest.raises(error) as caught:
            peer.call(*bad)
        assert caught.value.remote_traceback


def test_a_full_queue_is_refused_with_its_capacity(served, peer):
    done = peer.call("put_many", list(range(150)))
    assert (len(done["oids"]), done["refused"]) == (100, 50)
    with pytest.raises(MachineFull) as caught:
        peer.call("put", 1)
    assert caught.value.capacity == 100
    assert served.status.refused == 51


def test_putting_many_waits_for_room_as_long_as_asked(served, peer):
    request = peer.send("put_many", list(range(300)), timeout_s=LIMIT_S)
    served.start()
    done = peer.result(request)
    assert served.wait(LIMIT_S)
    assert done == {"oids": [record.oid for record in served.recent(300)], "refused": 0}


def test_code_that_exits_while_it_is_called_is_answered(served, peer):
    served[0] = lambda x: sys.exit(3)
    assert peer.call("call", 1)["errored"] is True
    with pytest.raises((RemoteError, InvalidSource)):
        peer.call("source_set", {"kind": "source", "text": "def f():\n    raise SystemExit(3)\nf"})
    assert peer.status().state == "idle"


def test_a_request_that_cannot_be_decoded_is_dropped_and_control_continues(served, peer, caplog):
    for junk in (b"", b"junk", msgspec.msgpack.encode(["1", 2]), msgspec.msgpack.encode(["x", "status", [], {}, None])):
        peer.control.send(junk)
    peer.control.send_multipart([b"", b"more", b"frames"])
    assert peer.status().state == "idle"


@pytest.mark.parametrize("args", [(), (1,), ("a", 0, 0.1), (0, 0, None), (None, None, None)])
def test_a_bad_long_poll_is_refused_and_does_no_harm(served, peer, args):
    with pytest.raises(InvalidArgument):
        peer.call("__changes__", *args)
    assert peer.status().state == "idle"


def test_status_is_answered_while_a_call_runs_users_code(served, peer, new_gate):
    calling = new_gate()
    served[0] = calling
    call = peer.send("call", 1)
    calling.wait_until_entered()
    assert peer.status().state == "idle"
    calling.open()
    assert peer.result(call)["text"].startswith("[1,1")


def test_status_is_answered_while_source_text_of_a_slot_is_still_running(machines, runtime_dir, connect, new_gate):
    compiling = new_gate()
    machine = machines(serve=True, namespace={"compiling": compiling})
    peer = connect(machine)
    setting = peer.send("slot_set", 0, {"kind": "source", "text": "compiling(1)\nlambda x: x"})
    compiling.wait_until_entered()
    assert peer.status().revision == 0
    compiling.open()
    assert peer.result(setting)["number"] == 1
    assert peer.status().revision == 1


def test_status_is_answered_while_the_machine_runs_at_full_speed(served, peer):
    served.source = itertools.count()
    served.start()
    seen = [peer.status().processed for _ in range(50)]
    wait_until(lambda: peer.status().processed > seen[0], "messages are processed")
    assert seen == sorted(seen)


SOURCE_TEXT = {"kind": "source", "text": "str"}

#: Every procedure of a machine with arguments.
EVERY_CALL = {
    "status": (), "slots": (), "slot": (0,), "records": ("RUN", 0), "record": ("RUN", 1), "recent": (), "errors": (),
    "error_groups": (), "graph": (), "progress": (0.1, 0.2), "revisions": (), "events": (), "metrics": (), "put": (1,),
    "put_many": ([1, 2],), "call": (1,), "start": (), "stop": (), "pause": (), "resume": (), "replay": ("RUN", [1]),
    "retry_errors": (), "slot_set": (0, SOURCE_TEXT), "slot_delete": (0,), "policy_set": (None, {"on_error": "drop"}),
    "handler_set": ("RawEventDebugger",), "configure": (50, 9, 2), "trial": (0, SOURCE_TEXT), "rollback": (0,),
    "source_set": ({"kind": "source", "text": "[1, 2]"},), "source_delete": (), "lookup": ("0" * 24,),
    "compare": (0, 0), "trial_report": (0, SOURCE_TEXT), "table_trial": (),
}  # fmt: skip


def test_every_procedure_is_among_those_that_are_tried_with_slow_code():
    assert set(EVERY_CALL) == set(MACHINE)


@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize("name", sorted(EVERY_CALL))
def test_status_is_answered_while_a_procedure_runs_slow_code(machines, runtime_dir, connect, new_gate, name, journal):
    """Whatever a procedure runs of others is slow: slots, hooks at every point, sinks, the journal."""
    gate, kept = new_gate(), MemoryJournal()
    machine = machines(stages=2, serve=True, journal=kept if journal else None)
    machine.put("first")
    machine.get()
    machine.start()
    if name == "resume":
        machine.pause()
    for point in POINTS:
        machine.hook(point, lambda *_: gate(None))
    append, records = kept.append, kept.records
    kept.append = lambda entries: (gate(None), append(entries))
    kept.records = lambda after_seq, limit: (gate(None), records(after_seq, limit))[1]
    peer = connect(machine)
    arguments = [machine.run if argument == "RUN" else argument for argument in EVERY_CALL[name]]
    asked = peer.send(name, *arguments)
    for _ in range(3):
        assert peer.status().name == machine.name
    gate.open()
    while (reply := peer.reply(asked))[1] == "progress":
        pass
    assert reply[1] in ("result", "error")


def test_puts_of_one_caller_stay_in_order_though_a_hook_is_slow(served, peer, new_gate):
    gate = new_gate()
    served.hook("pre_put", gate)
    asked = [peer.send("put", n) for n in range(5)]
    gate.wait_until_entered()
    assert peer.status().put == 0
    gate.open()
    oids = [peer.result(one) for one in asked]
    assert [served.get()[0] for _ in oids] == oids


class Unspeakable(Exception):
    def __str__(self):
        raise SystemExit


def unspeakable(*_):
    raise Unspeakable


class NoText:
    """What msgpack cannot carry."""


@pytest.mark.parametrize("name", ["status", "events", "__changes__"])
def test_a_result_that_cannot_be_encoded_is_answered_with_an_error(served, peer, name):
    served.event_log.add("full", author=NoText())
    served.event_log.add("full", strange=NoText())
    asked = peer.send(name, 0, 0, 0.1) if name == "__changes__" else peer.send(name)
    _, kind, value = peer.reply(asked)
    assert kind == ("result" if name == "status" else "error"), value
    assert peer.status().state == "idle"


def test_an_error_whose_text_raises_is_answered_with_an_error(served, peer):
    served.namespace["unspeakable"] = unspeakable
    with pytest.raises((RemoteError, InvalidSource)):
        peer.call("source_set", {"kind": "source", "text": "unspeakable()"})
    assert peer.status().state == "idle"


@pytest.mark.parametrize("request_", [[7], [7, "status"], [7, 3, [], {}, None], [7, "status", {}, [], None]])
def test_a_request_of_a_wrong_form_is_answered_with_an_error(served, peer, request_):
    peer.control.send(msgspec.msgpack.encode(request_))
    assert peer.reply(7)[1] == "error"


@pytest.mark.parametrize("letter", ["x", "漢", "é"])
def test_the_newest_records_fit_one_payload_in_bytes_whatever_their_texts(served, peer, letter):
    for _ in range(60):
        served.put(letter * 3_000)
        served.get()
    assert sum(len(row[2].encode()) for row in peer.call("recent", 60)) < PAYLOAD_LIMIT_BYTES
    (batch,) = peer.call("records", served.run, 0)["batches"]
    assert batch["count"] == 60 if letter == "x" else batch["count"] > 20
    assert len(batch["block"].encode()) < PAYLOAD_LIMIT_BYTES


def test_a_row_that_is_large_only_by_what_unset_slots_carry_travels_with_its_values(served, peer):
    served.put("x" * 30_000)
    served.get()
    (row,) = peer.call("recent", 1)
    assert len(row[2]) > ROW_LIMIT_BYTES
    assert peer.call("record", served.run, 1)[2] == row[2]


def test_a_large_record_comes_in_parts_and_its_row_tells_its_size(served, peer):
    large = "ä" * 400_000
    served.put(large)
    served.get()
    page = MACHINE["records"].result(peer.call("records", served.run, 0))
    (record,) = records_from_batch(page.batches[0])
    size = record.meta.text_bytes
    with pytest.raises(RecordTooLarge):
        record.values  # noqa: B018 - it raises
    assert size > ROW_LIMIT_BYTES
    number = peer.send("record", served.run, 1)
    parts = []
    while True:
        _, kind, value = peer.reply(number)
        if kind == "result":
            break
        assert kind == "progress"
        parts.append(value)
    text = "".join(parts)
    assert len(text.encode()) == size
    assert orjson.loads(text)[0] == large
    assert value[2] is None
    served.put("small")
    served.get()
    assert peer.call("record", served.run, 2)[2].startswith('["small"')


def test_an_error_whose_text_no_utf_8_can_carry_reaches_everybody(served, peer):
    def slot(value):
        raise OSError("\udcff")

    served[0] = slot
    served.put(1)
    served.get()
    assert "udcff" in peer.call("errors")[0]["exc_value"]
    assert peer.call("__changes__", 0, 0, 0.0)["errors"]
    with pytest.raises(InvalidSource, match="udcff"):
        peer.call("slot_set", 0, {"kind": "source", "text": 'raise OSError("\\udcff")'})


@pytest.mark.parametrize("slot", [0, 1, 5])
def test_a_trial_runs_a_function_on_kept_records_as_if_it_were_in_the_slot(served, peer, slot):
    served[0:2] = [lambda x: x * 10, lambda f0, x: [f0, x]]
    for n in (1, 2):
        served.put(n)
        served.get()
    ref = FunctionRef(kind="source", text="lambda newest: ['tried', newest]")
    rows = MACHINE["trial"].result(peer.call("trial", slot, msgspec.to_builtins(ref)))
    newest = {0: [1, 2], 1: [10, 20], 5: [[10, 1], [20, 2]]}[slot]
    assert [orjson.loads(row.text) for row in rows] == [["tried", value] for value in newest]
    assert [row.errored for row in rows] == [False, False]
    assert [row.input for row in rows] == ["1", "2"]
    assert [row.before for row in rows] == {0: ["10", "20"], 1: ["[10,1]", "[20,2]"]}.get(slot, ["[10,1]", "[20,2]"])
    assert served.revision == 1
    assert served.status.last_seq == 2


def test_a_trial_reports_errors_and_skips(served, peer):
    def fail(value):
        raise ValueError("on purpose")

    served[0] = fail
    served.put(1)
    served.get()
    skipped = peer.call("trial", 1, {"kind": "source", "text": "lambda f0: 'never'"})[0]
    assert (skipped["errored"], "f0 failed" in skipped["text"]) == (True, True)
    failed = peer.call("trial", 0, {"kind": "source", "text": "lambda x: 1 / 0"})[0]
    assert (failed["errored"], "ZeroDivisionError" in failed["text"]) == (True, True)
    assert "on purpose" in failed["before"]
    served.configure(stages=12)
    new = peer.call("trial", 11, {"kind": "source", "text": "lambda: 'new'"})[0]
    assert (new["text"], new["before"]) == ('"new"', None)


def test_who_begins_to_look_later_gets_how_the_counters_grew(served, peer):
    served.put(1)
    served.get()
    wait_until(lambda: peer.call("metrics")["processed"][:-1][-1:] == [1], "a second has passed")
    metrics = MACHINE["metrics"].result(peer.call("metrics", 60))
    assert metrics.run == served.run
    assert len({len(series) for series in (metrics.time, metrics.processed, metrics.errored, metrics.dropped)}) == 1
    assert metrics.time == sorted(metrics.time)


def test_a_source_is_set_and_deleted_remotely(served, peer):
    assert peer.call("source_set", {"kind": "source", "text": "range(5)"})["source"]["total"] == 5
    peer.call("start")
    assert served.wait(LIMIT_S)
    assert peer.call("status")["source"] == {
        "state": "exhausted", "count": 5, "total": 5, "eta_s": None, "error": None, "dropped": 0,
        "restarts": 0, "options": msgspec.to_builtins(SourceOptions()),
    }  # fmt: skip
    assert peer.call("source_delete")["source"]["state"] == "none"
    assert served.events()[-1].author == "ada"


# --- long poll -------------------------------------------------------------------------------


def test_a_long_poll_is_answered_when_something_happens(served, peer):
    request = peer.send("__changes__", 0, 0, 2.0)
    assert peer.status().state == "idle"
    served.start(author="bob")
    value = peer.result(request)
    assert [event["kind"] for event in value["events"]] == ["started"]
    assert value["events"][0]["author"] == "bob"
    assert (value["event_number"], value["error_number"], value["errors"]) == (1, 0, [])
    assert value["status"]["state"] == "running"


def test_a_long_poll_is_answered_at_its_end_when_nothing_happens(served, peer):
    value = peer.call("__changes__", 0, 0, 0.01)
    assert (value["events"], value["errors"], value["event_number"]) == ([], [], 0)


def test_a_long_poll_returns_errors_that_the_poller_has_not_seen(served, peer):
    def fail(value):
        raise ValueError("on purpose")

    served[0] = fail
    served.put(1), served.put(2)
    served.get(), served.get()
    value = peer.call("__changes__", 1, 1, 2.0)
    assert (len(value["errors"]), value["error_number"], value["events"]) == (1, 2, [])
    assert value["errors"][0]["exc_value"] == "on purpose"


def test_each_poller_has_a_poll_of_its_own(served, connect):
    peers = [connect(served) for _ in range(3)]
    requests = [peer.send("__changes__", 0, 0, 2.0) for peer in peers]
    for peer in peers:
        peer.status()
    served.start()
    for peer, request in zip(peers, requests, strict=True):
        assert peer.result(request)["event_number"] == 1


# --- the end of the process ------------------------------------------------------------------


def run_script(text: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)], capture_output=True, text=True, timeout=30, **kwargs
    )  # type: ignore[call-overload, no-any-return]


def test_a_program_that_ends_prints_nothing_and_leaves_no_files(runtime_dir):
    done = run_script("""
        import itertools
        from timbr_wamp import Machine
        m = Machine(serve=True)
        m[0] = lambda x: x
        m.source = itertools.count()
        m.start()
        while m.status.processed < 1000: pass
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(runtime_dir.iterdir()) == []


def test_a_program_that_ends_in_an_error_leaves_no_files(runtime_dir):
    done = run_script("""
        from timbr_wamp import Machine
        m = Machine(serve=True)
        m.start()
        raise SystemExit(3)
    """)
    assert (done.returncode, done.stderr) == (3, "")
    assert list(runtime_dir.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_removes_no_file_of_its_parent(runtime_dir):
    done = run_script("""
        import os, sys, warnings
        from timbr_wamp import Machine
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork beside threads
        m = Machine(serve=True)
        m.start()
        before = sorted(os.listdir(os.environ["TIMBR_WAMP_RUNTIME_DIR"]))
        pid = os.fork()
        if pid == 0:
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert sorted(os.listdir(os.environ["TIMBR_WAMP_RUNTIME_DIR"])) == before, "files were removed"
        m.put(1)
        assert m.wait(5)
    """)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(runtime_dir.iterdir()) == []


def test_the_file_of_a_killed_program_is_removed_by_the_next_lookup(runtime_dir):
    done = run_script("""
        import os, signal
        from timbr_wamp import Machine
        m = Machine(serve=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert done.returncode == -9
    assert len(list(runtime_dir.glob("machine-*.json"))) == 1
    assert runtime.live_files(runtime_dir, "machine-", runtime.MachineFile) == {}
    assert list(runtime_dir.glob("machine-*.json")) == []


def test_a_served_machine_answers_within_its_control_thread_only_while_it_is_open(served, peer):
    served.close()
    peer.control.rcvtimeo = 100
    with pytest.raises(zmq.Again):
        peer.status()


def test_events_and_revisions_fit_one_payload_whatever_texts_they_have(served, peer):
    for _ in range(30):
        served.event_log.add("configured", name="漢" * 20_000)
        served.set(0, str, name="漢" * 3)
    served.event_log.add("drained")
    events = peer.call("events", 1000)
    assert events[-1]["kind"] == "drained"
    assert 1 < len(events) < 31
    assert len(msgspec.msgpack.encode(events)) < PAYLOAD_LIMIT_BYTES
    assert peer.call("revisions")[-1]["number"] == 30
