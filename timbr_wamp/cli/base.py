"""Shared by all commands: errors as one sentence, common options, JSON output, the client.

Exit status: 0 success, 1 failure (a sentence on stderr), 2 wrong usage, 130 Ctrl-C.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from timbr_wamp.command_line import command_line, this_is_the_command
from timbr_wamp.errors import TimbrError, did_you_mean
from timbr_wamp.processes import hand_over
from timbr_wamp.tables import terminal_text

if TYPE_CHECKING:
    from rich.console import Console

    from timbr_wamp.client import Client, RemoteMachine
    from timbr_wamp.settings import Settings

#: Width of a table that is written to a pipe.
PIPE_WIDTH = 1_000
#: What an error of stdout names.
OUTPUT = "cannot write to stdout"

#: Characters that `json.dumps` writes as they are, and that a terminal obeys or Unicode reorders texts by.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

#: The option of all commands that shows tracebacks.
DEBUG = "--debug"

#: Questions that were asked in this process.
_asked: set[str] = set()

P = ParamSpec("P")
T = TypeVar("T")


class CommandFailed(click.ClickException):
    """An error that is printed on stderr as one sentence."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        with suppress(OSError):  # stderr is full or closed; the exit status still tells
            click.echo(terminal_text(f"timbr-wamp: {self.message}"), err=True, file=file)


class OneSentence(click.Command):
    """A command that prints its errors as one sentence, or with ``--debug`` as a traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command, as `click.Command.main`; what cannot be written is a sentence too."""
        this_is_the_command()
        prepare_streams()
        try:
            try:
                return super().main(*args, **kwargs)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()  # at exit, Python would print a failure as "Exception ignored"
        except OSError as error:
            if error.filename != OUTPUT:
                raise
            CommandFailed(_problem(error)).show()  # of --help or the flush; `invoke` converts those of commands
            sys.exit(CommandFailed.exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TimbrError as error:
            hand_over(error)
            if ctx.params.get("debug"):
                if error.remote_traceback:
                    note(f"In the other process:\n{error.remote_traceback}")
                raise
            raise CommandFailed(str(error)) from error
        except KeyboardInterrupt:
            ctx.exit(130)  # 128 + SIGINT, as in shells; click would use 1
        except BrokenPipeError:
            give_up_stdout()  # its reader has closed it, as in `timbr-wamp tail | head`
            ctx.exit(0)
        except (OSError, UnicodeError) as error:
            hand_over(error)
            problem = _problem(error)
            if ctx.params.get("debug"):
                raise
            raise CommandFailed(problem) from error
        except Exception as error:  # a bug: its traceback goes to stderr
            if not isinstance(error, (click.ClickException, click.exceptions.Exit, click.Abort)):
                hand_over(error)
            raise


class Commands(OneSentence, click.Group):
    """The group of all commands. ``--debug`` may stand anywhere, also behind the command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the group's options."""
        own = args[: args.index("--")] if "--" in args else args
        if DEBUG in own:
            args = [DEBUG, *(word for word in own if word != DEBUG), *args[len(own) :]]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments begin with; for one that does not exist, say which one may be meant."""
        asked = args[0]
        if self.get_command(ctx, asked) is None and not asked.startswith("-"):
            ctx.fail(f"no command {asked!r}{self._meant(asked)}")
        return super().resolve_command(ctx, args)

    def _meant(self, asked: str) -> str:
        """Return which commands may be meant: those of this name in groups, else one with a similar name."""
        groups = [(name, group) for name, group in self.commands.items() if isinstance(group, click.Group)]
        inside = [f"'{name} {asked}'" for name, group in groups if asked in group.commands]
        return f"; did you mean {' or '.join(inside)}?" if inside else did_you_mean(asked, self.commands)


def prepare_streams() -> None:
    """Make the standard streams such that a command can use them.

    A character that the encoding of stdout does not have is written as an escape. A stream that is closed is
    opened again, because the number of its descriptor would be given to the next file or socket: stdout for
    reading only, so that writing to it fails, and stderr and stdin on the null device.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            _to_null_device(number, flags)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    if type(sys.stdout) is io.TextIOWrapper:  # the process's own, not one that a test put there
        line_buffering, encoding = sys.stdout.line_buffering, sys.stdout.encoding
        sys.stdout = _Output(sys.stdout.detach(), encoding, "backslashreplace", line_buffering=line_buffering)


class _Output(io.TextIOWrapper):
    """Stdout, whose errors name it as those of files do."""

    def write(self, text: str) -> int:
        with _naming(OUTPUT):
            return super().write(text)

    def flush(self) -> None:
        with _naming(OUTPUT):
            super().flush()


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = error.filename or name
        raise


def give_up_stdout() -> None:
    """Let what is still to be written to stdout vanish. Python would fail when it flushes it at exit.

    See https://docs.python.org/3/library/signal.html#note-on-sigpipe.
    """
    _to_null_device(1, os.O_WRONLY)


def _to_null_device(number: int, flags: int) -> None:
    descriptor = os.open(os.devnull, flags)
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.set_inheritable(number, True)


def _problem(error: OSError | UnicodeError) -> str:
    """Return an error of a file, of stdout or of an encoding as a sentence."""
    if isinstance(error, UnicodeError):
        return str(error)
    text = error.strerror or str(error) or type(error).__name__
    if OUTPUT in (error.filename, error.filename2):
        give_up_stdout()
    files = [os.fsdecode(file) for file in (error.filename, error.filename2) if isinstance(file, (str, bytes))]
    return f"{' and '.join(files)}: {text}" if files else text


def set_up_logging(level: str) -> None:
    """Log to stderr. Only commands set up handlers, never the library."""
    names = logging.getLevelNamesMapping()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LiteralFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=names.get(level.upper(), logging.WARNING), handlers=[handler], force=True)


class _LiteralFormatter(logging.Formatter):
    """Writes what other processes sent as text."""

    def format(self, record: logging.LogRecord) -> str:
        return terminal_text(super().format(record))


def settings_from(**explicit: Any) -> Settings:
    """Return the settings, overridden by a command's options that were given. Asks for consent, if it must."""
    from timbr_wamp.settings import ConsentWanted, load_settings

    ask_for_consent(explicit.get("folder"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConsentWanted)  # it was said
        return load_settings(**explicit)


def ask_for_consent(folder: Path | None = None) -> None:
    """Ask, once in a process, whether to use what the project's file may not decide alone; or say how to consent."""
    from timbr_wamp.settings import consent, unanswered

    question = unanswered(folder)
    if question is None or str(question) in _asked:
        return
    _asked.add(str(question))
    if sys.stdin.isatty() and sys.stderr.isatty():
        text = terminal_text(f"{question}\nUse these settings, now and later?")
        if click.confirm(text, default=False, err=True):
            consent(question)
            return
    trust = command_line("trust", str(question.path))
    note(f"timbr-wamp: {question}; not used without your consent: {trust}")


def router_options(function: Callable[P, T]) -> Callable[P, T]:
    """Add ``--url`` and ``--realm``. The token is taken from environment or file, never from an argument."""
    for option in (
        click.option(
            "--realm",
            metavar="NAME",
            help="The router's realm; default: the configured one, else the local router's, else `timbr`.",
        ),
        click.option(
            "--url", metavar="URL", help="The router: ws://…, wss://… or rs+unix:///path. Default: the local one."
        ),
    ):
        function = option(function)
    return function


def connect_options(function: Callable[P, T]) -> Callable[P, T]:
    """Add the options of commands that connect to a router: `router_options` and ``--connect-timeout``."""
    timeout = click.option(
        "--connect-timeout",
        "connect_timeout_s",
        type=click.FloatRange(min=0),
        metavar="SECONDS",
        help="Timeout for connecting, also to a router that is not there yet; default: 10, at once if nothing listens.",
    )
    return router_options(timeout(function))


def connecting(function: Callable[..., T]) -> Callable[..., T]:
    """Add the router's options to a command, call it with a connected `Client` first, and close the client."""

    @connect_options
    @functools.wraps(function)
    def run(*args: Any, url: str | None, realm: str | None, connect_timeout_s: float | None, **kwargs: Any) -> T:
        with connected(settings_from(url=url, realm=realm), connect_timeout_s, realm) as client:
            return function(client, *args, **kwargs)

    return run


@contextmanager
def connected(settings: Settings, timeout_s: float | None = None, realm: str | None = None) -> Iterator[Client]:
    """Connect to the router of ``settings``, else to the local one; close the client at the end.

    With ``timeout_s`` it waits so long for a router that is not there yet. ``realm``: the one of ``--realm``.
    """
    from timbr_wamp.client import connect
    from timbr_wamp.client.async_client import CONNECT_TIMEOUT_S
    from timbr_wamp.client.client import UnencryptedConnection

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnencryptedConnection)
        client = connect(realm=realm, settings=settings, timeout_s=timeout_s or CONNECT_TIMEOUT_S, wait=bool(timeout_s))
    for warning in caught:
        note(f"timbr-wamp: {warning.message}")
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

    escaped = not (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    text = json.dumps(to_builtins(value), ensure_ascii=escaped, indent=None if line else 2, default=_base64)
    click.echo(_UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))
    if line:
        sys.stdout.flush()


def _base64(value: object) -> str:
    """Return the bytes of a value of the wire as text."""
    assert isinstance(value, bytes), type(value)
    return base64.b64encode(value).decode()


def console() -> Console:
    """Return the console for results. Rich obeys ``NO_COLOR``; a pipe gets wide lines.

    What is printed may come from another process: a plain text is no markup, and of control characters only
    the console's own are written.
    """
    from rich.console import Console
    from rich.segment import Segment

    class LiteralConsole(Console):
        def render(self, *args: Any, **kwargs: Any) -> Iterator[Segment]:
            for segment in super().render(*args, **kwargs):
                yield segment if segment.control else segment._replace(text=terminal_text(segment.text))

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return LiteralConsole(markup=False, emoji=False, highlight=False, width=width)


def file_text(name: str) -> str:
    """Return the text of the file of an argument ``@name``.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return Path(name).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise click.UsageError(f"cannot read {name}: {error.strerror}") from None
    except UnicodeError as error:
        raise click.UsageError(f"cannot read {name}: {error}") from None


def note(text: str) -> None:
    """Print a message that is not part of the result on stderr; no matter when nobody can read it there."""
    with suppress(OSError):
        echo(text, err=True)


def echo(text: str, *, err: bool = False, nl: bool = True, styles: bool = False, color: bool | None = None) -> None:
    """Print a text, in which there may be something of another process; ``styles`` keeps its colours."""
    click.echo(terminal_text(text, styles=styles), err=err, nl=nl, color=color)
