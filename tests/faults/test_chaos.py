"""Each process is killed and frozen once while messages flow; the long form is in `tests/soak`."""

from __future__ import annotations

import random

import pytest

from tests.chaos_kit import chaos, check_all_is_there, plan
from timbr_wamp.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

MESSAGES = 2_000
SEED = 7


def test_each_process_is_killed_and_frozen_and_nothing_is_lost(own_settings: Settings) -> None:
    with chaos(own_settings, MESSAGES, pause_s=0.02) as run:
        seen = run.run(plan(SEED, 8), random.Random(SEED))
        check_all_is_there(run, seen, MESSAGES)
