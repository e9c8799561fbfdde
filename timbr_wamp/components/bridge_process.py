"""The process of a bridge, as its host or its headless process starts and finds it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from timbr_wamp import runtime
from timbr_wamp.errors import InvalidToken, NoRouter
from timbr_wamp.names import router_url
from timbr_wamp.processes import Process, RestartPolicy, Supervisor, spawn
from timbr_wamp.runtime import BridgeFile, NodeFile
from timbr_wamp.settings import ENV_PREFIX, TOKENS_RULE, Settings, same_router


@dataclass(frozen=True, slots=True)
class BridgeEnvironment:
    """The settings that a host passes to a bridge in its environment, because all users can see arguments."""

    runtime_dir: Path
    url: str
    realm: str
    token: str = field(repr=False)
    log_level: str = "warning"

    @property
    def authid(self) -> str:
        """The name of the token."""
        return self.token.partition(".")[0]

    def variables(self) -> dict[str, str]:
        """Return this process's environment with these settings added."""
        own = {
            "RUNTIME_DIR": str(self.runtime_dir),
            "URL": self.url,
            "REALM": self.realm,
            "TOKEN": self.token,
            "LOG_LEVEL": self.log_level,
        }
        return {**os.environ, **{ENV_PREFIX + name: value for name, value in own.items()}}


def bridge_environment(settings: Settings) -> BridgeEnvironment:
    """Return the environment of bridges: router and token of the settings, else the local router and its host token.

    Raises:
        NoRouter: none is configured, and none runs on this computer.
        InvalidArgument: the URL is not the address of a router.
        InvalidToken: no token is configured for this router.
    """
    here = runtime.local_node(settings.runtime_dir)
    asked = settings.url or (here.unix_url if here is not None else None)
    url = None if asked is None else router_url(asked)
    local = here if here is not None and any(same_router(url, its) for its in (here.url, here.unix_url)) else None
    token = settings.token or (local.host_token if local is not None else None)  # the local host's stays here
    if url is None:
        raise NoRouter("TIMBR_WAMP_URL is not set, and no router runs on this computer")
    if token is None:
        raise InvalidToken(f"none is set for {url}; {TOKENS_RULE}")
    return BridgeEnvironment(
        settings.runtime_dir, url, runtime.realm_of(settings.realm, local), token, settings.log_level
    )


class BridgeProcess:
    """The bridge of one kernel: found by its runtime file, or started, and kept running. See `Supervisor`.

    Args:
        hosted: a host starts it, which other hosts of the same router may take over.
    """

    def __init__(
        self, environment: BridgeEnvironment, kernel_id: str, *, hosted: bool, policy: RestartPolicy | None = None
    ) -> None:
        self._environment, self._kernel_id, self._hosted = environment, kernel_id, hosted
        self._path = runtime.bridge_file(environment.runtime_dir, kernel_id)
        self._log = environment.runtime_dir / f"log-bridge-{kernel_id}.txt"
        self._reason = self._log.with_suffix(".reason")
        self.supervisor = Supervisor(
            f"the bridge of kernel {kernel_id}", self._spawn, find=self._find, log_file=self._log,
            reason_file=self._reason, policy=policy,
        )  # fmt: skip

    @property
    def ready(self) -> bool:
        """Whether it handles signals: before that, a signal would end it."""
        file, process = runtime.read_file(self._path, BridgeFile), self.supervisor.process
        return file is not None and file.ready and process is not None and file.pid == process.pid

    def forget(self) -> None:
        """Remove the files of an ended bridge."""
        self._log.unlink(missing_ok=True)
        self._reason.unlink(missing_ok=True)
        file = runtime.read_file(self._path, BridgeFile)
        if file is None or not file.alive():
            self._path.unlink(missing_ok=True)
            self._path.with_suffix(".lock").unlink(missing_ok=True)

    def _find(self) -> Process | None:
        file = runtime.read_file(self._path, BridgeFile)
        if file is None or not _is_router(self._environment.runtime_dir, file.router, self._environment.url):
            return None
        return Process.of(file)

    def _spawn(self) -> Process:
        command = [sys.executable, "-m", "timbr_wamp", "bridge", "--kernel-id", self._kernel_id]
        process = spawn(
            command, environment=self._environment.variables(), log_file=self._log, reason_file=self._reason
        )
        before = runtime.read_file(self._path, BridgeFile)
        if before is None or not before.alive():  # at once, so that the next host finds a bridge that is starting
            content = BridgeFile(
                pid=process.pid, process_started=process.started, kernel_id=self._kernel_id,
                router=self._environment.url, hosted=self._hosted,
                subshell_id=before.subshell_id if before is not None else None,
            )  # fmt: skip
            runtime.write_file(self._path, content)
        return process


def _is_router(runtime_dir: Path, url: str, other: str) -> bool:
    """Return whether two URLs are of one router; the router on this computer has two. Empty is any."""
    node = runtime.read_file(runtime.node_file(runtime_dir), NodeFile)
    return url in ("", other) or (node is not None and {url, other} == {node.url, node.unix_url})


__all__ = ["BridgeEnvironment", "BridgeProcess", "bridge_environment"]
