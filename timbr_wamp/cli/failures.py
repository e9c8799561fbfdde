"""Commands about failures and their handling: error groups, policies, event handler, retries, revisions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click

from timbr_wamp.cli.base import connecting, console, echo, json_option, machine_of, machine_option, note, print_json
from timbr_wamp.cli.words import TextCommand
from timbr_wamp.errors import InvalidArgument, counted
from timbr_wamp.names import slot_key

if TYPE_CHECKING:
    from timbr_wamp.client import Client
    from timbr_wamp.contract import ReplayProgress, RevisionInfo

T = TypeVar("T")
W = TypeVar("W")

#: Word for the machine in place of a slot.
MACHINE = "machine"


def parse_words(read: Callable[[W], T], words: W) -> T:
    """Parse words; raise a usage error if they are invalid."""
    try:
        return read(words)
    except InvalidArgument as error:
        raise click.UsageError(str(error)) from None


@click.command()
@click.argument("kernel", required=False)
@machine_option
@click.option("--rows", is_flag=True, help="Print single failures, oldest first, instead of groups.")
@click.option("-n", "--count", type=click.IntRange(1, 50), default=10, show_default=True, help="Most lines to print.")
@json_option
@connecting
def errors(client: Client, kernel: str | None, machine: str, rows: bool, count: int, as_json: bool) -> None:
    """Print a machine's failures, grouped by slot, exception class and line, most recent group first."""
    remote = machine_of(client, kernel, machine)
    if as_json:
        print_json(list(remote.errors[-count:] if rows else remote.error_groups[:count]))
        return
    from timbr_wamp.cli.tables import rich_table
    from timbr_wamp.faces.tables import ErrorGroups, ErrorRows

    found = ErrorRows(remote.errors[-count:]) if rows else ErrorGroups(remote.error_groups[:count])
    console().print(rich_table(found.table()))


@click.command(cls=TextCommand)
@click.argument("kernel")
@click.argument("slot")
@click.argument("words", nargs=-1)
@machine_option
@json_option
@connecting
def policy(client: Client, kernel: str, slot: str, words: tuple[str, ...], machine: str, as_json: bool) -> None:
    """Set what happens to a message when SLOT raises; print it if there are no WORDS.

    SLOT is a number, a name, or `machine` for all slots without a policy of their own. WORDS are a
    verdict (record, default, drop, dead_letter, pause, stop) and any of retries=N, backoff_s=S,
    backoff_max_s=S, default=VALUE, timeout_s=S; `none` removes the slot's own policy.
    """
    from timbr_wamp.contract.policy_syntax import parse_policy
    from timbr_wamp.faces.cards import policy_text

    new_policy = parse_words(parse_policy, words) if words else None
    remote = machine_of(client, kernel, machine)
    which = None if slot == MACHINE else slot_key(slot)
    if words:
        print_revision(remote.set_policy(which, new_policy), as_json)
        return
    present = remote.policy_of(which)
    print_json(present) if as_json else echo(policy_text(present))


@click.command()
@click.argument("kernel")
@click.argument("name", required=False)
@click.argument("options", nargs=-1)
@machine_option
@json_option
@connecting
def handler(
    client: Client, kernel: str, name: str | None, options: tuple[str, ...], machine: str, as_json: bool
) -> None:
    """Set the event handler to NAME, with OPTIONS such as retries=5; without NAME print its name."""
    from timbr_wamp.contract.policy_syntax import parse_options

    parsed = parse_words(parse_options, options)
    remote = machine_of(client, kernel, machine)
    status = remote.status if name is None else remote.set_handler(name, parsed)
    print_json({"handler": status.handler}) if as_json else echo(status.handler)


@click.command()
@click.argument("kernel")
@click.argument("oids", nargs=-1)
@machine_option
@click.option(
    "--group",
    metavar="GROUP",
    help="Those of an error group: its slot, and after colons its exception class and line: f1, clean:ValueError.",
)
@click.option("--canary", type=click.IntRange(min=1), help="So many first; the rest only when they have passed.")
@click.option(
    "--timeout-s", type=click.FloatRange(min=0.0), default=60.0, show_default=True, help="With --canary: longest wait."
)
@json_option
@connecting
def retry(
    client: Client,
    kernel: str,
    oids: tuple[str, ...],
    machine: str,
    group: str | None,
    canary: int | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Queue failed messages again, each as its next attempt, and print their ids. Default: all unresolved ones."""
    if oids and group:
        raise click.UsageError("give either OIDS or --group")
    remote = machine_of(client, kernel, machine)
    done = remote.retry_errors(
        oids or None, group=group, canary=canary or 0, timeout=timeout_s, on_progress=progress_note
    )
    if as_json:
        print_json({"oids": done})
        return
    for oid in done:
        echo(oid)
    note(f"timbr-wamp: {counted(len(done), 'message')} queued again")


@click.command()
@click.argument("kernel", required=False)
@machine_option
@json_option
@connecting
def revisions(client: Client, kernel: str | None, machine: str, as_json: bool) -> None:
    """Print the kept revisions of a machine's slot table, oldest first."""
    found = machine_of(client, kernel, machine).revisions
    if as_json:
        print_json(list(found))
        return
    from timbr_wamp.cli.tables import rich_table
    from timbr_wamp.faces.tables import Revisions

    console().print(rich_table(Revisions(found).table()))


@click.command(cls=TextCommand)
@click.argument("kernel")
@click.argument("number", type=click.IntRange(min=0))
@machine_option
@click.option("--reason", help="Why, kept with the revision.")
@json_option
@connecting
def rollback(client: Client, kernel: str, number: int, machine: str, reason: str | None, as_json: bool) -> None:
    """Restore the slot table of revision NUMBER, as a new revision."""
    print_revision(machine_of(client, kernel, machine).rollback(number, reason=reason), as_json)


def progress_note(progress: ReplayProgress) -> None:
    """Print on stderr how far a large retry or replay is."""
    what = "first messages passed" if progress.phase == "canary" else "messages queued"
    if progress.phase == "put" or progress.done == progress.total:
        note(f"timbr-wamp: {progress.done:,} of {progress.total:,} {what}")


def print_revision(revision: RevisionInfo, as_json: bool) -> None:
    """Print a new revision: as JSON on stdout, or as a note on stderr."""
    if as_json:
        print_json(revision)
    else:
        note(f"revision {revision.number}: {revision.change}")
