"""What every storage of streams must do, as tests: for ours and for those of other packages.

Subclass `StreamBackendContract` in a test module and give it the fixture ``backend``: an empty storage. One that
survives its process gives the fixture ``url`` as well, by which `timbr_wamp.streams.stream` opens the same storage in
other processes, and subclasses `DurableBackendContract`. pytest does the rest::

    class TestMine(DurableBackendContract):
        @pytest.fixture
        def url(self, tmp_path):
            return f"mine://{tmp_path}/streams"

        @pytest.fixture
        def backend(self, url):
            backend = MyStreams(url)
            yield backend
            backend.close()
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from timbr_wamp.errors import InvalidArgument, InvalidName, LeaseLost, StorageClosed
from timbr_wamp.streams import Claim, ConsumerGroup, Stream, stream
from timbr_wamp.streams.backend import StreamBackend

#: Each wait of these tests ends after this time, seconds.
LIMIT_S = 20.0
#: A lease that a test lets run out, seconds.
SHORT_S = 0.05


def eventually(call: Callable[[], Any], wanted: str) -> Any:
    """Return the first true result of ``call()``.

    Raises:
        AssertionError: there was none in `LIMIT_S`.
    """
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        result = call()
        if result:
            return result
        time.sleep(0.005)
    raise AssertionError(f"never came: {wanted}")


def reclaimed(group: ConsumerGroup, limit: int = 1) -> list[Claim]:
    """Wait until another's lease has ended, and claim what it had."""
    claims: list[Claim] = eventually(lambda: group.claim(limit), "a claim whose lease has ended")
    return claims


def positions(entries: Sequence[Any]) -> list[int]:
    """Return the positions of entries."""
    return [entry.position for entry in entries]


class StreamBackendContract:
    """The rules of `StreamBackend`, one test each."""

    @pytest.fixture
    def events(self, backend: StreamBackend) -> Stream:
        """An empty stream."""
        return Stream(backend, "events", release=lambda: None)

    # --- appending and reading ---

    def test_positions_count_from_one_and_messages_come_back_as_they_were(self, events: Stream) -> None:
        messages: list[Any] = [None, True, 0, -1.5, 2**53, "", "zwölf 😀", [1, [2]], {"a": {"b": []}}]
        assert [events.append(message) for message in messages] == list(range(1, 10))
        assert [entry.message for entry in events.read()] == messages
        assert positions(events.read()) == list(range(1, 10))

    def test_appended_together_means_consecutive_and_in_order(self, events: Stream) -> None:
        assert events.append_many([]) == []
        assert events.append_many(range(500)) == list(range(1, 501))
        assert [entry.message for entry in events] == list(range(500))
        assert len(events) == 500

    def test_reading_resumes_after_the_position_given(self, events: Stream) -> None:
        events.append_many("abcde")
        assert [entry.message for entry in events.read(after=2)] == ["c", "d", "e"]
        assert [entry.message for entry in events.read(after=1, limit=2)] == ["b", "c"]
        assert events.read(after=5) == events.read(after=10**9) == []

    def test_an_entry_tells_when_it_was_appended(self, events: Stream) -> None:
        before = time.time()
        events.append("x")
        (entry,) = events.read()
        assert before - 5 < entry.appended_at < time.time() + 5

    def test_streams_of_other_names_are_apart(self, backend: StreamBackend, events: Stream) -> None:
        other = Stream(backend, "events-2", release=lambda: None)
        events.append_many("ab")
        other.append("c")
        assert [entry.message for entry in other] == ["c"]
        assert backend.names() == ["events", "events-2"]
        assert Stream(backend, "never", release=lambda: None).read() == []

    def test_what_json_cannot_hold_is_refused_and_nothing_is_appended(self, events: Stream) -> None:
        for bad in (object(), len, [{"a": object()}]):
            with pytest.raises(InvalidArgument):
                events.append_many(["good", bad])
        assert events.read() == []

    def test_reading_returns_fewer_entries_when_they_are_large_but_at_least_one(
        self, backend: StreamBackend, events: Stream
    ) -> None:
        events.append_many(["x" * 1000] * 5)
        assert len(backend.read("events", 0, 100, 2500)) == 2
        assert len(backend.read("events", 0, 100, 1)) == 1

    def test_a_reader_waits_for_the_next_entry_and_no_longer_than_it_said(self, events: Stream) -> None:
        assert events.read(wait_s=0.02) == []
        timer = threading.Timer(0.05, events.append, ["late"])
        timer.start()
        assert [entry.message for entry in events.read(wait_s=LIMIT_S)] == ["late"]
        timer.join()

    def test_readers_never_see_a_later_position_before_an_earlier_one(self, backend: StreamBackend) -> None:
        seen: list[int] = []
        events = Stream(backend, "many", release=lambda: None)

        def write(writer: int) -> None:
            for number in range(20):
                events.append_many([[writer, number]] * 3)

        writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        for one in writers:
            one.start()
        deadline = time.monotonic() + 2 * LIMIT_S
        while len(seen) < 240 and time.monotonic() < deadline:
            seen += positions(events.read(after=seen[-1] if seen else 0, limit=7, wait_s=0.2))
        for one in writers:
            one.join()
        assert seen == list(range(1, 241))
        for writer in range(4):
            own = [entry.message for entry in events if entry.message[0] == writer]  # type: ignore[index]
            assert own == [[writer, n] for n in range(20) for _ in range(3)]

    # --- idempotency keys ---

    def test_a_known_key_is_not_appended_again(self, events: Stream) -> None:
        assert events.append("first", key="k1") == 1
        assert events.append("again", key="k1") == 1
        assert events.append_many(["second", "first", "third"], keys=["k2", "k1", None]) == [2, 1, 3]
        assert [(entry.message, entry.key) for entry in events] == [("first", "k1"), ("second", "k2"), ("third", None)]

    def test_a_key_twice_in_one_call_is_appended_once(self, events: Stream) -> None:
        assert events.append_many(["a", "b"], keys=["same", "same"]) == [1, 1]
        assert [entry.message for entry in events] == ["a"]

    def test_a_key_is_known_after_its_entry_was_removed(self, events: Stream) -> None:
        events.append("old", key="k")
        events.append_many(range(5))
        events.retain(count=2)
        assert positions(events.read()) == [5, 6]
        assert events.append("old again", key="k") == 1
        assert positions(events.read()) == [5, 6]

    def test_a_key_that_is_no_text_is_refused(self, events: Stream) -> None:
        for bad in ("", 5, "a\nb", "x" * 257):
            with pytest.raises(InvalidArgument):
                events.append("m", key=bad)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument):
            events.append_many([1, 2], keys=["only one"])

    # --- groups ---

    def test_each_entry_is_one_consumers_at_a_time(self, events: Stream) -> None:
        events.append_many(range(10))
        group = events.group("g")
        first, second = group.claim(4, consumer="a"), group.claim(100, consumer="b")
        assert positions(first) == [1, 2, 3, 4]
        assert positions(second) == [5, 6, 7, 8, 9, 10]
        assert group.claim(100) == []
        assert {(one.consumer, one.attempt, one.group) for one in first} == {("a", 1, "g")}

    def test_groups_have_positions_of_their_own(self, events: Stream) -> None:
        events.append_many("abc")
        one, other = events.group("one"), events.group("other", start=2)
        newest = events.group("newest", start="end")
        one.acknowledge(one.claim(3))
        assert one.info().position == 3
        assert [claim.message for claim in other.claim(10)] == ["c"]
        assert newest.claim() == []
        events.append("d")
        assert [claim.message for claim in newest.claim()] == ["d"]
        assert [info.name for info in events.groups()] == ["newest", "one", "other"]

    def test_the_position_is_before_the_first_entry_that_is_not_acknowledged(self, events: Stream) -> None:
        events.append_many("abcd")
        group = events.group("g")
        first, second, third = group.claim(3)
        group.acknowledge([second, third])
        info = group.info()
        assert (info.position, info.pending, info.waiting) == (0, 1, 1)
        group.acknowledge(first)
        assert (group.info().position, group.info().pending) == (3, 0)

    def test_what_was_acknowledged_never_comes_again(self, events: Stream) -> None:
        events.append("x")
        group = events.group("g")
        (claim,) = group.claim(lease_s=0.5)  # long enough for a busy server
        group.acknowledge(claim)
        time.sleep(0.6)  # had it not been acknowledged, it would come again now
        assert group.claim() == []
        with pytest.raises(LeaseLost):
            group.acknowledge(claim)

    def test_an_entry_comes_again_when_its_lease_has_ended(self, events: Stream) -> None:
        events.append("x")
        group = events.group("g")
        (late,) = group.claim(lease_s=SHORT_S, consumer="late")
        (claim,) = reclaimed(group)
        assert (claim.position, claim.attempt) == (1, 2)
        assert claim.fence > late.fence
        with pytest.raises(LeaseLost) as raised:
            group.acknowledge(late)
        assert raised.value.positions == (1,)
        group.acknowledge(claim)
        assert group.info().position == 1

    def test_a_lease_that_has_ended_is_lost_also_while_nobody_took_over(self, events: Stream) -> None:
        events.append("x")
        group = events.group("g")
        (late,) = group.claim(lease_s=SHORT_S)
        time.sleep(3 * SHORT_S)
        with pytest.raises(LeaseLost):
            group.acknowledge(late)
        with pytest.raises(LeaseLost):
            group.extend(late, 10)
        assert group.info().position == 0

    def test_one_lost_claim_means_that_none_is_acknowledged(self, events: Stream) -> None:
        events.append_many("ab")
        group = events.group("g")
        late = group.claim(lease_s=SHORT_S)
        time.sleep(3 * SHORT_S)
        good = group.claim(2)
        assert positions(good) == [1, 2]
        with pytest.raises(LeaseLost):
            group.acknowledge([good[0], *late])
        assert group.info().pending == 2
        group.acknowledge(good)

    def test_an_extended_lease_holds_longer(self, events: Stream) -> None:
        events.append("x")
        group = events.group("g")
        (claim,) = group.claim(lease_s=0.5)
        group.extend(claim, 3600)
        time.sleep(0.6)
        assert group.claim() == []
        group.acknowledge(claim)

    def test_what_is_given_back_comes_again_at_once_or_after_its_delay(self, events: Stream) -> None:
        events.append_many("ab")
        group = events.group("g")
        first, second = group.claim(2)
        group.release(second)
        assert [(claim.position, claim.attempt) for claim in group.claim(5)] == [(2, 2)]
        group.release(first, delay_s=3600)
        assert group.claim(5) == []
        with pytest.raises(LeaseLost):
            group.release(first)

    def test_fences_only_grow(self, events: Stream) -> None:
        events.append_many(range(4))
        group = events.group("g")
        fences = []
        for _ in range(6):
            (claim,) = group.claim()
            fences.append(claim.fence)
            if len(fences) % 2:
                group.release(claim)
            else:
                group.acknowledge(claim)
        assert all(later > earlier > 0 for earlier, later in pairwise(fences))

    def test_after_its_last_attempt_an_entry_is_in_the_dead_letter_stream(self, events: Stream) -> None:
        events.append({"bad": True}, key="k")
        events.append("good")
        group = events.group("g", max_attempts=2)
        for _ in range(2):
            (claim,) = group.claim()
            group.release(claim, error=ValueError("cannot be processed"))
        (good,) = group.claim(5)
        assert good.message == "good"
        (dead,) = events.dead.read()
        told = dead.message
        assert isinstance(told, dict)
        assert told["message"] == {"bad": True}
        assert (told["stream"], told["group"], told["position"], told["attempts"]) == ("events", "g", 1, 2)
        assert (told["error"], told["key"]) == ("ValueError: cannot be processed", "k")
        group.acknowledge(good)
        assert group.info().position == 2

    def test_any_error_text_can_be_given_with_an_entry(self, events: Stream) -> None:
        events.append_many("abc")
        group = events.group("g", max_attempts=1)
        texts = ["zwölf \N{PILE OF POO}", '"quoted" \\ \n \x00 \x7f', "lone \udc80"]
        for claim, text in zip(group.claim(3), texts, strict=True):
            group.release(claim, error=text)
        told = [entry.message["error"] for entry in events.dead.read()]  # type: ignore[index, call-overload]
        assert told == [*texts[:2], "lone \\udc80"]

    def test_an_entry_whose_lease_always_ends_is_dead_in_the_end(self, events: Stream) -> None:
        events.append("poison")
        group = events.group("g", max_attempts=1)
        group.claim(lease_s=SHORT_S)
        eventually(lambda: group.claim() or len(events.dead), "the dead letter")
        assert group.claim() == []
        (dead,) = events.dead.read()
        assert isinstance(dead.message, dict)
        assert "lease" in str(dead.message["error"])
        assert group.info().pending == 0

    def test_a_block_acknowledges_and_an_error_gives_back(self, events: Stream) -> None:
        events.append_many("ab")
        group = events.group("g")
        with pytest.raises(ZeroDivisionError), group.claimed():
            raise ZeroDivisionError
        with group.claimed(2) as claims:
            assert [(one.message, one.attempt) for one in claims] == [("a", 2), ("b", 1)]
        assert group.info().position == 2

    def test_a_consumer_waits_for_the_next_entry(self, events: Stream) -> None:
        group = events.group("g")
        assert group.claim(wait_s=0.02) == []
        timer = threading.Timer(0.05, events.append, ["late"])
        timer.start()
        assert [claim.message for claim in group.claim(wait_s=LIMIT_S)] == ["late"]
        timer.join()

    def test_a_group_can_go_back_and_be_forgotten(self, events: Stream) -> None:
        events.append_many("abc")
        group = events.group("g")
        held = group.claim(3)
        group.seek(1)
        with pytest.raises(LeaseLost):
            group.acknowledge(held)
        assert [(claim.message, claim.attempt) for claim in group.claim(5)] == [("b", 1), ("c", 1)]
        group.delete()
        assert events.groups() == []
        assert [claim.message for claim in events.group("g").claim(5)] == ["a", "b", "c"]

    def test_consumers_at_once_get_each_entry_once(self, events: Stream) -> None:
        events.append_many(range(200))
        taken: list[int] = []

        def consume() -> None:
            group = events.group("g")
            while claims := group.claim(7):
                taken.extend(positions(claims))
                group.acknowledge(claims)

        threads = [threading.Thread(target=consume) for _ in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join(LIMIT_S)
        assert sorted(taken) == list(range(1, 201))
        assert events.group("g").info().position == 200

    # --- what is kept ---

    def test_retention_by_count_bytes_and_age_removes_the_oldest(self, events: Stream) -> None:
        events.append_many(["x" * 98] * 10)  # 100 bytes of JSON each
        assert events.retain(count=8) == 2
        assert events.retain(size_bytes=500) == 3
        info = events.info()
        assert (info.first, info.last, info.count, info.size_bytes) == (6, 10, 5, 500)
        assert events.retain(age_s=3600) == 0
        time.sleep(0.02)
        assert events.retain(age_s=0.01) == 5
        assert events.read() == []
        assert events.append("next") == 11

    def test_who_appends_keeps_to_the_retention(self, events: Stream) -> None:
        events.retain(count=3)
        for number in range(20):
            events.append(number)
        assert len(events) <= 4
        events.trim()
        assert [entry.message for entry in events] == [17, 18, 19]

    def test_retention_never_removes_what_a_group_has_not_acknowledged(self, events: Stream) -> None:
        events.append_many(range(10))
        group = events.group("slow")
        held = group.claim(4)
        assert events.retain(count=1) == 0
        group.acknowledge(held[1:])
        assert events.trim() == 0
        group.acknowledge(held[0])
        assert events.trim() == 4
        assert [claim.message for claim in group.claim(100)] == [4, 5, 6, 7, 8, 9]

    def test_metadata_and_information(self, events: Stream) -> None:
        events.set_metadata({"owner": "ada", "tags": [1, 2]})
        events.append_many(["a", "b"])
        info = events.info()
        assert dict(info.metadata) == dict(events.metadata) == {"owner": "ada", "tags": [1, 2]}
        assert (info.name, info.first, info.last, info.count, info.size_bytes) == ("events", 1, 2, 2, 6)

    def test_a_deleted_stream_is_empty_and_begins_anew(self, events: Stream) -> None:
        events.append("a", key="k")
        events.group("g").claim()
        events.delete()
        assert (events.read(), events.groups(), events.info().last) == ([], [], 0)
        assert events.append("b", key="k") == 1

    # --- arguments, end ---

    def test_wrong_arguments_are_refused_by_name(self, events: Stream) -> None:
        group = events.group("g")
        for call in (
            lambda: events.read(after=-1), lambda: events.read(limit=0), lambda: events.read(wait_s=float("nan")),
            lambda: events.read(after="1"), lambda: group.claim(0), lambda: group.claim(lease_s=0),  # type: ignore[arg-type]
            lambda: group.claim(lease_s=float("inf")), lambda: group.acknowledge(["x"]),  # type: ignore[list-item]
            lambda: events.retain(count=-1), lambda: events.group("g", max_attempts=0), lambda: group.seek(-1),
            lambda: events.set_metadata([1]),  # type: ignore[arg-type]
        ):  # fmt: skip
            with pytest.raises(InvalidArgument):
                call()
        for name in ("", "a b", "../x", "x" * 101, 5):
            with pytest.raises(InvalidName):
                events.group(name)  # type: ignore[arg-type]

    def test_after_close_each_call_says_so(self, backend: StreamBackend, events: Stream) -> None:
        events.append("x")
        backend.close()
        backend.close()
        for call in (events.read, events.info, lambda: events.append("y"), backend.names):
            with pytest.raises(StorageClosed):
                call()


#: Appends numbered messages with keys, and says each one that is confirmed.
_WRITER = """
import sys, json
from timbr_wamp.streams import stream
url, writer, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
events = stream("events", url)
confirmed = int(sys.argv[4])
while confirmed < count:
    size = 1 + confirmed % 3
    numbers = range(confirmed, min(confirmed + size, count))
    events.append_many([[writer, n] for n in numbers], keys=[f"{writer}:{n}" for n in numbers])
    confirmed = numbers[-1] + 1
    print(confirmed, flush=True)
"""


#: Appends so many numbers, one at a time.
_APPENDER = """
import sys
from timbr_wamp.streams import stream
with stream("events", sys.argv[1]) as events:
    for number in range(int(sys.argv[2])):
        events.append(number)
"""


class DurableBackendContract(StreamBackendContract):
    """The rules for storages that outlive their process; needs the fixture ``url``."""

    def test_what_was_appended_is_there_for_whoever_opens_it_next(self, url: str, backend: StreamBackend) -> None:
        with stream("events", url) as first:
            first.append_many("abc", keys=["1", "2", "3"])
            first.group("g").acknowledge(first.group("g").claim(2))
            first.set_metadata({"a": 1})
            first.retain(count=100)
        backend.close()
        with stream("events", url) as again:
            assert [entry.message for entry in again] == ["a", "b", "c"]
            assert again.append("a", key="1") == 1
            assert [claim.message for claim in again.group("g").claim(10)] == ["c"]
            assert dict(again.metadata) == {"a": 1}
            assert again.info().retention.count == 100

    def test_many_processes_append_at_once(self, url: str) -> None:
        children = [subprocess.Popen([sys.executable, "-c", _APPENDER, url, "25"]) for _ in range(4)]
        assert [child.wait(3 * LIMIT_S) for child in children] == [0] * 4
        with stream("events", url) as events:
            entries = list(events)
        assert positions(entries) == list(range(1, 101))
        assert sorted(entry.message for entry in entries) == sorted(list(range(25)) * 4)  # type: ignore[type-var]

    def test_a_process_that_is_killed_while_it_appends_loses_nothing_it_was_told_of(self, url: str) -> None:
        count, confirmed, kills = 60, 0, 0
        while confirmed < count:
            arguments = [sys.executable, "-c", _WRITER, url, "w", str(count), str(confirmed)]
            with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
                assert child.stdout is not None
                stop_at = confirmed + 10 + 3 * kills
                for line in child.stdout:
                    confirmed = int(line)
                    if confirmed >= stop_at:
                        child.send_signal(signal.SIGKILL)
                        kills += 1
                        break
                child.wait(LIMIT_S)
        assert kills >= 2
        with stream("events", url) as events:
            entries = list(events)
        assert [entry.message for entry in entries] == [["w", n] for n in range(count)], json.dumps(confirmed)
        assert positions(entries) == list(range(1, count + 1))

    def test_the_entries_of_a_killed_consumer_come_again(self, url: str, backend: StreamBackend) -> None:
        with stream("events", url) as events:
            events.append_many(range(3))
            program = (
                "import sys; from timbr_wamp.streams import stream\n"
                "group = stream('events', sys.argv[1]).group('g')\n"
                "group.acknowledge(group.claim(1)); group.claim(2, lease_s=0.3)\n"
                "print('claimed', flush=True); sys.stdin.read()"
            )
            with subprocess.Popen(
                [sys.executable, "-c", program, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as child:
                assert child.stdout is not None
                assert child.stdout.readline() == "claimed\n"
                child.kill()
                child.wait(LIMIT_S)
            claims = reclaimed(events.group("g"), 5)
            assert [(claim.message, claim.attempt) for claim in claims] == [(1, 2), (2, 2)]
