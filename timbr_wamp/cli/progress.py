"""Commands that follow a machine's progress or show its graph: progress, wait, graph."""

from __future__ import annotations

import shlex
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from timbr_wamp.cli.base import CommandFailed, connecting, echo, json_option, machine_of, machine_option, print_json

if TYPE_CHECKING:
    from timbr_wamp.client import Client


@click.command()
@click.argument("kernel", required=False)
@machine_option
@click.option("--once", is_flag=True, help="Print the progress once.")
@click.option("--interval", "interval_s", type=click.FloatRange(min=0.1), default=0.5, show_default=True,
              help="Interval in seconds.")  # fmt: skip
@json_option
@connecting
def progress(client: Client, kernel: str | None, machine: str, once: bool, interval_s: float, as_json: bool) -> None:
    """Show a machine's progress with its source, until it is complete, the machine does not run, or Ctrl-C.

    With --json it prints one progress per line. Ctrl-C leaves the machine running.
    """
    remote = machine_of(client, kernel, machine)
    if once:
        newest = remote.progress()
        print_json(newest) if as_json else echo(str(newest))
        return
    with suppress(KeyboardInterrupt):  # ends this command with status 0
        if as_json:
            print_json(remote.follow(lambda each: print_json(each, line=True), interval_s=interval_s), line=True)
            return
        from timbr_wamp.display import progress_bar

        with progress_bar() as draw:
            last = remote.follow(draw, interval_s=interval_s)
            draw(last)
        echo(str(last))


def _argv(context: click.Context, option: click.Parameter, command: str | None) -> list[str] | None:
    """Split a command into arguments, so that an invalid one is refused before the waiting."""
    if command is None:
        return None
    try:
        argv = shlex.split(command)
    except ValueError as error:
        raise click.BadParameter(f"{command}: {error}") from None
    if not argv:
        raise click.BadParameter("the command is empty")
    return argv


@click.command()
@click.argument("kernel", required=False)
@machine_option
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0.0), metavar="SECONDS",
              help="Timeout; default: no limit.")  # fmt: skip
@click.option("--progress", "shown", is_flag=True, help="Show a progress bar.")
@click.option("--then", "argv", metavar="COMMAND", callback=_argv,
              help="A program and its arguments, as one text, to run afterwards without a shell.")  # fmt: skip
@json_option
@connecting
def wait(
    client: Client,
    kernel: str | None,
    machine: str,
    timeout_s: float | None,
    shown: bool,
    argv: list[str] | None,
    as_json: bool,
) -> None:
    """Wait until a machine's source has ended and every message is recorded.

    Ends with status 1 at the timeout, or if the machine does not run while messages are left.
    `--then COMMAND` runs only if everything is recorded; its status becomes the status of this command.
    """
    remote = machine_of(client, kernel, machine)
    done = remote.wait(timeout_s, progress=shown)
    status = remote.status
    if as_json:
        print_json(status)
    if not done:
        left = f"{status.queue_size:,} queued, {status.in_flight:,} in flight, source {status.source.state}"
        raise CommandFailed(f"not done: the machine is {status.state}, {left}")
    if argv is not None:
        _run(argv)


def _run(argv: list[str]) -> None:
    """Run a program and exit with its status."""
    try:
        done = subprocess.run(argv)
    except OSError as error:
        raise CommandFailed(f"{argv[0]} cannot be run: {error.strerror}") from None
    click.get_current_context().exit(done.returncode if done.returncode >= 0 else 128 - done.returncode)


@click.command()
@click.argument("kernel", required=False)
@machine_option
@click.option("--mermaid", is_flag=True, help="Print Mermaid text, https://mermaid.js.org.")
@json_option
@connecting
def graph(client: Client, kernel: str | None, machine: str, mermaid: bool, as_json: bool) -> None:
    """Print which slot of a machine consumes the value of which."""
    plot = machine_of(client, kernel, machine).plot()
    if as_json:
        print_json(plot.graph)
    else:
        echo(plot.mermaid if mermaid else str(plot))
