"""Long runs: router, bridge, host and client are killed and frozen, 30 times in all, while 20,000 messages flow."""

from __future__ import annotations

import os
import random

import pytest

from tests.chaos_kit import chaos, check_all_is_there, plan
from timbr_wamp.settings import Settings

pytestmark = [pytest.mark.soak, pytest.mark.integration, pytest.mark.timeout(1200)]

ROUNDS = 30
#: Messages of each of the two flows.
MESSAGES = 10_000
#: Another order of events: ``CHAOS_SEED=5 make soak``.
SEED = int(os.environ.get("CHAOS_SEED", "1"))


def test_thirty_times_a_process_is_killed_or_frozen_and_nothing_is_lost(own_settings: Settings) -> None:
    with chaos(own_settings, MESSAGES, pause_s=0.02) as run:
        seen = run.run(plan(SEED, ROUNDS), random.Random(SEED))
        check_all_is_there(run, seen, MESSAGES)
