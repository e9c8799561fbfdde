"""``timbr-wamp router``: install Crossbar.io, and start, stop or check a router without a host."""

from __future__ import annotations

import click

from timbr_wamp.cli.base import echo, json_option, note, print_json, settings_from
from timbr_wamp.cli.local_services import LocalServices, interruptible
from timbr_wamp.command_line import command_line


def port_options(function: click.decorators.FC) -> click.decorators.FC:
    """Add ``--port`` and ``--next-free-port``."""
    for option in (
        click.option("--next-free-port", is_flag=True, help="If the port is in use, take the next free one."),
        click.option("--port", type=click.IntRange(1, 65535), help="The port; default: the configured one, else 8080."),
    ):
        function = option(function)
    return function


@click.group()
def router() -> None:
    """Install Crossbar.io; start, stop or check a router."""


@router.command()
def install() -> None:
    """Create the environment for Crossbar.io, unless it exists."""
    from timbr_wamp.errors import RouterNotInstalled
    from timbr_wamp.router import find_crossbar, install_crossbar, share_environment

    settings = settings_from()
    try:
        note(f"Crossbar.io is already installed: {find_crossbar(settings)}")
        share_environment(settings)
    except RouterNotInstalled:
        install_crossbar(settings, note)


@router.command()
@port_options
def start(port: int | None, next_free_port: bool) -> None:
    """Start a router in the foreground, without a host; Ctrl-C ends it."""
    services = LocalServices(settings_from(port=port), note)
    with interruptible(services):
        services.start_router(next_free_port=next_free_port)
        echo(f"router at {services.router.url}, page at {services.router.page_url}")
        services.watch()


@router.command()
def stop() -> None:
    """End the router that runs on this computer, also if another process started it."""
    from timbr_wamp.router import stop_node

    note("the router was stopped" if stop_node(settings_from()) else "no router runs on this computer")


@router.command()
@json_option
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Print whether a router runs on this computer; the exit status is 1 if none does."""
    from timbr_wamp import runtime

    node = runtime.local_node(settings_from().runtime_dir)
    if node is None:
        if as_json:
            print_json({"running": False})
        else:
            note(f"no router runs on this computer; start one with: {command_line('up')}")
        ctx.exit(1)
    if as_json:
        print_json({
            "running": True, "pid": node.pid, "url": node.url, "page_url": node.page_url, "realm": node.realm,
        })  # fmt: skip
        return
    echo(f"router at {node.url} (process {node.pid}), page at {node.page_url}")
