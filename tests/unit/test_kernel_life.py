"""States of a kernel become events for who follows its machine."""

from __future__ import annotations

from typing import Any

from timbr_wamp.client.kernel_life import KernelLife
from timbr_wamp.contract import KernelInfo


def state(name: Any, time: float, *, reason: str | None = None, restarts: int = 0) -> KernelInfo:
    return KernelInfo(
        kernel_id="lab_0123456789ab", name="pump", host="lab", state=name, time=time, reason=reason, restarts=restarts
    )


def kinds(*states: KernelInfo) -> list[str]:
    life = KernelLife()
    return [event.kind for event in map(life.on_state, states) if event is not None]


def test_a_death_and_a_return_are_told_once_with_the_reason():
    life = KernelLife()
    assert life.on_state(state("busy", 1.0)) is None
    event = life.on_state(state("dead", 2.0, reason="killed by signal 9"))
    assert event is not None
    assert (event.kind, event.time) == ("kernel_dead", 2.0)
    assert event.data == {"state": "dead", "reason": "killed by signal 9", "restarts": 0}
    assert life.on_state(state("dead", 3.0)) is None
    back = life.on_state(state("starting", 4.0, restarts=1))
    assert back is not None
    assert back.kind == "kernel_back"
    assert life.on_state(state("idle", 5.0, restarts=1)) is None


def test_what_happened_between_two_states_is_told_too():
    assert kinds(state("idle", 1.0), state("busy", 2.0, restarts=1)) == ["kernel_back"]
    assert kinds(state("idle", 1.0), state("restarting", 2.0), state("dead", 3.0)) == [
        "kernel_restarting",
        "kernel_dead",
    ]
    assert kinds(state("offline", 1.0), state("idle", 2.0)) == ["kernel_back"]


def test_an_older_state_and_the_first_one_are_no_event():
    assert kinds(state("dead", 1.0)) == []
    assert kinds(state("idle", 2.0), state("dead", 1.0)) == []
