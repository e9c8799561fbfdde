"""A journal's file in trouble: damaged, foreign, removed, slow. Nothing hangs, nothing is lost in silence."""

from __future__ import annotations

import functools
import os
import random
import sqlite3
import threading
import time

import pytest
from interrupt_kit import handler_of_sigint, interrupt_everywhere
from machine_kit import LIMIT_S, assert_counts_add_up, in_thread
from wait_kit import wait_until

from timbr_wamp.errors import InvalidArgument, StorageBusy, StorageClosed, StorageFailed
from timbr_wamp.machine import Machine
from timbr_wamp.store import SqliteJournal, journal, journal_rows
from timbr_wamp.streams import sqlite_file
from timbr_wamp.streams.sqlite_file import SqliteFile

SCHEMA = "CREATE TABLE IF NOT EXISTS item (name TEXT)"


class Disk:
    """What the connections of a test wait for before each commit, and fail with."""

    def __init__(self) -> None:
        self.works = threading.Event()
        self.works.set()
        self.commits = threading.Semaphore(0)
        self.full = False


@pytest.fixture
def disk(monkeypatch):
    """A disk that the test makes slow, or full."""
    disk = Disk()

    class Connection(sqlite3.Connection):
        def execute(self, text, *arguments):
            if text == "COMMIT":
                disk.commits.release()
                assert disk.works.wait(LIMIT_S)
                if disk.full:
                    error = sqlite3.OperationalError("database or disk is full")
                    error.sqlite_errorcode = sqlite3.SQLITE_FULL
                    raise error
            return super().execute(text, *arguments)

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Connection))
    yield disk
    disk.works.set()


def items(file):
    return [row[0] for row in file.read(lambda db: db.execute("SELECT name FROM item ORDER BY rowid").fetchall())]


def add(name):
    return lambda db: db.execute("INSERT INTO item VALUES (?)", (name,)) and None


@pytest.fixture
def file(tmp_path, disk):
    file = SqliteFile(tmp_path / "file", schema=SCHEMA, application_id=1, exclusive=True, busy_s=0.1)
    yield file
    disk.works.set()
    file.close()


def recorded(path, count=640):
    """Make a journal with records and messages that wait; return its records."""
    with Machine(2, journal=path, bufsize=count) as machine:
        machine[0] = "lambda x: {'value': x}"
        machine.put_many(list(range(count)))
        machine.start()
        assert machine.wait(LIMIT_S)
        machine.stop()
        machine.put_many(["waits"] * 20)
        return machine.recorder.after(machine.run, 0, count, 10**9)[2]


# --- files that are no journal, or none any more ---


def text(path):
    path.write_text("no database\n" * 1000)


def folder(path):
    path.mkdir()


def foreign(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (x)")
    db.close()


def newer(path):
    SqliteJournal(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    db.close()


def written_by_others(path):
    SqliteJournal(path).close()
    path.chmod(0o666)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (text, "not an SQLite database"), (folder, "not a regular file"), (os.mkfifo, "not a regular file"),
        (foreign, "another program's"), (newer, "a newer timbr_wamp"), (written_by_others, "others may write it"),
    ],
)  # fmt: skip
def test_what_is_no_journal_of_ours_is_refused_with_the_reason(tmp_path, make, reason):
    path = tmp_path / "j"
    make(path)
    with pytest.raises(StorageFailed, match=reason):
        Machine(1, journal=path)
    path.chmod(0o600)


def test_an_empty_file_becomes_a_journal_and_so_does_what_a_link_names(tmp_path):
    (tmp_path / "empty").touch(0o600)
    (tmp_path / "link").symlink_to(tmp_path / "behind")
    for name in ("empty", "link"):
        for size in (1, 2):
            with Machine(1, journal=tmp_path / name) as machine:
                machine.put("m")
                assert machine.status.queue_size == size
    assert (tmp_path / "behind").stat().st_mode & 0o777 == 0o600


def test_damage_is_never_taken_for_records(tmp_path):
    path = tmp_path / "j"
    before = recorded(path)
    whole = path.read_bytes()
    chance = random.Random(3)
    for number in range(12):
        at = chance.randrange(len(whole) - 32)
        path.write_bytes(whole[:at] + bytes(255 - byte for byte in whole[at : at + 32]) + whole[at + 32 :])
        try:
            opened = SqliteJournal(path)
        except StorageFailed:
            continue
        try:
            problems = opened.check()
            try:
                rows, waiting = opened.records(0, 10_000), len(opened.pending(100))
            except StorageFailed:
                assert problems, number
                assert set(opened.readable(0, 10_000)[0]) <= set(before), number
            else:
                assert problems or (rows, waiting) == (before, 20), number
        except StorageFailed:
            pass  # so much that it cannot be checked
        finally:
            opened.close()


def test_a_kernels_machine_begins_with_a_new_journal_when_its_last_one_is_damaged(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TIMBR_WAMP_JOURNALS", str(tmp_path))
    monkeypatch.setenv("TIMBR_WAMP_JOURNALS_PID", str(os.getpid()))
    text(tmp_path / "machine-1.journal")
    for size in (1, 2):
        with Machine(1) as machine:
            machine.put("m")
            assert machine.status.queue_size == size
    assert "begins with a new journal" in caplog.text
    assert (tmp_path / "machine-1.journal").exists()


@pytest.mark.parametrize("way", ["removed", "replaced"])
def test_a_journal_that_is_gone_takes_nothing_until_it_is_back(tmp_path, way):
    path, away = tmp_path / "j", tmp_path / "away"
    with Machine(1, journal=path) as machine:
        machine.put(1)
        path.rename(away)
        if way == "replaced":
            path.touch()
        with pytest.raises(StorageFailed, match=way):
            machine.put(2)
        machine.start()
        wait_until(lambda: machine.status.state == "paused", "suspended")
        assert way in str(machine.status.reason)
        away.rename(path)
        wait_until(lambda: machine.status.state == "running", "it goes on")
        assert machine.put(3)
        assert machine.wait(LIMIT_S)
        assert machine.status.processed == 2
        assert_counts_add_up(machine.status)


def test_a_second_opening_in_the_process_is_refused_by_any_name(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "OPEN_S", 0.1)
    path = tmp_path / "j"
    with Machine(1, journal=path):
        (tmp_path / "link").symlink_to(path)
        os.link(path, tmp_path / "other")
        for name in ("link", "other"):
            with pytest.raises(StorageBusy, match="this process"):
                SqliteJournal(tmp_path / name)


# --- messages ---


def test_of_a_source_what_comes_before_an_unpicklable_message_is_kept(tmp_path):
    for source in ([1, 2, threading.Lock(), 3], iter([1, 2, threading.Lock(), 3])):
        path = tmp_path / type(source).__name__
        with Machine(1, journal=path) as machine:
            machine.source = source
            machine.start()
            wait_until(lambda: machine.status.source.state == "failed", "the source failed")
            assert "cannot be pickled" in machine.status.source.error
            assert machine.wait(LIMIT_S)
            assert [record.input for record in machine.recent(10)] == [1, 2]


def test_large_messages_and_records_are_kept_in_rows_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_rows, "ROW_BYTES", 1_000)
    path, messages = tmp_path / "j", [str(number) * 400 for number in range(9)]
    with Machine(1, journal=path) as machine:
        machine.put_many(messages)
    with Machine(1, journal=path) as machine:
        machine.start()
        assert machine.wait(LIMIT_S)
    with Machine(1, journal=path) as machine:
        assert [record.input for record in machine.recent(20)] == messages
    monkeypatch.setattr(journal_rows, "MESSAGE_BYTES", 1_000)
    with Machine(1, journal=path) as machine:
        with pytest.raises(InvalidArgument, match="in one message, at most 1,000"):
            machine.put("x" * 2_000)
        machine.put("short")


def test_one_callers_refused_piece_costs_those_that_are_written_with_it_nothing(file, disk):
    disk.works.clear()
    first = in_thread(file.write, add("first"))
    assert disk.commits.acquire(timeout=LIMIT_S)
    wrong = in_thread(file.write, lambda db: db.execute("INSERT INTO item VALUES (zeroblob(2000000000))"))
    right = in_thread(file.write, add("right"))
    disk.works.set()
    first.result()
    right.result()
    with pytest.raises(StorageFailed, match="too big"):
        wrong.result()
    assert items(file) == ["first", "right"]


# --- a slow disk, and a full one ---


def test_everything_but_put_answers_while_the_disk_is_slow(tmp_path, disk):
    with Machine(1, journal=tmp_path / "j") as machine:
        machine.put(1)
        disk.works.clear()
        machine.start()
        wait_until(lambda: disk.commits.acquire(blocking=False), "a commit is under way")
        putting = in_thread(machine.put, 2)
        started = time.monotonic()
        status = machine.status
        machine[0] = "lambda x: x"
        machine.pause()
        machine.resume()
        assert (status.state, machine.errors, len(machine.slots), machine.recent(5)) == ("running", [], 1, [])
        assert time.monotonic() - started < 0.5
        disk.works.set()
        assert putting.result()
        assert machine.wait(LIMIT_S)
        assert machine.status.processed == 2


def test_what_a_caller_gave_up_is_not_written_later(file, disk, monkeypatch):
    monkeypatch.setattr(sqlite_file, "SLOW_S", 0.05)
    held, entered = threading.Event(), threading.Event()

    def slow(db):
        entered.set()
        assert held.wait(LIMIT_S)
        add("slow")(db)

    first = in_thread(file.write, slow)
    assert entered.wait(LIMIT_S)
    with pytest.raises(StorageBusy):
        file.write(add("behind it"))
    with pytest.raises(StorageBusy):
        first.result()
    held.set()
    file.write(add("later"))
    assert items(file) == ["later"]


def test_what_was_posted_while_the_disk_is_full_is_kept_in_order_when_there_is_room(file, disk):
    disk.full = True
    for number in range(3):
        file.post(add(f"posted {number}"))
    with pytest.raises(StorageFailed, match="disk is full"):
        file.write(add("refused"))
    assert items(file) == [], "reading goes on"
    disk.full = False
    file.write(add("last"))
    assert items(file) == ["posted 0", "posted 1", "posted 2", "last"]


def test_a_file_that_was_closed_in_the_middle_of_a_slow_write_is_released_after_it(tmp_path, disk):
    file = SqliteFile(tmp_path / "f", schema=SCHEMA, application_id=1, exclusive=True, busy_s=0.05)
    disk.works.clear()
    writing = in_thread(file.write, add("slow"))
    assert disk.commits.acquire(timeout=LIMIT_S)
    started = time.monotonic()
    file.close()
    assert time.monotonic() - started < 1.0
    with pytest.raises(StorageClosed):
        file.write(add("later"))
    disk.works.set()
    writing.result()
    again = SqliteFile(tmp_path / "f", schema=SCHEMA, application_id=1, exclusive=True, busy_s=LIMIT_S)
    assert items(again) == ["slow"]
    again.close()


def test_ctrl_c_in_a_put_leaves_the_message_in_machine_and_journal_or_in_neither(tmp_path):
    paths = iter(tmp_path / f"{number}" for number in range(10_000))
    made = {}

    def make():
        path = next(paths)
        machine = Machine(1, journal=path)
        made[machine] = path
        return machine

    def check(machine, number):
        status = machine.status
        assert_counts_add_up(status)
        assert (status.put, status.in_flight) in ((0, 0), (1, 0)), number
        machine.close()
        with Machine(1, journal=made.pop(machine)) as again:
            assert again.status.queue_size == status.queue_size, number

    modules = ("timbr_wamp.machine.machine", "timbr_wamp.machine.intake", "timbr_wamp.machine.records")
    with handler_of_sigint():
        assert interrupt_everywhere(
            make, lambda machine: machine.put("m"), check, modules=modules, error=KeyboardInterrupt, by_signal=True,
            every=3,
        )  # fmt: skip
