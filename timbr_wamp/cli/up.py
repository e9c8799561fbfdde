"""``timbr-wamp up`` and ``timbr-wamp demo``: a whole node in one command, ended by Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from timbr_wamp.cli.frame import connected, note, print_json, settings_from
from timbr_wamp.cli.house import House, interruptible
from timbr_wamp.cli.node import port_options

if TYPE_CHECKING:
    from timbr_wamp.client import Client, RemoteKernel
    from timbr_wamp.settings import Settings

DEMO_KERNEL = "demo"
DEMO_SOURCES = ("metrics", "earthquakes")


@click.command()
@port_options
@click.option("--stop-kernels", is_flag=True, help="End the kernels too when this ends; otherwise they live on.")
@click.option("--json", "as_json", is_flag=True, help="Print addresses and token as one line of JSON, for programs.")
def up(port: int | None, next_free_port: bool, stop_kernels: bool, as_json: bool) -> None:
    """Start router, page and host on this computer; Ctrl-C ends them in order.

    Kernels live on when it ends, unless --stop-kernels is given, and the next `up` finds them again.
    """
    _run(settings_from(port=port), next_free_port=next_free_port, stop_kernels=stop_kernels, as_json=as_json)


@click.command()
@port_options
@click.option(
    "--source", type=click.Choice(DEMO_SOURCES), default="metrics", envvar="SOURCE", show_default=True,
    help="What the machine reads: this computer's own metrics, or a week of earthquakes, replayed.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print addresses and token as one line of JSON, for programs.")
def demo(port: int | None, next_free_port: bool, source: str, as_json: bool) -> None:
    """Like `up`, with a kernel whose machine runs on live input. Ctrl-C ends that kernel too."""
    _run(settings_from(port=port), next_free_port=next_free_port, stop_kernels=False, as_json=as_json, source=source)


def _run(
    settings: Settings, *, next_free_port: bool, stop_kernels: bool, as_json: bool, source: str | None = None
) -> None:
    """Start the house, say where it is, watch it; end it. ``source`` not None: the demo's kernel as well."""
    house = House(settings, note)
    guests = _Guests(house, settings, everyone=stop_kernels)
    with interruptible(house, before_stop=guests.end):
        house.start_router(next_free_port=next_free_port)
        with connected(guests.as_admin()) as client:
            note("starting the host")
            house.start_host(client)
            if source is not None:
                note("starting a kernel with a machine on live input")
                guests.demo = client.start_kernel(name=DEMO_KERNEL, startup=str(startup_file(source))).id
            kernels = [kernel.name for kernel in client.kernels()]
        _announce(house, kernels, as_json)
        house.watch()


def startup_file(source: str) -> Path:
    """Return the file that makes the demo's machine."""
    return Path(__file__).parent / "demo" / f"{source}.py"


class _Guests:
    """The kernels of a house: which of them end with it."""

    def __init__(self, house: House, settings: Settings, *, everyone: bool) -> None:
        self._house = house
        self._settings = settings
        self._everyone = everyone
        #: Id of the demo's kernel once it runs.
        self.demo: str | None = None

    def as_admin(self) -> Settings:
        """Return the settings of a client of this house's router."""
        from dataclasses import replace

        return replace(self._settings, url=self._house.router.url, token=self._house.router.admin_token)

    def end(self) -> None:
        """End the demo's kernel, or all with ``everyone``; name those that live on."""
        from timbr_wamp.errors import TimbrError

        if not self._house.answering:
            return
        try:
            with connected(self.as_admin(), timeout_s=3.0) as client:
                self._end_with(client)
        except TimbrError as error:
            note(f"kernels could not be asked to end: {error}")

    def _end_with(self, client: Client) -> None:
        living = [info for info in client.kernels() if info.state not in ("dead", "offline")]
        ending = [info for info in living if info.ours and (self._everyone or info.kernel_id == self.demo)]
        for info in ending:
            note(f"ending kernel {info.name}")
            kernel: RemoteKernel = client.kernel(info.kernel_id)
            kernel.shutdown()
        left = [info.name for info in living if info not in ending]
        if left:
            note(f"these kernels live on, and the next `timbr-wamp up` finds them: {', '.join(left)}")


def _announce(house: House, kernels: list[str], as_json: bool) -> None:
    """Print where everything is, and lines to paste."""
    router = house.router
    page = f"{router.page_url.rstrip('/')}/#token={router.admin_token}"
    if as_json:
        print_json({
            "page_url": page, "url": router.url, "token": router.admin_token, "pid": router.pid, "kernels": kernels,
        }, line=True)  # fmt: skip
        return
    click.echo(
        f"""
timbr-wamp is up{f", with kernels {', '.join(kernels)}" if kernels else ""}.

  in a browser    {page}
  in a notebook   %load_ext timbr_wamp
                  %wamp connect {router.url} --token {router.admin_token}
  in Python here  client = timbr_wamp.connect()
  elsewhere       client = timbr_wamp.connect("{router.url}", token="{router.admin_token}")
  in a terminal   timbr-wamp list

Whoever has this token may run code here. Ctrl-C ends it all.
"""
    )
