"""Commands that look back at messages and try changes: lookup, replay, trial, compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from timbr_wamp.cli.base import connecting, echo, file_text, json_option, machine_of, machine_option, note, print_json
from timbr_wamp.cli.failures import print_revision, progress_note
from timbr_wamp.errors import counted
from timbr_wamp.literals import json_value
from timbr_wamp.names import slot_key

if TYPE_CHECKING:
    from timbr_wamp.client import Client

GROUP_HELP = "An error group: its slot, and after colons its exception class and line: f1, clean:ValueError."


@click.command()
@click.argument("kernel")
@click.argument("oid")
@machine_option
@json_option
@connecting
def lookup(client: Client, kernel: str, oid: str, machine: str, as_json: bool) -> None:
    """Print what became of the message OID: each attempt, with each slot's value or error."""
    found = machine_of(client, kernel, machine).lookup(oid)
    print_json(found) if as_json else echo(str(found))


@click.command()
@click.argument("kernel")
@click.argument("oids", nargs=-1)
@machine_option
@click.option("--group", metavar="GROUP", help=GROUP_HELP)
@click.option("--records", metavar="FIRST-LAST", help="Numbers of records of the present run: 20-31, or 20.")
@click.option("--trial", "as_trial", is_flag=True, help="Run them beside what is recorded; count and record nothing.")
@click.option("--revision", type=click.IntRange(min=0), help="In a trial, the revision whose slots are used.")
@click.option("--with", "values", multiple=True, metavar="SLOT=JSON", help="In a trial, what a slot gives.")
@json_option
@connecting
def replay(
    client: Client,
    kernel: str,
    oids: tuple[str, ...],
    machine: str,
    group: str | None,
    records: str | None,
    as_trial: bool,
    revision: int | None,
    values: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run messages again, by OIDS, --group or --records: each as its next attempt, or as a --trial."""
    if sum(bool(given) for given in (oids, group, records)) != 1:
        raise click.UsageError("say which messages in one way: OIDS, --group or --records")
    if (revision is not None or values) and not as_trial:
        raise click.UsageError("--revision and --with need --trial: a record is made by the present slots alone")
    messages: Any = list(oids) or None if records is None else _numbers(records)
    remote = machine_of(client, kernel, machine)
    if as_trial:
        with_values = dict(map(_slot_value, values)) or None
        number: Any = "current" if revision is None else revision
        report = remote.replay(messages, group=group, into="trial", revision=number, with_values=with_values)
        print_json(report.result) if as_json else echo(str(report))
        return
    done = remote.replay(messages, group=group, on_progress=progress_note)
    if as_json:
        print_json({"oids": done})
        return
    for oid in done:
        echo(oid)
    note(f"timbr-wamp: {counted(len(done), 'message')} queued again")


def _numbers(text: str) -> range:
    first, _, last = text.partition("-")
    try:
        return range(int(first), int(last or first) + 1)
    except ValueError:
        raise click.UsageError(f"--records: {text!r} is no number and no range of numbers such as 20-31") from None


def _slot_value(text: str) -> tuple[int | str, object]:
    slot, equals, value = text.partition("=")
    try:
        if not equals:
            raise ValueError(text)
        return slot_key(slot), json_value(value)
    except (ValueError, RecursionError):
        raise click.UsageError(f"--with: {text!r} is not SLOT=JSON") from None


@click.command()
@click.argument("kernel")
@click.argument("slot")
@click.argument("source")
@machine_option
@click.option("--last", type=click.IntRange(1, 30_000), help="The newest so many messages; 100 by default.")
@click.option("--group", metavar="GROUP", help=GROUP_HELP)
@click.option("--sample", "samples", multiple=True, metavar="JSON", help="A message of your own; may be repeated.")
@click.option("--commit", is_flag=True, help="Set the function if no message fails that did not fail before.")
@click.option("--reason", help="Why, kept with the revision.")
@json_option
@connecting
def trial(
    client: Client,
    kernel: str,
    slot: str,
    source: str,
    machine: str,
    last: int | None,
    group: str | None,
    samples: tuple[str, ...],
    commit: bool,
    reason: str | None,
    as_json: bool,
) -> None:
    """Run a function beside that in SLOT on recent messages, and print what differs: SOURCE text, or `@file.py`.

    Nothing changes, unless --commit is given. Exit status 1 if messages fail that did not fail before.
    """
    from timbr_wamp.client.functions import is_reference, reference

    text = file_text(source[1:]) if source.startswith("@") else source
    function = reference(text.strip()) if is_reference(text) else text
    given = [_sample(sample) for sample in samples] or None
    report = machine_of(client, kernel, machine).trial(slot_key(slot), function, last, group=group, samples=given)
    print_json(report.result) if as_json else echo(str(report))
    worse = report.new_errors
    if commit and not worse:
        print_revision(report.commit(reason=reason), as_json=False)
    if worse:
        what = "; it was not set" if commit else ""
        raise click.ClickException(f"{counted(worse, 'message')} would fail that did not fail before{what}")


def _sample(text: str) -> object:
    try:
        return json_value(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--sample: {text[:80]!r} is not JSON: {error}") from None


@click.command()
@click.argument("kernel")
@click.argument("a", type=click.IntRange(min=0))
@click.argument("b", type=click.IntRange(min=0))
@machine_option
@click.option("--last", type=click.IntRange(1, 30_000), help="Also run both on the newest so many messages.")
@json_option
@connecting
def compare(client: Client, kernel: str, a: int, b: int, machine: str, last: int | None, as_json: bool) -> None:
    """Print how the slot tables of the revisions A and B differ."""
    found = machine_of(client, kernel, machine).compare(a, b, last)
    print_json(found) if as_json else echo(str(found))
