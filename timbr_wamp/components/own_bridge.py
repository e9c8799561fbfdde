"""Keep this process on the router: a runtime file, and a bridge process of its own.

For a process that runs machines without a kernel. It is there with or without a router: the escort
looks for one, starts the bridge when there is one, and starts it again when it ends. All of it
happens in a daemon thread, so that no code of users holds it up; the bridge is a process of its own
for the same reason.
"""

from __future__ import annotations

import os
import platform
import secrets
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from timbr_wamp import runtime
from timbr_wamp.components import processes
from timbr_wamp.components.bridge_supervisor import BridgeEnvironment
from timbr_wamp.components.host import router_of
from timbr_wamp.errors import NoRouter, TimbrError
from timbr_wamp.names import checked_authid, checked_kernel_id
from timbr_wamp.runtime import HeadlessFile
from timbr_wamp.settings import Settings

#: How often router and bridge are looked at.
LOOK_S = 0.25
#: A bridge that ends is started again after this, then after twice as long each time, up to the cap.
RESPAWN_S, RESPAWN_CAP_S = 1.0, 30.0
#: A bridge that lived so long was well: waits begin anew, and what was said may be said again.
WELL_S = 60.0
SAYINGS_LIMIT = 20
#: The bridge may take so long to tell the router that it goes; one that finds no router is ended then.
GOODBYE_S = 2.0


class OwnBridge:
    """This process's place on the router. Any thread.

    Args:
        name: what people call the process.
        report: gets lines for people, each once. Called in the escort's thread.
    """

    def __init__(self, settings: Settings, name: str, report: Callable[[str], None]) -> None:
        self._settings, self._name, self._report = settings, name, report
        #: The last part of the kernel id; the first is the name of the token, known when there is a router.
        self._digits = secrets.token_hex(6)
        #: Under which id the process is to be on the router; None while none was found.
        self.kernel_id: str | None = None
        self._bridge: tuple[int, float] | None = None
        self._log: Path | None = None
        self._spawned_at, self._next_spawn, self._wait_s = 0.0, 0.0, RESPAWN_S
        self._said: set[str] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="escort", daemon=True)

    def start(self) -> None:
        """Begin to look for a router. Returns at once."""
        runtime.live_files(self._settings.runtime_dir, "headless-", HeadlessFile)  # what was killed is cleaned up
        self._thread.start()

    def close(self) -> None:
        """Leave the router and end the bridge. Idempotent, bounded."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self.kernel_id is not None:
            # the bridge sees that, tells the router so, and ends by itself
            runtime.headless_file(self._settings.runtime_dir, self.kernel_id).unlink(missing_ok=True)
        deadline = time.monotonic() + GOODBYE_S
        while self._bridge_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        self._end_bridge()

    # --- inside ------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.wait(LOOK_S):
            if self._bridge_alive() or time.monotonic() < self._next_spawn:
                continue
            try:
                environment = router_of(self._settings)
            except NoRouter:
                self._say("no router here: the machine runs all the same, and joins when one comes")
                continue
            try:
                self._spawn(environment)
            except (
                OSError,
                TimbrError,
            ) as error:  # a folder that is not ours, no more processes: told, and tried again
                self._say(f"no bridge could be started: {error}")
                self._put_off()

    def _spawn(self, environment: BridgeEnvironment) -> None:
        if self._bridge is not None:
            self._bridge_ended()
        kernel_id = checked_kernel_id(f"{checked_authid(environment.token.partition('.')[0])}_{self._digits}")
        if self.kernel_id not in (None, kernel_id):  # another token's name: another id
            runtime.headless_file(environment.runtime_dir, str(self.kernel_id)).unlink(missing_ok=True)
        self.kernel_id = kernel_id
        content = HeadlessFile(
            pid=os.getpid(), process_started=runtime.own_process_started(), kernel_id=kernel_id, name=self._name,
            cwd=str(Path.cwd()), started_at=time.time(), python=platform.python_version(),
        )  # fmt: skip
        runtime.write_file(runtime.headless_file(environment.runtime_dir, kernel_id), content)
        self._log = environment.runtime_dir / f"log-bridge-{kernel_id}.txt"
        self._log.unlink(missing_ok=True)
        command = [sys.executable, "-m", "timbr_wamp", "bridge", "--kernel-id", kernel_id]
        self._bridge = processes.spawn(command, environment=environment.variables(), log_file=self._log)
        self._spawned_at = time.monotonic()
        self._say(f"joining {environment.url} as {kernel_id} ({self._name})")
        self._put_off()

    def _bridge_ended(self) -> None:
        """Say why, once, and choose how long the next one waits."""
        assert self._log is not None
        if time.monotonic() - self._spawned_at > WELL_S:
            self._wait_s = RESPAWN_S
            self._said.clear()
        lines = processes.log_tail(self._log).splitlines()
        self._say(f"off the router: {lines[-1] if lines else 'the bridge was killed'}; trying again")

    def _put_off(self) -> None:
        self._next_spawn = time.monotonic() + self._wait_s
        self._wait_s = min(self._wait_s * 2, RESPAWN_CAP_S)

    def _say(self, text: str) -> None:
        if text not in self._said and len(self._said) < SAYINGS_LIMIT:
            self._said.add(text)
            self._report(text)

    def _bridge_alive(self) -> bool:
        return self._bridge is not None and runtime.process_alive(*self._bridge)

    def _end_bridge(self) -> None:
        if self._bridge is not None:
            processes.end(*self._bridge, term_s=1.0)
        if self._log is not None:
            self._log.unlink(missing_ok=True)
        if self.kernel_id is not None:
            path = runtime.bridge_file(self._settings.runtime_dir, self.kernel_id)
            path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)


__all__ = ["OwnBridge"]
