"""Long runs: router and bridge are killed repeatedly while messages flow; every record is seen once, in order."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

import timbr_wamp
from tests.integration.test_end_to_end import prepared, reader, up, wait_until
from timbr_wamp import Record, runtime
from timbr_wamp.settings import Settings

pytestmark = [pytest.mark.soak, pytest.mark.integration]

ROUNDS = 6
MESSAGES = 60_000
SOURCE = f"""
def numbers():
    import time
    for number in range(1, {MESSAGES} + 1):
        if number % 10 == 0:
            time.sleep(0.02)
        yield number
"""


def test_six_times_router_and_bridge_are_killed(own_settings: Settings) -> None:
    with up(own_settings) as services, timbr_wamp.connect(services["url"], services["token"]) as client:
        machine = prepared(client)
        kernel_id = client.kernels()[0].kernel_id
        with reader(machine, MESSAGES, timeout_s=600.0) as seen:
            machine.source = SOURCE
            machine.start()
            for number in range(ROUNDS):
                count = len(seen)
                wait_until(lambda count=count: len(seen) > count + 500, 60, "records flow")
                if number % 2:
                    file = runtime.read_file(
                        runtime.bridge_file(own_settings.runtime_dir, kernel_id), runtime.BridgeFile
                    )
                    assert file is not None
                    os.kill(file.pid, signal.SIGKILL)
                else:
                    node = runtime.read_file(runtime.node_file(own_settings.runtime_dir), runtime.NodeFile)
                    assert node is not None
                    router = psutil.Process(node.pid)
                    for process in (router, *router.children(recursive=True)):
                        process.kill()  # ours: the router that `up` above started
                machine_seen = len(seen)
                wait_until(lambda seen_then=machine_seen: len(seen) > seen_then, 60, "records came back")
    assert [item for item in seen if not isinstance(item, Record)] == []
    assert [record.seq for record in seen] == list(range(1, MESSAGES + 1))
    assert len({record.oid for record in seen}) == MESSAGES
