"""The processes of the house that run in the foreground: host and bridge."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from timbr_wamp.cli.base import note, router_options, set_up_logging, settings_from


@click.command()
@router_options
@click.option("--name", help="This host's name: the token's name must be the same. The computer's otherwise.")
@click.option("--stop-kernels", is_flag=True, help="End the kernels too when this ends; otherwise they live on.")
@click.pass_context
def host(ctx: click.Context, url: str | None, realm: str | None, name: str | None, stop_kernels: bool) -> None:
    """Start kernels and bridges on this computer when asked by the router; adopt those that live.

    The token (role host) comes from TIMBR_WAMP_TOKEN, else from the router that runs here.
    """
    from timbr_wamp.components.host import HostProcess

    ctx.exit(HostProcess(settings_from(url=url, realm=realm, host=name), stop_kernels=stop_kernels).run())


@click.command()
@click.argument("file", required=False)
@click.option("--kernel-id", metavar="ID", help="A kernel of ours, by its runtime file.")
@click.option("--name", help="What people call the kernel; its id otherwise.")
@click.option("--wamp-url", "--url", "url", metavar="URL", help="The router; the local one otherwise.")
@click.option("--wamp-realm", "--realm", "realm", metavar="NAME", help="The router's realm.")
@click.option("--token", metavar="TOKEN", help="Seen by all users of this computer: set TIMBR_WAMP_TOKEN instead.")
@click.option(
    "--shutdown-interval", "shutdown_interval_s", type=float, metavar="SECONDS",
    help="End the kernel when it was idle, and nobody asked it anything, for so long.",
)  # fmt: skip
@click.option("--debug", is_flag=True, help="Show the whole log.")
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
    """Put a running kernel on the router: FILE is its Jupyter connection file, or the id of a kernel of ours.

    The token (role host) comes from TIMBR_WAMP_TOKEN, else from the router that runs here.
    """
    if (file is None) == (kernel_id is None):
        raise click.UsageError("give a connection file or a kernel id")
    if token is not None:
        note("timbr-wamp: a token among the arguments is seen by all users here; set TIMBR_WAMP_TOKEN instead")
    if debug:
        set_up_logging("debug")
    settings = settings_from(url=url, realm=realm, token=token, shutdown_interval_s=shutdown_interval_s)
    from timbr_wamp import runtime
    from timbr_wamp.components.bridge import BridgeOptions, run_bridge
    from timbr_wamp.components.host import router_of

    router = router_of(settings)
    if file is not None and runtime.kernel_file(settings.runtime_dir, file).exists():
        file, kernel_id = None, file
    options = BridgeOptions(
        runtime_dir=settings.runtime_dir,
        url=router.url,
        realm=router.realm,
        token=router.token,
        host=router.token.partition(".")[0],
        kernel_id=kernel_id,
        connection_file=Path(file) if file is not None else None,
        name=name,
        shutdown_interval_s=settings.shutdown_interval_s,
    )
    ctx.exit(asyncio.run(run_bridge(options)))
