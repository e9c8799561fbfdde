"""What a bridge decides: subscribed, pace of the status, sampling, caps, messages that fit."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timbr_wamp.components.relay import (
    ERRORS_PER_S,
    STATUS_MAX_INTERVAL_S,
    STATUS_MIN_INTERVAL_S,
    RateLimit,
    StatusThrottle,
    SubscribedTopics,
    split_to_fit,
)
from timbr_wamp.contract import PAYLOAD_LIMIT_BYTES, Interest, IopubMessage, Status, to_builtins
from timbr_wamp.machine.serving.sampler import EVENTS_PER_S, Sampler

K = "io.timbr.kernel.lab_0123456789ab"


# --- subscribed --------------------------------------------------------------------------------


def an_interest(number: int, *topics: str) -> Interest:
    return Interest(kernel_id="lab_0123456789ab", number=number, topics=list(topics))


def test_the_topics_with_subscribers_are_those_that_were_told_last() -> None:
    subscribed = SubscribedTopics("lab_0123456789ab")
    assert not subscribed.has_subscribers(f"{K}.machine")
    assert subscribed.tell(an_interest(1, "machine", "machine.status"))
    assert subscribed.has_subscribers(f"{K}.machine")
    assert subscribed.has_subscribers(f"{K}.machine.status")
    assert not subscribed.has_subscribers(f"{K}.machine.records")
    assert subscribed.tell(an_interest(2, "iopub"))
    assert not subscribed.has_subscribers(f"{K}.machine")
    assert subscribed.has_subscribers(f"{K}.iopub")
    assert not subscribed.tell(an_interest(3, "iopub"))


def test_an_answer_that_arrives_after_a_newer_event_changes_nothing() -> None:
    subscribed = SubscribedTopics("lab_0123456789ab")
    subscribed.tell(an_interest(8, "iopub"))
    assert not subscribed.tell(an_interest(7))
    assert subscribed.has_subscribers(f"{K}.iopub")


def test_a_new_wamp_session_starts_without_subscribers_and_with_any_number() -> None:
    subscribed = SubscribedTopics("lab_0123456789ab")
    subscribed.tell(an_interest(8, "iopub"))
    assert subscribed.clear()
    assert not subscribed.clear()
    assert not subscribed.has_subscribers(f"{K}.iopub")
    assert subscribed.tell(an_interest(1, "iopub"))


def test_the_interest_in_another_kernel_is_ignored() -> None:
    subscribed = SubscribedTopics("lab_2_0123456789ab")
    assert not subscribed.tell(an_interest(1, "iopub"))


# --- status ----------------------------------------------------------------------------------


def a_status(seq: int = 0, **options: object) -> Status:
    return msgspec.structs.replace(Status(name="machine", run="r", state="idle", last_seq=seq), **options)


def test_the_first_status_is_published_even_without_listeners() -> None:
    assert StatusThrottle().due(a_status(), 0.0, listened=False)


def test_without_listeners_only_a_change_of_state_is_published() -> None:
    throttle = StatusThrottle()
    throttle.due(a_status(), 0.0, listened=False)
    assert not throttle.due(a_status(5), 10.0, listened=False)
    assert throttle.due(a_status(5, state="running"), 20.0, listened=False)
    assert throttle.due(a_status(5, state="running", revision=2), 30.0, listened=False)


def test_with_listeners_changes_are_published_no_faster_than_the_shortest_pause() -> None:
    throttle = StatusThrottle()
    sent = [now / 100 for now in range(1000) if throttle.due(a_status(now), now / 100, listened=True)]
    assert all(b - a >= STATUS_MIN_INTERVAL_S for a, b in pairwise(sent))
    assert len(sent) == 40


def test_with_listeners_an_unchanged_status_is_published_after_the_longest_pause() -> None:
    throttle = StatusThrottle()
    throttle.due(a_status(), 0.0, listened=True)
    assert not throttle.due(a_status(), STATUS_MAX_INTERVAL_S - 0.1, listened=True)
    assert throttle.due(a_status(), STATUS_MAX_INTERVAL_S, listened=True)


# --- sampling --------------------------------------------------------------------------------


def test_below_the_cap_everything_is_published() -> None:
    sampler = Sampler()
    for tick in range(100):
        assert sampler.take([tick], tick * 0.02) == [tick]
        assert sampler.n == 1


@given(rate=st.integers(300, 20_000), chunk=st.integers(20, 200))
def test_above_the_cap_about_the_allowed_number_is_published(rate: int, chunk: int) -> None:
    sampler, sent, now = Sampler(), 0, 0.0
    seconds = 5
    for _ in range(rate * seconds // chunk):
        sent += len(sampler.take(range(chunk), now))
        now += chunk / rate
    # the first window lets a burst of one second's worth through before it knows better
    assert sent <= EVENTS_PER_S * (seconds + 2) * 1.5
    assert sent >= EVENTS_PER_S * seconds * 0.2


def test_after_a_quiet_time_nothing_is_left_out() -> None:
    sampler = Sampler()
    sampler.take(range(10_000), 0.0)
    assert sampler.n > 1
    assert list(sampler.take([1], 10.0)) == [1]
    assert sampler.n == 1


def test_a_cap_lets_a_burst_and_then_the_rate_through() -> None:
    limit = RateLimit()
    passed = [now / 100 for now in range(1000) if limit.allow(now / 100)]
    assert len(passed) == pytest.approx(ERRORS_PER_S * 11, abs=2)


# --- messages that fit -----------------------------------------------------------------------


def sizes(messages: list[IopubMessage]) -> list[int]:
    return [len(msgspec.msgpack.encode(to_builtins(message))) for message in messages]


def test_a_message_that_fits_is_passed_on_as_it_is() -> None:
    message = IopubMessage(msg_type="stream", content={"name": "stdout", "text": "x"})
    assert split_to_fit(message) == [message]


@pytest.mark.parametrize("letter", ["x", "ä", "𝄞"])
def test_a_large_text_is_sent_in_parts(letter: str) -> None:
    text = letter * PAYLOAD_LIMIT_BYTES
    parts = split_to_fit(IopubMessage(msg_type="stream", content={"name": "stdout", "text": text}, parent_id="p"))
    assert "".join(part.content["text"] for part in parts) == text
    assert {(part.content["name"], part.parent_id) for part in parts} == {("stdout", "p")}
    assert max(sizes(parts)) < PAYLOAD_LIMIT_BYTES


@pytest.mark.parametrize("kind", ["display_data", "execute_result", "update_display_data", "error", "comm_msg"])
def test_any_other_large_message_says_how_large_it_is(kind: str) -> None:
    large = "x" * PAYLOAD_LIMIT_BYTES
    content = {"data": {"text/plain": large}, "ename": "E", "evalue": large, "traceback": [large]}
    (part,) = split_to_fit(IopubMessage(msg_type=kind, content=content, buffers=[b"y" * PAYLOAD_LIMIT_BYTES]))
    assert part.msg_type == kind
    assert sizes([part])[0] < 2000
    assert "2,0" in str(part.content) or "too_large" in part.content or "4,1" in str(part.content)
