"""Commands about a machine: status, records and slots."""

from __future__ import annotations

import queue
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from timbr_wamp.cli.base import (
    connecting,
    console,
    echo,
    file_text,
    json_option,
    machine_of,
    machine_option,
    note,
    print_json,
)
from timbr_wamp.cli.failures import parse_words, print_revision
from timbr_wamp.cli.words import TextCommand
from timbr_wamp.names import slot_key

if TYPE_CHECKING:
    from timbr_wamp.client import Client, RemoteMachine
    from timbr_wamp.contract import Record, Status

#: Width from which a terminal shows message ids.
WIDE_COLUMNS = 140
#: Age of the last status from which a warning is shown. A machine sends one at least every 2 s.
SILENT_AFTER_S = 6.0


@click.command()
@click.argument("kernel", required=False)
@machine_option
@json_option
@connecting
def status(client: Client, kernel: str | None, machine: str, as_json: bool) -> None:
    """Print a machine's state and counters."""
    remote = machine_of(client, kernel, machine)
    if as_json:
        print_json(remote.status)
        return
    from timbr_wamp.cli.tables import status_view

    console().print(status_view(remote.status, remote.slots))


@click.command()
@click.argument("kernel", required=False)
@machine_option
@json_option
@connecting
def watch(client: Client, kernel: str | None, machine: str, as_json: bool) -> None:
    """Show a machine's status live, until Ctrl-C. With --json it prints one status per line."""
    remote = machine_of(client, kernel, machine)
    if as_json:
        for newest in _statuses(remote):
            if newest is not None:
                print_json(newest, line=True)
        return
    _watch_screen(remote)


def _watch_screen(remote: RemoteMachine) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from timbr_wamp.cli.tables import status_view

    shown = remote.status
    slots = remote.slots
    heard = time.monotonic()
    with Live(status_view(shown, slots), console=console(), auto_refresh=False, transient=False) as live:
        for newest in _statuses(remote):
            if newest is not None and newest.time >= shown.time:  # the retained status may be older
                if newest.revision != shown.revision:
                    slots = remote.slots
                shown, heard = newest, time.monotonic()
            silent_s = time.monotonic() - heard
            warning = f"no status from the machine for {silent_s:.0f} s" if silent_s > SILENT_AFTER_S else ""
            live.update(Group(status_view(shown, slots), Text(warning, style="bold red")), refresh=True)


def _statuses(remote: RemoteMachine) -> Iterator[Status | None]:
    """Yield the machine's statuses, and None after each second without one."""
    news: queue.Queue[Status] = queue.Queue(maxsize=64)

    def keep_newest(newest: Status) -> None:
        if news.full():
            news.get_nowait()  # only the newest is of interest; this callback is the only writer
        news.put_nowait(newest)

    with suppress(KeyboardInterrupt), remote.on_status(keep_newest):
        while True:
            try:
                yield news.get(timeout=1.0)
            except queue.Empty:
                yield None


@click.command()
@click.argument("kernel", required=False)
@machine_option
@click.option("--slot", metavar="SLOT", help="Print only this value, as JSON: in, f3, 3 or the slot's name.")
@click.option("--all", "from_oldest", is_flag=True, help="Start with the oldest kept record instead of the next one.")
@click.option("-n", "--count", type=click.IntRange(min=1), help="Stop after this number of records.")
@click.option("--idle", "idle_s", type=float, metavar="SECONDS", help="Stop after this time without a record.")
@json_option
@connecting
def tail(
    client: Client,
    kernel: str | None,
    machine: str,
    slot: str | None,
    from_oldest: bool,
    count: int | None,
    idle_s: float | None,
    as_json: bool,
) -> None:
    """Print every record of a machine, complete and live, until Ctrl-C.

    A line on stderr reports lost records and the start of a new run.
    """
    remote = machine_of(client, kernel, machine)
    column = None if slot is None else _column(remote, slot)
    try:
        for record in _records(remote, 0 if from_oldest else None, idle_s):
            _print_record(record, column, as_json)
            count = None if count is None else count - 1
            if count == 0:
                return
    except KeyboardInterrupt:
        return


def _records(remote: RemoteMachine, after_seq: int | None, idle_s: float | None) -> Iterator[Record]:
    """Yield the records; report gaps and new runs on stderr."""
    from timbr_wamp.client import Gap, RunChanged
    from timbr_wamp.contract import Record

    for item in remote.records(after_seq=after_seq, timeout_s=idle_s):
        if isinstance(item, Gap):
            note(f"timbr-wamp: records {item.first} to {item.last} of run {item.run} are lost")
        elif isinstance(item, RunChanged):
            note(f"timbr-wamp: a new run starts: {item.run}")
        elif isinstance(item, Record):
            yield item


def _column(remote: RemoteMachine, slot: str) -> int:
    """Return the position of `in`, `f3`, `3` or a slot's name in ``[in, f0, …]``."""
    return 0 if slot == "in" else remote[slot_key(slot)].slot + 1


def _print_record(record: Record, column: int | None, as_json: bool) -> None:
    if column is not None:
        values = (record.input, *record.values) if len(record) > 1 else ()
        print_json(values[column] if column < len(values) else None, line=True)
    elif as_json:
        print_json(record_as_json(record), line=True)
    else:
        from timbr_wamp.cli.tables import record_line

        screen = console()
        if screen.is_terminal:
            line = record_line(record, with_oid=screen.width >= WIDE_COLUMNS)
            screen.print(line, no_wrap=True, overflow="ellipsis")
        else:
            echo(record_line(record).plain)
            sys.stdout.flush()


def record_as_json(record: Record) -> dict[str, Any]:
    """Return a record as a flat mapping of its oid, its meta, and its values by the names ``in``, ``f0`` …"""
    from timbr_wamp.contract import to_builtins

    values: dict[str, Any] = {}
    if record.meta.text_bytes is None:
        values = {"in": record.input, **{f"f{number}": value for number, value in enumerate(record.values)}}
    return {"oid": record.oid, **to_builtins(record.meta), "values": values}


@click.command()
@click.argument("kernel", required=False)
@machine_option
@json_option
@connecting
def slots(client: Client, kernel: str | None, machine: str, as_json: bool) -> None:
    """Print the functions in a machine's slots, with their source texts."""
    found = machine_of(client, kernel, machine).slots
    if as_json:
        print_json(list(found))
        return
    from timbr_wamp.cli.tables import slots_view

    console().print(slots_view(found))


@click.command("set", cls=TextCommand)
@click.argument("kernel")
@click.argument("slot")
@click.argument("source")
@machine_option
@click.option("--name", help="Name of the slot.")
@click.option("--policy", "policy_words", metavar="WORDS", help="A policy, as one text: 'drop retries=3'.")
@click.option("--reason", help="Why, kept with the revision.")
@json_option
@connecting
def set_slot(
    client: Client,
    kernel: str,
    slot: str,
    source: str,
    machine: str,
    name: str | None,
    policy_words: str | None,
    reason: str | None,
    as_json: bool,
) -> None:
    """Assign a function to a slot of a machine, also while it runs: SOURCE text, or `@file.py`.

    SOURCE is an expression such as `lambda x: x**2`, a text that defines one function, or `module:name`, which the
    kernel imports. It is one word of the shell: put it in quotes. An empty SOURCE unsets the slot.
    """
    from timbr_wamp.contract.policy_syntax import parse_policy

    policy = parse_words(parse_policy, policy_words) if policy_words else None
    remote = machine_of(client, kernel, machine)
    key = slot_key(slot)
    text = file_text(source[1:]) if source.startswith("@") else source
    if text.strip():
        from timbr_wamp.client.functions import is_reference, reference  # loads autobahn

        function = reference(text.strip()) if is_reference(text) else text
        print_revision(remote.set(key, function, name=name, policy=policy, reason=reason), as_json)
    else:
        print_revision(remote.delete(key, reason=reason), as_json)
