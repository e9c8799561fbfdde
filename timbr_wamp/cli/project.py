"""``timbr-wamp validate``, ``diff`` and ``export``: a project, and a live machine beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from timbr_wamp.cli.base import (
    Refused,
    connected,
    json_option,
    machine_of,
    machine_option,
    note,
    print_json,
    router_options,
    settings_from,
)

if TYPE_CHECKING:
    from timbr_wamp.contract import SlotInfo, Status
    from timbr_wamp.projects.difference import Side

project_argument = click.argument(
    "project", required=False, metavar="[FOLDER|FILE]", type=click.Path(path_type=Path)
)  # fmt: skip
kernel_option = click.option(
    "--kernel", metavar="KERNEL", help="Id, name or beginning of one; the only one there is otherwise."
)


@click.command()
@project_argument
@json_option
@click.pass_context
def validate(ctx: click.Context, project: Path | None, as_json: bool) -> None:
    """Check a project: its file, source texts, references and settings; start nothing.

    Runs the project's code as importing does. Prints every problem; status 1 when there are any.
    """
    from timbr_wamp.errors import InvalidProject
    from timbr_wamp.projects import load_project
    from timbr_wamp.settings import project_file

    try:
        problems = load_project(project).check()
    except InvalidProject as error:
        problems = error.problems
    file = project_file(project)
    if as_json:
        print_json({"file": str(file), "problems": problems})
    elif problems:
        click.echo("\n".join(f"{file}: {problem}" for problem in problems))
    else:
        note(f"timbr-wamp: {file} is in order")
    ctx.exit(1 if problems else 0)


@click.command()
@project_argument
@kernel_option
@machine_option
@click.option("--with", "other", metavar="FILE", type=click.Path(path_type=Path), help="Compare with another project.")
@json_option
@router_options
@click.pass_context
def diff(
    ctx: click.Context,
    project: Path | None,
    kernel: str | None,
    machine: str,
    other: Path | None,
    as_json: bool,
    url: str | None,
    realm: str | None,
) -> None:
    """Print in what a live machine, or another project, differs from a project; status 1 when it does.

    Lines with + are what the live machine has, lines with - what the file has.
    """
    from timbr_wamp.projects import load_project
    from timbr_wamp.projects.difference import as_text, differences, side_of_machine, side_of_project

    loaded = load_project(project)
    before = side_of_project(loaded)
    if other is not None:
        after: Side = side_of_project(load_project(other), str(other))
    else:
        settings = settings_from(url=url, realm=realm, folder=loaded.path)
        status, slots = _described(settings, kernel, machine)
        after = side_of_machine(status, slots)
    found = differences(before, after)
    if as_json:
        print_json({"differs": bool(found), "differences": found})
    elif found:
        click.echo(as_text(found, before, after))
    ctx.exit(1 if found else 0)


@click.command()
@kernel_option
@machine_option
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="A file or folder; else stdout.")
@click.option("--force", is_flag=True, help="Replace a file; its [source] and [settings] stay.")
@json_option
@router_options
def export(
    kernel: str | None,
    machine: str,
    output: Path | None,
    force: bool,
    as_json: bool,
    url: str | None,
    realm: str | None,
) -> None:
    """Print a live machine as timbr.toml: slots, policies and the machine's own settings.

    A machine does not tell what its source is, so [source] is yours to write.
    """
    from timbr_wamp.projects import exported, toml, write
    from timbr_wamp.settings import project_file

    if output is not None and project_file(output).exists() and not force:
        raise Refused(f"{project_file(output)} is there already; --force replaces its machine and slots")
    tables = exported(*_described(settings_from(url=url, realm=realm), kernel, machine))
    if output is not None:
        note(f"timbr-wamp: wrote {write(tables, output, overwrite=force)}")
    elif as_json:
        print_json(tables)
    else:
        click.echo(toml(tables), nl=False)


def _described(settings: Any, kernel: str | None, name: str) -> tuple[Status, list[SlotInfo]]:
    """Return what a live machine tells of itself; of slots whose text was too long for the list, each alone."""
    with connected(settings) as client:
        machine = machine_of(client, kernel, name)
        slots = [info if info.identity or info.source else machine[info.slot] for info in machine.slots]
        return machine.status, slots
