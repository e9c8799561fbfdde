"""Random operations on machines, more and longer sequences; and hundreds of machines one after the other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.properties.test_leaks import EXECUTORS, left_by_machines
from tests.properties.test_random_machines import RandomMachine, hypothesis_settings, initial_states, steps

pytestmark = pytest.mark.soak

MACHINES = 200


@settings(hypothesis_settings, max_examples=1_000)
@given(initial_states, st.lists(steps, min_size=30, max_size=150))
def test_a_thousand_long_sequences_inline(begin: dict[str, Any], script: list[tuple[str, dict[str, Any]]]) -> None:
    assert RandomMachine("inline", begin).live(script) >= 0


@settings(hypothesis_settings, max_examples=1_000)
@given(initial_states, st.lists(steps, min_size=30, max_size=150))
def test_a_thousand_long_sequences_in_threads(begin: dict[str, Any], script: list[tuple[str, dict[str, Any]]]) -> None:
    assert RandomMachine("threads", begin).live(script) >= 0


@pytest.mark.parametrize("executor", EXECUTORS)
def test_two_hundred_machines_leave_no_thread_and_no_memory(executor: str) -> None:
    assert left_by_machines(executor, MACHINES) == []
