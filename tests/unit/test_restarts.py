"""A process that ends is restarted at once, then after growing waits, and not for ever; each end has its reason."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from timbr_wamp.processes import RestartPolicy, Restarts

POLICY = RestartPolicy(first_s=1.0, cap_s=8.0, limit=4, window_s=100.0, stable_s=60.0)


def ends(restarts: Restarts, now: float) -> float:
    """Start it and let it end at once; return the wait before its restart."""
    restarts.started(now=now)
    assert restarts.ended("killed", now=now) == "waiting"
    return restarts.due_at - now


def test_waits_double_up_to_the_cap_and_a_long_run_ends_them():
    restarts = Restarts(RestartPolicy(first_s=1.0, cap_s=8.0, limit=None, stable_s=60.0))
    assert [ends(restarts, now) for now in range(7)] == [0, 1, 2, 4, 8, 8, 8]
    restarts.started(now=10.0)
    restarts.ended("killed", now=70.0)
    assert restarts.due_at == 70.0


def test_too_many_ends_within_the_window_give_up_with_the_last_reason():
    restarts = Restarts(POLICY)
    for now in (0.0, 1.0, 2.0, 3.0):
        ends(restarts, now)
    restarts.started(now=4.0)
    assert restarts.ended("no licence", now=4.0) == "given_up"
    assert restarts.reason == "it ended 5 times in 100 s and is not restarted; at last: no licence"
    assert not restarts.due(now=1e9)


def test_ends_before_the_window_are_forgotten():
    restarts = Restarts(POLICY)
    for now in (0.0, 1.0, 2.0, 3.0, 100.5):
        ends(restarts, now)
    assert restarts.state == "waiting"


def test_somebody_who_asks_gets_a_fresh_start():
    restarts = Restarts(POLICY)
    for now in (0.0, 1.0, 2.0, 3.0):
        ends(restarts, now)
    restarts.forgive()
    assert ends(restarts, 4.0) == 0


def test_what_was_ended_on_request_is_not_restarted():
    restarts = Restarts(POLICY)
    restarts.started(now=0.0)
    restarts.stopped("it was ended")
    assert (restarts.state, restarts.reason, restarts.due(now=1e9)) == ("stopped", "it was ended", False)


@given(st.lists(st.floats(0.0, 50.0), max_size=60))
def test_never_more_restarts_in_a_window_than_the_limit(gaps: list[float]):
    restarts, now, made = Restarts(POLICY), 0.0, list[float]()
    restarts.started(now=now)
    for gap in gaps:
        now += gap
        if restarts.ended("killed", now=now) == "given_up":
            break
        now = max(now, restarts.due_at)
        assert restarts.due(now=now)
        restarts.started(now=now)
        made.append(now)
        # a restart follows its end by at most the cap
        assert len([at for at in made if at > now - POLICY.window_s + POLICY.cap_s]) <= POLICY.limit
