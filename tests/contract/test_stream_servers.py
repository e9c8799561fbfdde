"""Streams on servers that fail, are restarted, do not answer, or refuse: Redis and MongoDB."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import contextmanager

import pytest
from server_kit import Proxy, find_mongodb, find_redis, mongodb_server, redis_server
from wait_kit import wait_until

from timbr_wamp.errors import InvalidArgument, StorageBusy, StorageClosed, StorageFailed
from timbr_wamp.router import free_port
from timbr_wamp.streams import stream, stream_names

#: What the tests of servers that come back run with, and those of servers that do not.
PATIENT_S, IMPATIENT_S = 60, 0.5
#: Which answer is lost of those to each of several appends, to acknowledging, and to releasing. In MongoDB's case: that
#: to inserting, to the change that makes it appended, to writing positions, to what ends it; and to the group's change.
LOST = {"redis": ((0, 0), 0, 0), "mongodb": ((1, 2, 4, 5), 2, 6)}


# Of the session's scope: what a test starts by itself must have ended after it.
@pytest.fixture(scope="session", params=["redis", "mongodb"])
def scheme(request):
    return request.param


@pytest.fixture(scope="session")
def server(scheme, request):
    return request.getfixturevalue(scheme)


@contextmanager
def own_server(scheme, folder, require_service):
    """A server for one test, which keeps its data on the disk."""
    if scheme == "redis":
        require_service("Redis", find_redis)
        with redis_server(folder) as server:
            yield server
    else:
        require_service("MongoDB", find_mongodb)
        with mongodb_server(folder, str(folder)) as server:
            yield server


def address(scheme, port, name, **options):
    """Return the URL of a test's own streams on a server."""
    if scheme == "redis":
        options["prefix"] = name[:90]
    query = "&".join(f"{key}={value}" for key, value in options.items())
    return f"{scheme}://127.0.0.1:{port}/{name[:50] if scheme == 'mongodb' else ''}?{query}"


def test_a_server_that_is_killed_and_restarted_loses_and_doubles_nothing(scheme, tmp_path, require_service):
    with own_server(scheme, tmp_path, require_service) as server:
        url = address(scheme, server.port, "test", timeout_s=PATIENT_S)
        confirmed, failures, done = [], [], threading.Event()

        def write():
            try:
                with stream("events", url) as events:
                    while not done.is_set():
                        number = len(confirmed)
                        key = f"k{number}" if number % 2 else None  # without one, the call itself is known
                        confirmed.append(events.append(number, key=key))
            except Exception as error:
                failures.append(error)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(2):
                enough = len(confirmed) + 20
                wait_until(lambda enough=enough: len(confirmed) >= enough or failures, "it writes")
                server.kill()
                server.start()
            enough = len(confirmed) + 20
            wait_until(lambda: len(confirmed) >= enough or failures, "it goes on writing")
        finally:
            done.set()
            writer.join(PATIENT_S)
        assert not failures
        assert confirmed == list(range(1, len(confirmed) + 1))
        with stream("events", url) as events:
            assert [entry.message for entry in events] == list(range(len(confirmed)))


def test_a_call_whose_answer_is_lost_is_done_once(scheme, server, tmp_path):
    with Proxy(server.port) as proxy, stream("events", address(scheme, proxy.port, tmp_path.name)) as events:
        group = events.group("g", max_attempts=1)
        appending, acknowledging, releasing = LOST[scheme]
        for number, answer in enumerate(appending):
            with proxy.losing(answer):
                assert events.append(number) == number + 1
        done, given_back = group.claim(2)
        with proxy.losing(acknowledging):
            group.acknowledge(done)
        with proxy.losing(releasing):
            group.release(given_back, error="no")
        assert proxy.lost == len(appending) + 2
        assert [entry.message for entry in events] == list(range(len(appending)))
        assert [entry.message["message"] for entry in events.dead] == [1]
        assert (group.info().position, group.info().pending) == (2, 0)


def test_a_server_that_does_not_answer_is_told_in_time(scheme, tmp_path, require_service):
    with (
        own_server(scheme, tmp_path, require_service) as server,
        stream("events", address(scheme, server.port, "test", timeout_s=IMPATIENT_S)) as events,
    ):
        events.append("x")
        server.signal(signal.SIGSTOP)
        started = time.monotonic()
        for call in (events.read, lambda: events.append("y"), lambda: events.group("g")):
            with pytest.raises((StorageFailed, StorageBusy)) as raised:
                call()
            assert str(server.port) in str(raised.value)
        assert time.monotonic() - started < 20
        server.signal(signal.SIGCONT)
        wait_until(lambda: events.read()[0].message == "x", "it answers again", not_yet=(StorageFailed,))


def test_a_server_that_is_not_there_is_told_at_once_and_without_secrets(scheme):
    port = free_port()
    with pytest.raises(StorageFailed) as raised:
        stream("events", f"{scheme}://ada:s3cret@127.0.0.1:{port}/?timeout_s={IMPATIENT_S}")
    assert f"127.0.0.1:{port}" in str(raised.value)
    assert "s3cret" not in str(raised.value)
    assert "ada" not in str(raised.value)


def test_a_call_that_waits_ends_when_the_storage_is_closed(scheme, server, tmp_path):
    events = stream("events", address(scheme, server.port, tmp_path.name))
    ended = []

    def read():
        try:
            events.read(wait_s=60)
        except StorageClosed:
            ended.append(True)

    reader = threading.Thread(target=read)
    reader.start()
    events.close()
    reader.join(10)
    assert ended == [True]


def test_a_forked_child_and_its_parent_both_append(scheme, server, tmp_path):
    url = address(scheme, server.port, tmp_path.name)
    with stream("events", url) as events:
        events.append("before")
        pid = os.fork()
        if pid == 0:
            try:
                events.append("child")
                os._exit(0)
            finally:
                os._exit(1)
        assert events.append("parent") > 1
        assert os.waitpid(pid, 0)[1] == 0
        assert sorted(entry.message for entry in events) == ["before", "child", "parent"]


@pytest.mark.parametrize(
    "url",
    [
        "{scheme}://ada:s3/cret@127.0.0.1/x", "{scheme}://ada:s3#cret@127.0.0.1/x", "{scheme}://ada:s3?cret@127.0.0.1/x",
        "{scheme}://ada:s3cret@[::1/x", "{scheme}://ada:s3cret@127.0.0.1:port/x", "{scheme}://ada:s3cret@127.0.0.1/?timeout_s=0",
        "{scheme}://ada:s3cret@127.0.0.1/?timeout_s=x", "{scheme}://ada:s3cret@127.0.0.1/?prefix=a%20b&tls=5",
    ],
    ids=["slash", "hash", "question", "address", "port", "zero", "text", "option"],
)  # fmt: skip
def test_a_url_that_is_not_valid_is_refused_without_its_secrets(scheme, url, server):
    with pytest.raises(InvalidArgument) as raised:
        stream("events", url.format(scheme=scheme))
    assert raised.value.name == "url"
    for secret in ("s3", "cret", "ada"):
        assert secret not in str(raised.value)


def test_a_message_that_a_document_of_mongodb_cannot_hold_is_refused(mongodb, tmp_path):
    with stream("events", address("mongodb", mongodb.port, tmp_path.name)) as events:
        with pytest.raises(InvalidArgument, match="at most"):
            events.append("x" * (15 * 1024 * 1024))
        assert len(events) == 0


def test_more_messages_than_one_call_of_redis_may_have_are_refused(redis, tmp_path):
    with stream("events", address("redis", redis.port, tmp_path.name)) as events:
        with pytest.raises(InvalidArgument, match="at most 100000"):
            events.append_many(range(100_001))
        assert len(events) == 0


def test_a_wrong_password_of_redis_is_told_as_such(tmp_path, require_service):
    require_service("Redis", find_redis)
    with redis_server(tmp_path, "--requirepass", "right") as server:
        for user in ("", ":wr0ng@"):
            with pytest.raises(StorageFailed, match="denies access") as raised:
                stream("events", f"redis://{user}127.0.0.1:{server.port}")
            assert "wr0ng" not in str(raised.value)
        with stream("events", f"redis://:right@127.0.0.1:{server.port}/0") as events:
            assert events.append("x") == 1
            assert "right" not in events.url


def test_a_full_redis_refuses_and_changes_nothing(tmp_path, require_service):
    require_service("Redis", find_redis)
    with (
        redis_server(tmp_path, "--maxmemory-policy", "noeviction") as server,
        stream("events", f"redis://127.0.0.1:{server.port}") as events,
    ):
        assert events.append("x", key="k") == 1
        with socket.create_connection(("127.0.0.1", server.port)) as admin:
            admin.sendall(b"CONFIG SET maxmemory 1\r\n")
            assert admin.recv(100) == b"+OK\r\n"
        with pytest.raises(StorageFailed, match="memory is full"):
            events.append("y", key="l")
        assert [entry.message for entry in events] == ["x"]


def test_a_redis_that_does_not_write_to_its_disk_is_told_in_the_log(tmp_path, require_service, caplog):
    require_service("Redis", find_redis)
    with redis_server(tmp_path, "--appendonly", "no") as server:
        stream("events", f"redis://127.0.0.1:{server.port}").close()
    assert "appendonly no" in caplog.text


def test_a_node_of_a_redis_cluster_has_all_of_a_stream_in_one_slot(tmp_path, require_service):
    require_service("Redis", find_redis)
    # by default the cluster's own port is the other one plus 10000, which may be none
    with redis_server(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as admin:
            admin.sendall(b"CLUSTER ADDSLOTSRANGE 0 16383\r\n")
            assert admin.recv(100) == b"+OK\r\n"
        url = f"redis://127.0.0.1:{server.port}"
        with stream("events", url) as events:
            events.append_many("ab", keys=["1", "2"])
            group = events.group("g", max_attempts=1)
            group.release(group.claim(), error="no")
            group.acknowledge(group.claim())
            events.retain(count=1)
            assert len(events.dead) == 1
            assert stream_names(url) == ["events", "events.dead"]
            events.delete()
