"""``timbr-wamp put``: one message, or each line of stdin for itself, as it arrives."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

import click

from timbr_wamp.cli.base import (
    CommandFailed,
    connecting,
    echo,
    json_option,
    machine_of,
    machine_option,
    note,
    print_json,
)
from timbr_wamp.cli.words import EXAMPLE, TextCommand
from timbr_wamp.contract import PAYLOAD_LIMIT_BYTES
from timbr_wamp.errors import InvalidArgument, PayloadTooLarge
from timbr_wamp.literals import literal
from timbr_wamp.names import new_oid

if TYPE_CHECKING:
    from timbr_wamp.client import Client, RemoteMachine

#: Most messages per call, and most bytes of their lines: as msgpack a line may be longer, so there is room left.
BATCH, BATCH_BYTES = 200, PAYLOAD_LIMIT_BYTES // 4
#: A longer line is refused without being read as a whole. What escapes and spaces in it may come to is generous.
LINE_LIMIT_BYTES = 8 * PAYLOAD_LIMIT_BYTES
READ_BYTES = 1 << 16
#: Timeout for space in the queue per call; Ctrl-C takes effect between calls.
WAIT_S = 2.0
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Refused(ValueError):
    """A text that is no message; the error says what is wrong with it: "is not JSON …"."""


@click.command(cls=TextCommand)
@click.argument("kernel")
@click.argument("message")
@machine_option
@click.option("--oid", help="The message's id, 24 hex digits; a message with a known id is not queued again.")
@click.option("--strict", is_flag=True, help="Of stdin: stop at the first line that is refused.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0), metavar="SECONDS",
    help="How long to wait for space in a full queue; default: 2 s, with stdin without limit.",
)  # fmt: skip
@json_option
@connecting
def put(
    client: Client,
    kernel: str,
    message: str,
    machine: str,
    oid: str | None,
    strict: bool,
    timeout_s: float | None,
    as_json: bool,
) -> None:
    """Queue MESSAGE, JSON or a Python literal, in a machine and print its id; `-` queues each line of stdin.

    Lines are queued as they arrive. One that is refused is named on stderr with the reason, and the next ones are
    queued; blank ones are skipped. At the end, also with Ctrl-C, it says how many were put and refused; the exit
    status is 1 if any was refused.
    """
    remote = machine_of(client, kernel, machine)
    if message != "-":
        timeout_s = WAIT_S if timeout_s is None else timeout_s
        oid = remote.put(_value_of_argument(message), block=True, timeout=timeout_s, oid=oid)
        print_json({"oid": oid}) if as_json else echo(oid)
        return
    if oid is not None:
        raise click.UsageError("--oid is for one message; stdin may have many")
    putting = _Putting(remote, strict, math.inf if timeout_s is None else timeout_s, as_json)
    try:
        putting.run()
    finally:
        note(f"timbr-wamp: {putting.put:,} put, {putting.refused:,} refused")
    if putting.refused:
        click.get_current_context().exit(1)


# --- texts -------------------------------------------------------------------------------------


def _value_of_argument(text: str) -> object:
    try:
        return _parsed(text)
    except Refused as error:
        lost = text[:1] in ("{", "[") and not {'"', "'"} & set(text)
        hint = f"; the shell takes quotes away: put the whole in single quotes, as in {EXAMPLE}" if lost else ""
        raise click.UsageError(f"MESSAGE {error}{hint}") from None


def _parsed(text: str | bytes) -> object:
    """Return the value of a text, JSON or a Python literal.

    Raises:
        Refused: not UTF-8, neither of them, or a number or text that JSON cannot carry.
    """
    try:
        return literal(text.decode() if isinstance(text, bytes) else text)
    except UnicodeDecodeError as error:
        raise Refused(f"is not UTF-8: {error.reason} at byte {error.start}") from None
    except InvalidArgument as error:
        raise Refused(error.problem) from None


# --- stdin -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of stdin. ``text`` is None if it is longer than `LINE_LIMIT_BYTES`."""

    number: int
    text: bytes | None


@dataclass(frozen=True, slots=True)
class _Message:
    """The message of a line. It has its id before it is put, so that putting it again does no harm."""

    line: int
    value: object
    oid: str


class _Lines:
    """Cuts what is read into lines. A line that is too long costs no memory."""

    def __init__(self) -> None:
        self._number = 1
        self._parts: list[bytes] = []
        self._size_bytes = 0

    def add(self, chunk: bytes) -> Iterator[_Line]:
        """Yield the lines that are complete with this chunk."""
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            self._append(part)
            yield self.end()
        self._append(rest)

    def _append(self, part: bytes) -> None:
        self._size_bytes += len(part)
        if self._size_bytes > LINE_LIMIT_BYTES:
            self._parts.clear()
        else:
            self._parts.append(part)

    def end(self) -> _Line:
        """Return the line that has begun, as one that ends here."""
        text = None if self._size_bytes > LINE_LIMIT_BYTES else b"".join(self._parts)
        if self._number == 1 and text is not None:
            text = text.removeprefix(BYTE_ORDER_MARK)
        line = _Line(self._number, text)
        self._number, self._parts, self._size_bytes = self._number + 1, [], 0
        return line


class _Interrupts:
    """Ctrl-C while lines are awaited ends the command at once; while messages are put, when it is known which were.

    A second one ends it in any case.
    """

    def __init__(self) -> None:
        self._waiting = self._asked = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        before = signal.getsignal(signal.SIGINT)
        if before is signal.SIG_IGN:  # as in the background of a shell without job control
            yield
            return
        signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._waiting or self._asked:
            raise KeyboardInterrupt
        self._asked = True

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """In the body, Ctrl-C takes effect at once, as one before it does."""
        self._waiting = True
        try:
            self.check()
            yield
        finally:
            self._waiting = False

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if there was a Ctrl-C."""
        if self._asked:
            raise KeyboardInterrupt


class _Putting:
    """Puts the lines of stdin, in order, and counts them."""

    def __init__(self, remote: RemoteMachine, strict: bool, timeout_s: float, as_json: bool) -> None:
        self._remote, self._strict, self._timeout_s, self._as_json = remote, strict, timeout_s, as_json
        self._interrupts = _Interrupts()
        self._said_full = False
        #: Lines that were put, and that were refused.
        self.put = self.refused = 0

    def run(self) -> None:
        """Put all lines, as they arrive.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            CommandFailed: there was no space in time.
            TimbrError: the machine cannot be reached, or the token's role may not put.
        """
        lines = _Lines()
        with self._interrupts.handled():
            more = True
            while more:
                with self._interrupts.waiting():
                    chunk = os.read(sys.stdin.fileno(), READ_BYTES)
                more = bool(chunk)
                if not self._put_lines(lines.add(chunk) if more else iter([lines.end()])):
                    return

    def _put_lines(self, lines: Iterator[_Line]) -> bool:
        """Put lines; return False if no more are to be put."""
        batch: list[_Message] = []
        size_bytes = 0
        for line in lines:
            try:
                if line.text is None:
                    raise Refused(f"is longer than {LINE_LIMIT_BYTES:,} bytes")
                if not line.text.strip():
                    continue
                batch.append(_Message(line.number, _parsed(line.text), new_oid()))
                size_bytes += len(line.text)
            except Refused as error:
                if not self._put_batch(batch):
                    return False
                batch, size_bytes = [], 0
                if not self._refuse(line.number, str(error)):
                    return False
            if len(batch) >= BATCH or size_bytes >= BATCH_BYTES:
                if not self._put_batch(batch):
                    return False
                batch, size_bytes = [], 0
        return self._put_batch(batch)

    def _refuse(self, number: int, reason: str) -> bool:
        self.refused += 1
        note(f"timbr-wamp: line {number} of stdin {reason}")
        return not self._strict

    def _put_batch(self, batch: list[_Message]) -> bool:
        """Put messages; return False if no more are to be put. One that cannot be sent costs only itself."""
        if not batch:
            return True
        try:
            self._put_messages(batch)
        except (PayloadTooLarge, InvalidArgument) as error:  # of one of them
            if len(batch) == 1:
                return self._refuse(batch[0].line, f"cannot be put: {error}")
            middle = len(batch) // 2
            return self._put_batch(batch[:middle]) and self._put_batch(batch[middle:])
        return True

    def _put_messages(self, messages: list[_Message]) -> None:
        progress_at = time.monotonic()
        while messages:
            values, oids = [message.value for message in messages], [message.oid for message in messages]
            result = self._remote.put_many(values, oids, timeout_s=min(WAIT_S, self._timeout_s))
            for oid in result.oids:
                self.put += 1
                echo(json.dumps({"oid": oid}) if self._as_json else oid)
            messages = messages[len(result.oids) :]
            if result.oids:
                progress_at, self._said_full = time.monotonic(), False
            elif time.monotonic() - progress_at >= self._timeout_s:
                raise CommandFailed(f"no space within {self._timeout_s:g} s: {self._full()}")
            elif not self._said_full:
                self._said_full = True
                limit = "until Ctrl-C" if math.isinf(self._timeout_s) else f"for {self._timeout_s:g} s"
                note(f"timbr-wamp: {self._full()}; waiting for space, {limit}")
            self._interrupts.check()

    def _full(self) -> str:
        status = self._remote.status
        return f"the queue is full ({status.queue_size:,} messages) and the machine is {status.state}"
