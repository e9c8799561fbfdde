"""Commands about tokens: who may come to the local router, and as what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from timbr_wamp.cli.base import console, json_option, note, print_json, settings_from

if TYPE_CHECKING:
    from timbr_wamp.router import TokenStore

ROLES = ("viewer", "operator", "admin", "host")


@click.group()
def token() -> None:
    """Make, list and revoke tokens of the router on this computer."""


def _store() -> TokenStore:
    """Return the store of the node that runs here, else of the folder where one would run."""
    from timbr_wamp import runtime
    from timbr_wamp.router import TokenStore
    from timbr_wamp.router.node import NODE_FOLDER

    settings = settings_from()
    running = runtime.read_file(runtime.node_file(settings.runtime_dir), runtime.NodeFile)
    if running is not None and running.alive():
        return TokenStore(Path(running.node_dir))
    return TokenStore(runtime.private_folder(settings.data_dir / NODE_FOLDER))


@token.command()
@click.option("--role", type=click.Choice(ROLES), required=True, help="What its holder may do.")
@click.option("--name", required=True, help="Who it is for: 1 to 32 of a-z, 0-9 and _.")
@json_option
def create(role: str, name: str, as_json: bool) -> None:
    """Make a token and print it. It is shown this once; only a hash is kept."""
    text = _store().create(name, role)
    if as_json:
        print_json({"name": name, "role": role, "token": text})
        return
    click.echo(text)


@token.command("list")
@json_option
def list_tokens(as_json: bool) -> None:
    """Print the tokens' names and roles; the tokens themselves are not kept."""
    found = _store().list()
    if as_json:
        print_json([{"name": entry.name, "role": entry.role, "created_at": entry.created_at} for entry in found])
        return
    from rich.table import Table

    table = Table("name", "role", box=None, pad_edge=False, header_style="dim")
    for entry in found:
        table.add_row(entry.name, entry.role)
    console().print(table)


@token.command()
@click.argument("name")
def revoke(name: str) -> None:
    """Make a token worthless and end the wamp sessions that it opened."""
    _store().revoke(name)
    note(f"token {name} revoked")
