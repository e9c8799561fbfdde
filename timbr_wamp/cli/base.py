"""Shared by all commands: the group that prints errors as one sentence, common options, JSON output, the client.

Exit status: 0 success, 1 a `TimbrError` (a sentence on stderr), 2 wrong usage, 130 Ctrl-C.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from timbr_wamp.errors import TimbrError

if TYPE_CHECKING:
    from rich.console import Console

    from timbr_wamp.client import Client, RemoteMachine
    from timbr_wamp.settings import Settings

#: Width of a table that is written to a pipe.
PIPE_WIDTH = 200

P = ParamSpec("P")
T = TypeVar("T")


def command_name() -> str:
    """Return how to call this command from the shell that it was called from, so that what is printed can be pasted.

    Its name when the PATH leads to it; otherwise, as in a clone whose environment is not activated, its path.
    """
    beside = Path(sys.executable).with_name("timbr-wamp")
    on_path = shutil.which("timbr-wamp")
    if on_path is not None and Path(on_path).samefile(beside if beside.exists() else on_path):
        return "timbr-wamp"
    if not beside.exists():
        return f"{shlex.quote(sys.executable)} -m timbr_wamp"
    return shlex.quote(str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside))


class CommandFailed(click.ClickException):
    """An error that is printed on stderr as one sentence."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        click.echo(f"timbr-wamp: {self.message}", err=True, file=file)


class Commands(click.Group):
    """A group of commands that prints a `TimbrError` as one sentence, or with ``--debug`` as a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TimbrError as error:
            if ctx.params.get("debug"):
                if error.remote_traceback:
                    click.echo(f"In the other process:\n{error.remote_traceback}", err=True)
                raise
            raise CommandFailed(str(error)) from error
        except KeyboardInterrupt:
            ctx.exit(130)  # 128 + SIGINT, as in shells; click would use 1
        except BrokenPipeError:
            # The reader of a pipe has closed it, as in `timbr-wamp tail | head`. Without this, Python fails when
            # it flushes stdout at exit: https://docs.python.org/3/library/signal.html#note-on-sigpipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)


def set_up_logging(level: str) -> None:
    """Log to stderr. Only commands set up handlers, never the library."""
    names = logging.getLevelNamesMapping()
    logging.basicConfig(
        level=names.get(level.upper(), logging.WARNING),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
        force=True,
    )


def settings_from(**explicit: Any) -> Settings:
    """Return the settings, overridden by a command's options that were given."""
    from timbr_wamp.settings import load_settings

    return load_settings(**explicit)


def router_options(function: Callable[P, T]) -> Callable[P, T]:
    """Add ``--url`` and ``--realm``. The token is taken from environment or file, never from an argument."""
    for option in (
        click.option("--realm", metavar="NAME", help="The router's realm; default: the configured one, else `timbr`."),
        click.option(
            "--url", metavar="URL", help="The router: ws://…, wss://… or rs+unix:///path. Default: the local one."
        ),
    ):
        function = option(function)
    return function


def connecting(function: Callable[..., T]) -> Callable[..., T]:
    """Add the router's options to a command, call it with a connected `Client` first, and close the client."""

    @router_options
    @click.option(
        "--connect-timeout",
        "connect_timeout_s",
        type=float,
        default=10.0,
        show_default=True,
        help="Timeout for connecting, in seconds.",
    )
    @functools.wraps(function)
    def run(*args: Any, url: str | None, realm: str | None, connect_timeout_s: float, **kwargs: Any) -> T:
        with connected(settings_from(url=url, realm=realm), connect_timeout_s) as client:
            return function(client, *args, **kwargs)

    return run


@contextmanager
def connected(settings: Settings, timeout_s: float = 10.0) -> Iterator[Client]:
    """Connect to the router of ``settings``, else to the local one; close the client at the end."""
    from timbr_wamp.client import connect

    client = connect(settings=settings, timeout_s=timeout_s)
    try:
        yield client
    finally:
        client.close()


def machine_option(function: Callable[P, T]) -> Callable[P, T]:
    """Add ``--machine``, the name of the machine in its kernel."""
    return click.option("-m", "--machine", default="machine", show_default=True, help="The machine's name.")(function)


def machine_of(client: Client, kernel: str | None, name: str) -> RemoteMachine:
    """Return a machine of a kernel by the kernel's id, name or unique prefix; None means the only kernel."""
    return client.kernel(kernel).machine(name)


def json_option(function: Callable[P, T]) -> Callable[P, T]:
    """Add ``--json``, output for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(function)


def print_json(value: object, *, line: bool = False) -> None:
    """Print a contract value as JSON on stdout; with ``line`` on one line, flushed."""
    from timbr_wamp.contract import to_builtins

    text = json.dumps(to_builtins(value), ensure_ascii=False, indent=None if line else 2)
    click.echo(text)
    if line:
        sys.stdout.flush()


def console() -> Console:
    """Return the console for results. Rich obeys ``NO_COLOR``; a pipe gets wide lines."""
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(highlight=False, width=width)


def note(text: str) -> None:
    """Print a message that is not part of the result on stderr."""
    click.echo(text, err=True)
