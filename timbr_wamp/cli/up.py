"""``timbr-wamp up`` and ``timbr-wamp demo``: router, page and host in one command, ended by Ctrl-C."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from timbr_wamp.cli.base import connected, echo, note, print_json, settings_from
from timbr_wamp.cli.local_services import LocalServices, interruptible
from timbr_wamp.cli.router import port_options
from timbr_wamp.command_line import command_line
from timbr_wamp.errors import KernelNameTaken

if TYPE_CHECKING:
    from timbr_wamp.client import Client
    from timbr_wamp.settings import Settings

DEMO_KERNEL = "demo"
DEMO_SOURCES = ("metrics", "earthquakes")


@click.command()
@port_options
@click.option("--stop-kernels", is_flag=True, help="End the kernels when this ends; default: they keep running.")
@click.option("--json", "as_json", is_flag=True, help="Print addresses and token as one line of JSON for programs.")
@click.option("--quiet", is_flag=True, help="Print no addresses and no token, for a log that others read.")
def up(port: int | None, next_free_port: bool, stop_kernels: bool, as_json: bool, quiet: bool) -> None:
    """Start router, page and host on this computer; Ctrl-C ends them in order.

    Kernels keep running when it ends, unless --stop-kernels is given, and the next `up` adopts them.
    """
    settings = settings_from(port=port)
    _run(settings, next_free_port=next_free_port, stop_kernels=stop_kernels, as_json=as_json, quiet=quiet)


@click.command()
@port_options
@click.option(
    "--source", type=click.Choice(DEMO_SOURCES), default="metrics", envvar="SOURCE", show_default=True,
    help="The machine's input: metrics of this computer, or a replay of a week of earthquakes.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print addresses and token as one line of JSON for programs.")
def demo(port: int | None, next_free_port: bool, source: str, as_json: bool) -> None:
    """Like `up`, with a kernel whose machine has live input. Ctrl-C ends that kernel too."""
    _run(settings_from(port=port), next_free_port=next_free_port, stop_kernels=False, as_json=as_json, source=source)


def _run(
    settings: Settings,
    *,
    next_free_port: bool,
    stop_kernels: bool,
    as_json: bool,
    quiet: bool = False,
    source: str | None = None,
) -> None:
    """Start, announce, watch and end the services; with ``source`` also the demo's kernel."""
    demo_kernels: set[str] = set()
    services = LocalServices(
        settings, note, ends_kernel=lambda kernel: stop_kernels or kernel.kernel_id in demo_kernels
    )
    with interruptible(services):
        services.start_router(next_free_port=next_free_port)
        note("starting the host")
        services.start_host()
        as_admin = replace(settings, url=services.router.local_url, token=services.router.admin_token)
        with connected(as_admin) as client:
            if source is not None:
                demo_kernels.add(_demo_kernel(client, source))
            found = client.kernels()
            kernels = [kernel.name for kernel in found]
        left = [] if stop_kernels else [kernel.name for kernel in found if kernel.kernel_id not in demo_kernels]
        if not quiet:
            _announce(services, kernels, _ending(stop_kernels, source is not None, left), as_json)
        services.watch()


def _demo_kernel(client: Client, source: str) -> str:
    """Start the demo's kernel, or take the one of a demo that was killed; return its id."""
    note("starting a kernel with a machine that has live input")
    try:
        return client.start_kernel(name=DEMO_KERNEL, startup=str(startup_file(source))).id
    except KernelNameTaken as taken:
        note(f"the kernel {DEMO_KERNEL} of an earlier run is still there, and is used")
        return taken.kernel


def _ending(stop_kernels: bool, demo: bool, left: list[str]) -> str:
    """Return what Ctrl-C ends, and what not."""
    if stop_kernels or (demo and not left):
        return "everything"
    ended = f"router, host and the kernel {DEMO_KERNEL}" if demo else "router and host"
    return f"{ended}; kernels keep running" + (f": {', '.join(left)}" if left else "")


def startup_file(source: str) -> Path:
    """Return the startup file of the demo's machine."""
    return Path(__file__).parent / "demo" / f"{source}.py"


def _announce(services: LocalServices, kernels: list[str], ending: str, as_json: bool) -> None:
    """Print the addresses and commands to copy. Only the browser's has a token: cells and scripts are saved."""
    router = services.router
    page = f"{router.page_url.rstrip('/')}/#token={router.admin_token}"
    if as_json:
        print_json({
            "page_url": page, "url": router.url, "token": router.admin_token, "pid": router.pid, "kernels": kernels,
        }, line=True)  # fmt: skip
        return
    echo(
        f"""
timbr-wamp is running{f", with kernels {', '.join(kernels)}" if kernels else ""}.

  in a browser    {page}
  in a notebook   %load_ext timbr_wamp
                  %wamp connect
  in Python       client = timbr_wamp.connect()
  in a terminal   {command_line("list", elsewhere=True)}
  elsewhere       {command_line("token", "create", "--role", "viewer", "--name", "ada", elsewhere=True)}
                  makes a token, which `%wamp token` asks for and TIMBR_WAMP_TOKEN holds; the URL is {router.url}

Anybody with the browser's address can run code on this computer. Ctrl-C ends {ending}.
"""
    )
