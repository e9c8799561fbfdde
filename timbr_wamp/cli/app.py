"""The group of all commands, and `wampify`, the ancestor's name of one of them."""

from __future__ import annotations

import click

import timbr_wamp
from timbr_wamp.cli.base import Commands, set_up_logging, settings_from
from timbr_wamp.cli.doctor import doctor
from timbr_wamp.cli.failures import errors, handler, policy, retry, revisions, rollback
from timbr_wamp.cli.headless import headless_machine, run_project
from timbr_wamp.cli.inquiries import compare, lookup, replay, trial
from timbr_wamp.cli.journal import journal
from timbr_wamp.cli.kernels import execute, kernel, list_kernels
from timbr_wamp.cli.machines import set_slot, slots, status, tail, watch
from timbr_wamp.cli.progress import graph, progress, wait
from timbr_wamp.cli.project import diff, export, trust, validate
from timbr_wamp.cli.put import put
from timbr_wamp.cli.router import router
from timbr_wamp.cli.services import bridge, host, wampify_command
from timbr_wamp.cli.tokens import token
from timbr_wamp.cli.up import demo, up
from timbr_wamp.errors import InvalidSetting


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(timbr_wamp.__version__, prog_name="timbr-wamp")
@click.option("--debug", is_flag=True, help="Show tracebacks and the whole log; may also stand behind the command.")
@click.pass_context
def main(ctx: click.Context, debug: bool) -> None:
    """Start, watch and change machines in IPython kernels on a WAMP router, while they run.

    Router and token are taken from TIMBR_WAMP_URL and TIMBR_WAMP_TOKEN, else from `timbr.toml`, else
    from the router that runs on this computer.
    """
    set_up_logging("debug" if debug else _log_level(ctx))


def _log_level(ctx: click.Context) -> str:
    if ctx.invoked_subcommand == "trust":  # the consent is what it gives: asking for it comes too early
        return "warning"
    try:
        return settings_from().log_level
    except InvalidSetting:
        if ctx.invoked_subcommand == "validate":  # it reports all problems of the file itself
            return "warning"
        raise


for command in (
    demo,
    up,
    router,
    host,
    bridge,
    kernel,
    list_kernels,
    execute,
    status,
    watch,
    tail,
    put,
    slots,
    set_slot,
    policy,
    handler,
    errors,
    lookup,
    retry,
    replay,
    revisions,
    trial,
    compare,
    rollback,
    graph,
    progress,
    wait,
    headless_machine,
    run_project,
    validate,
    diff,
    export,
    trust,
    journal,
    token,
    doctor,
):
    main.add_command(command)


def wampify() -> None:
    """Run ``timbr-wamp bridge FILE`` under its name in juno-magic."""
    wampify_command.main(prog_name="wampify")
