"""Commands about tokens of the local router."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from timbr_wamp.cli.base import console, echo, json_option, note, print_json, settings_from
from timbr_wamp.command_line import command_line
from timbr_wamp.names import ROLES

if TYPE_CHECKING:
    from timbr_wamp.router import TokenStore


@click.group()
def token() -> None:
    """Create, list and revoke tokens of the router on this computer."""


#: Longest wait for the router's word that it has applied a change; usually a quarter of a second.
APPLIED_LIMIT_S = 5.0


def _store() -> tuple[TokenStore, bool]:
    """Return the token store of the running router and True, else of the folder in which it would run and False."""
    from timbr_wamp import runtime
    from timbr_wamp.router import TokenStore
    from timbr_wamp.router.node import NODE_FOLDER

    settings = settings_from()
    running = runtime.local_node(settings.runtime_dir)
    if running is not None:
        return TokenStore(Path(running.node_dir)), True
    return TokenStore(runtime.private_folder(settings.data_dir / NODE_FOLDER)), False


@token.command()
@click.option("--role", type=click.Choice(ROLES), required=True, help="Permissions of the token.")
@click.option("--name", required=True, help="The token's name: 1 to 32 characters of a-z, 0-9 and _.")
@json_option
def create(role: str, name: str, as_json: bool) -> None:
    """Create a token and print it. It cannot be shown again, because only its hash is stored."""
    text = _store()[0].create(name, role)
    if as_json:
        print_json({"name": name, "role": role, "token": text})
        return
    echo(text)


@token.command("list")
@json_option
def list_tokens(as_json: bool) -> None:
    """Print names and roles of the tokens. The tokens themselves are not stored."""
    found = _store()[0].list()
    if as_json:
        print_json([{"name": entry.name, "role": entry.role, "created_at": entry.created_at} for entry in found])
        return
    from timbr_wamp.cli.tables import rich_table
    from timbr_wamp.tables import StatusTable

    console().print(rich_table(StatusTable(("name", "role"), rows=[(entry.name, entry.role) for entry in found])))


@token.command()
@click.argument("name")
@click.pass_context
def revoke(ctx: click.Context, name: str) -> None:
    """Revoke a token and end its wamp sessions.

    With a router that runs on this computer it returns when the router has done so.
    """
    store, running = _store()
    store.revoke(name)
    if running and not store.wait_applied(APPLIED_LIMIT_S):
        note(
            f"timbr-wamp: token {name} is revoked, but the router did not confirm within {APPLIED_LIMIT_S:g} s that "
            f"its sessions have ended; see `{command_line('router', 'status')}`"
        )
        ctx.exit(1)
    note(f"revoked token {name}")
