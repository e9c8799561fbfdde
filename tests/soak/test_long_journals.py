"""Long runs with a journal: the process is killed 25 times while 20,000 messages are put, and stopped for 30 images."""

from __future__ import annotations

import os
import shutil

import pytest
from journal_kit import LIMIT_S, Child, check, check_image, run_and_kill

from timbr_wamp.names import new_oid

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]

#: Other instants: ``CHAOS_SEED=5 make soak``.
SEED = int(os.environ.get("CHAOS_SEED", "1"))


def test_a_process_that_is_killed_25_times_records_each_of_20_000_messages_once(tmp_path):
    path = tmp_path / "machine.journal"
    oids = run_and_kill(path, count=20_000, kills=25, seed=SEED)
    check(path, oids)


def test_thirty_images_of_a_stopped_process_hold_what_was_confirmed(tmp_path):
    path = tmp_path / "machine.journal"
    child, confirmed = Child(path), list[str]()
    child.send([(new_oid(), number) for number in range(12_000)], end=True)
    try:
        for image in range(30):
            confirmed += [child.lines.get(timeout=LIMIT_S) for _ in range(350)]
            child.freeze()
            copy = tmp_path / f"image{image}" / path.name
            copy.parent.mkdir()
            for suffix in ("", "-wal"):
                shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
            child.thaw()
            check_image(copy, confirmed)
            shutil.rmtree(copy.parent)
    finally:
        child.thaw()
        while child.lines.get(timeout=LIMIT_S) != "done":
            pass
        child.leave()
