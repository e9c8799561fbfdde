"""Commands that run a service in the foreground: host and bridge."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from timbr_wamp.cli.base import OneSentence, connected, note, router_options, set_up_logging, settings_from
from timbr_wamp.errors import InvalidToken

if TYPE_CHECKING:
    from timbr_wamp.settings import Settings


@click.command()
@router_options
@click.option("--name", help="This host's name: it must be the token's name, which is the default.")
@click.option("--stop-kernels", is_flag=True, help="End the kernels when the host ends; default: they keep running.")
@click.pass_context
def host(ctx: click.Context, url: str | None, realm: str | None, name: str | None, stop_kernels: bool) -> None:
    """Start kernels and bridges on this computer on request; adopt running kernels.

    The token (role host) is taken from TIMBR_WAMP_TOKEN, else from the router that runs on this computer.
    """
    from timbr_wamp.components.bridge_process import bridge_environment
    from timbr_wamp.components.host import HostProcess

    settings = settings_from(url=url, realm=realm, host=name)
    _check_address(settings)
    if name is not None and (token := bridge_environment(settings).authid) != name:
        raise click.UsageError(f"--name {name}: the token's name is {token}, and a host has its token's name")
    ctx.exit(HostProcess(settings, stop_kernels=stop_kernels).run())


def _check_address(settings: Settings) -> None:
    """Say, for a router without a token, first what is wrong with its address. With a token, services wait for it.

    Raises:
        NotConnected, InvalidToken: no router answers there; one does, and there is no token for it.
    """
    from timbr_wamp.components.bridge_process import bridge_environment

    try:
        bridge_environment(settings)
    except InvalidToken:
        with connected(settings):
            raise


@click.command()
@click.argument("file", required=False, metavar="FILE|ID")
@click.option("--kernel-id", metavar="ID", help="Id of a kernel that timbr-wamp started, in place of FILE.")
@click.option("--name", help="The kernel's name for people; default: the name that it has, else its file's.")
@click.option("--wamp-url", "--url", "url", metavar="URL", help="The router; default: the local one.")
@click.option("--wamp-realm", "--realm", "realm", metavar="NAME", help="The router's realm.")
@click.option("--token", metavar="TOKEN", help="Visible to all users of this computer: set TIMBR_WAMP_TOKEN instead.")
@click.option(
    "--shutdown-interval", "shutdown_interval_s", type=click.FloatRange(min=0), metavar="SECONDS",
    help="End the kernel after this time without a running cell, a running machine or a call; 0 means never.",
)  # fmt: skip
@click.option("--debug", is_flag=True, help="Log at level debug.")
@click.pass_context
def bridge(
    ctx: click.Context,
    file: str | None,
    kernel_id: str | None,
    name: str | None,
    url: str | None,
    realm: str | None,
    token: str | None,
    shutdown_interval_s: float | None,
    debug: bool,
) -> None:
    """Put a running kernel on the router: FILE is its Jupyter connection file, or the id of a kernel.

    It says when the kernel is there. Ctrl-C takes it off the router, and the kernel keeps running. When the
    kernel is gone, it says why and ends with status 1. A --name is kept for the kernel's next bridges.

    The token (role host) is taken from TIMBR_WAMP_TOKEN, else from the router that runs on this computer.
    """
    if (file is None) == (kernel_id is None):
        raise click.UsageError("pass a connection file or a kernel id")
    if token is not None:
        note("timbr-wamp: a token in the arguments is visible to all users; set TIMBR_WAMP_TOKEN instead")
    if debug:
        set_up_logging("debug")
    settings = settings_from(url=url, realm=realm, token=token, shutdown_interval_s=shutdown_interval_s)
    from timbr_wamp import runtime
    from timbr_wamp.components.bridge import BridgeOptions, run_bridge
    from timbr_wamp.components.bridge_process import bridge_environment
    from timbr_wamp.components.kernel_identity import find_connection_file
    from timbr_wamp.processes import is_supervised

    if file is not None and runtime.kernel_file(settings.runtime_dir, file).exists():
        file, kernel_id = None, file
    if file is not None:
        find_connection_file(Path(file))  # what is wrong with it is said first
    _check_address(settings)
    router = bridge_environment(settings)
    options = BridgeOptions(
        runtime_dir=settings.runtime_dir,
        url=router.url,
        realm=router.realm,
        token=router.token,
        host=router.token.partition(".")[0],
        kernel_id=kernel_id,
        connection_file=Path(file) if file is not None else None,
        name=name,
        shutdown_interval_s=settings.shutdown_interval_s or None,
    )
    if is_supervised():
        ctx.exit(asyncio.run(run_bridge(options)))
    if (page_url := _page_of(settings.runtime_dir, router.url)) is not None:
        note(f"timbr-wamp: the page of this router: {page_url}")
    ctx.exit(asyncio.run(run_bridge(options, lambda text: note(f"timbr-wamp: {text}"))))


def _page_of(runtime_dir: Path, url: str) -> str | None:
    """Return the address of the local router's page, if ``url`` is that router."""
    from timbr_wamp import runtime

    node = runtime.local_node(runtime_dir, url)
    return None if node is None else node.page_url


def _wampify(file: str, **options: Any) -> None:
    """Run `bridge` as a command of its own."""
    set_up_logging(settings_from().log_level)
    assert bridge.callback is not None
    bridge.callback(file=file, kernel_id=None, **options)


#: ``wampify``, juno-magic's command: `bridge` with its connection file.
wampify_command = OneSentence(
    "wampify",
    callback=_wampify,
    params=[
        click.Argument(["file"]),
        *(parameter for parameter in bridge.params if parameter.name not in ("file", "kernel_id")),
    ],
    help=bridge.help,
    context_settings={"help_option_names": ["-h", "--help"]},
)
