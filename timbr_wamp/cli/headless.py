"""``timbr-wamp machine`` and ``timbr-wamp run``: run a machine without a kernel, on the router.

Additional exit status: 0 after SIGINT or SIGTERM, 3 when ``--until-done`` ends with unresolved errored messages.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from timbr_wamp.cli.base import CommandFailed, note, print_json, router_options, settings_from
from timbr_wamp.names import checked_name, kernel_name_from
from timbr_wamp.settings import JOURNALS_FOLDER, JOURNALS_PID_VARIABLE, JOURNALS_VARIABLE

if TYPE_CHECKING:
    from timbr_wamp.machine import Machine
    from timbr_wamp.settings import Settings

#: Interval for checking whether the source is done.
POLL_INTERVAL_S = 0.05
ERRORED_LEFT = 3
#: Timeout for the current message at the end, after or without draining.
CLOSE_TIMEOUT_S = 1.0

T = TypeVar("T")


def headless_options(function: Callable[..., T]) -> Callable[..., T]:
    """Add the options of both commands."""
    for option in reversed((
        click.option(
            "--name", callback=lambda ctx, option, name: None if name is None else checked_name(name),
            help="The process's name for people; default: the name of its file or folder.",
        ),
        click.option("--no-start", is_flag=True, help="Do not start the machine; it can be started over the router."),
        click.option(
            "--until-done", is_flag=True,
            help="End when the source is exhausted and all is processed; status 3 if errored messages are unresolved.",
        ),
        click.option(
            "--drain", "drain_s", type=click.FloatRange(min=0), default=5.0, show_default=True, metavar="SECONDS",
            help="Time for processing queued messages before it ends, and then for readers to get the records.",
        ),
        click.option(
            "--no-journal", is_flag=True,
            help="Keep nothing beyond the process. Else a machine that is not told otherwise has a journal, named like "
            "the process, from which it goes on when it is started again; never with --until-done.",
        ),
        click.option("--offline", is_flag=True, help="Do not join a router; open the local sockets only."),
        click.option("--json", "as_json", is_flag=True, help="Print what runs as one line of JSON."),
        router_options,
    )):  # fmt: skip
        function = option(function)
    return function


@click.command("machine")
@click.argument("target", metavar="FILE.py:NAME")
@headless_options
@click.pass_context
def headless_machine(ctx: click.Context, /, target: str, url: str | None, realm: str | None, **options: Any) -> None:
    """Run a machine without a kernel, on the router, until Ctrl-C or SIGTERM.

    NAME in FILE.py, or in package.module:NAME, is a Machine or a function that returns one. It also runs
    without a router, and joins a router when one starts. At the end it processes queued messages for the
    time of --drain. The exit status is 0; with --until-done it is 1 if source or machine failed, and 3 if
    errored messages are unresolved.
    """
    from timbr_wamp.projects.targets import find_machine

    settings = settings_from(url=url, realm=realm)
    where = target.rpartition(":")[0]
    default_name = Path(where).stem if where.endswith(".py") else where.rpartition(".")[2]
    keep_journals(settings, default_name, options)
    machine = find_machine(target)
    ctx.exit(Headless(machine, settings, default_name, **options).run())


@click.command("run")
@click.argument("project", required=False, metavar="[FOLDER|FILE]", type=click.Path(path_type=Path))
@headless_options
@click.pass_context
def run_project(
    ctx: click.Context, /, project: Path | None, url: str | None, realm: str | None, **options: Any
) -> None:
    """Run the machine of a project, as `machine` does: timbr.toml in FOLDER, TIMBR_PROJECT or the working folder.

    The file's settings apply to this process. For the file's format see `docs/reference/projects.md`.
    """
    from timbr_wamp.projects import load_project
    from timbr_wamp.settings import PROJECT_VARIABLES

    loaded = load_project(project)
    # for this whole process, so that machine and bridge use the same runtime folder
    os.environ[PROJECT_VARIABLES[0]] = str(loaded.path)
    settings = settings_from(url=url, realm=realm)
    keep_journals(settings, loaded.folder.name, options)
    ctx.exit(Headless(loaded.machine(), settings, loaded.folder.name, **options).run())


def keep_journals(settings: Settings, default_name: str, options: dict[str, Any]) -> None:
    """Give the machines of this process journals, as the options say. Takes ``no_journal`` out of the options."""
    if options.pop("no_journal") or options["until_done"] or os.environ.get(JOURNALS_VARIABLE):
        return
    name = options["name"] or kernel_name_from(default_name)
    folder = settings.data_dir / JOURNALS_FOLDER / name
    os.environ |= {JOURNALS_VARIABLE: str(folder), JOURNALS_PID_VARIABLE: str(os.getpid())}


class Headless:
    """Runs a machine and its bridge until a signal ends both. Main thread."""

    def __init__(
        self,
        machine: Machine,
        settings: Settings,
        default_name: str,
        *,
        name: str | None,
        no_start: bool,
        until_done: bool,
        drain_s: float,
        offline: bool,
        as_json: bool,
    ) -> None:
        self._machine, self._settings = machine, settings
        self._name = name or kernel_name_from(default_name)
        self._start, self._until_done, self._drain_s = not no_start, until_done, drain_s
        self._offline, self._as_json = offline, as_json
        self._stop = threading.Event()

    def run(self) -> int:
        """Run until a signal or until done; return the exit status."""
        from timbr_wamp.components.own_bridge import HeadlessPresence, OwnBridge

        machine = self._machine
        bridge = None
        if not self._offline:
            presence = HeadlessPresence(self._settings, self._name)
            bridge = OwnBridge(self._settings, presence, lambda text: note(f"timbr-wamp: {text}"))
        with _stop_at_signal(self._stop):
            try:
                if self._until_done and machine.source.state == "none":
                    raise CommandFailed("--until-done needs a machine with a source")
                machine.serve()
                if bridge is not None:
                    bridge.start()
                if self._start:
                    machine.start()
                self._report_start()
                with suppress(KeyboardInterrupt):  # a second signal ends the draining
                    self._wait()
                    self._drain()
                    if bridge is not None:
                        bridge.leave(self._drain_s)
                return self._report_end()
            finally:
                machine.close(timeout=CLOSE_TIMEOUT_S)
                if bridge is not None:
                    bridge.close()

    def _report_start(self) -> None:
        machine = self._machine
        if self._as_json:
            fields = {"name": self._name, "machine": machine.name, "run": machine.run, "pid": os.getpid()}
            print_json({**fields, "endpoint": machine.endpoint}, line=True)
        else:
            note(f"timbr-wamp: machine {machine.name!r} of {self._name} is {machine.status.state}; Ctrl-C ends it")

    def _wait(self) -> None:
        while not self._stop.wait(POLL_INTERVAL_S):
            if self._until_done and (self._machine.wait(timeout=0) or self._ended_by_itself()):
                return

    def _ended_by_itself(self) -> bool:
        status = self._machine.status
        return status.state == "failed" or (status.state == "stopped" and status.reason is not None)

    def _drain(self) -> None:
        """Process queued messages, unless the machine is paused or stopped."""
        from timbr_wamp.errors import CallTimeout

        if self._machine.status.state == "running":
            with suppress(CallTimeout):  # _report_end prints what is left
                self._machine.stop(drain=True, timeout=self._drain_s)

    def _report_end(self) -> int:
        """Print the counters; return the exit status."""
        machine, status = self._machine, self._machine.status
        left = status.queue_size + status.in_flight
        open_errors = sum(group.open for group in machine.error_groups)
        note(
            f"timbr-wamp: {status.processed} processed, {status.errored} errored ({open_errors} unresolved), "
            f"{status.dropped} dropped, {left} unprocessed"
        )
        if not self._until_done or self._stop.is_set():
            return 0
        if status.source.state == "failed":
            raise CommandFailed(f"the source failed: {status.source.error}")
        complete = status.source.state == "exhausted" and not left
        if status.state == "failed" or (self._ended_by_itself() and not complete):
            raise CommandFailed(f"{status.state}: {status.reason}")
        return ERRORED_LEFT if open_errors else 0


@contextmanager
def _stop_at_signal(stop: threading.Event) -> Iterator[None]:
    """Set ``stop`` at SIGINT, SIGTERM or SIGHUP; raise `KeyboardInterrupt` at the second signal."""

    def handle(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
