"""``timbr-wamp validate``, ``diff`` and ``export``: check a project, compare it with a live machine, export one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from timbr_wamp.cli.base import (
    CommandFailed,
    connected,
    echo,
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
    from timbr_wamp.errors import CannotSave
    from timbr_wamp.projects.difference import MachineDescription

project_argument = click.argument(
    "project", required=False, metavar="[FOLDER|FILE]", type=click.Path(path_type=Path)
)  # fmt: skip
kernel_option = click.option("--kernel", metavar="KERNEL", help="Id, name or unique prefix; default: the only kernel.")


@click.command()
@project_argument
@json_option
@click.pass_context
def validate(ctx: click.Context, project: Path | None, as_json: bool) -> None:
    """Check a project: its file, source texts, references and settings, without starting a machine.

    Imports the project's modules. Prints every problem; the exit status is 1 if there are any.
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
        echo("\n".join(f"{file}: {problem}" for problem in problems))
    else:
        note(f"timbr-wamp: {file} has no problems")
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
    """Print the differences of a live machine, or another project, from a project; status 1 if there are any.

    Lines with + are those of the live machine, lines with - those of the file.
    """
    from timbr_wamp.projects import load_project
    from timbr_wamp.projects.difference import as_text, describe_machine, describe_project, differences

    loaded = load_project(project)
    before = describe_project(loaded)
    if other is not None:
        after: MachineDescription = describe_project(load_project(other), str(other))
    else:
        settings = settings_from(url=url, realm=realm, folder=loaded.path)
        status, slots = _described(settings, kernel, machine)
        after = describe_machine(status, slots)
    found = differences(before, after)
    if as_json:
        print_json({"differs": bool(found), "differences": found})
    elif found:
        echo(as_text(found, before, after))
    ctx.exit(1 if found else 0)


@click.command()
@click.argument("project", required=False, type=click.Path(exists=True, path_type=Path))
def trust(project: Path | None) -> None:
    """Consent to what a project's file sets: url, token, programs, folders, the router's address.

    PROJECT is a folder or file; default: the working folder. The consent is for these values; when they change,
    you are asked again.
    """
    from timbr_wamp.settings import consent, project_file, unanswered

    question = unanswered(project)
    if question is None:
        note(f"timbr-wamp: {project_file(project)} sets nothing that wants your consent, or has it")
        return
    consent(question)
    note(f"timbr-wamp: {question}; used from now on")


@click.command()
@kernel_option
@machine_option
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="File or folder; default: stdout."
)
@click.option("--force", is_flag=True, help="Replace an existing file; its [source] and [settings] are kept.")
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
    """Print a live machine as timbr.toml: slots, policies and the machine's settings.

    What cannot be exported is named on stderr with the reason and left out; the exit status is then 1. A machine
    does not report its source's code, so [source] must be written by hand.
    """
    from timbr_wamp.projects import exported, toml, write
    from timbr_wamp.settings import project_file

    if output is not None and project_file(output).exists() and not force:
        raise CommandFailed(f"{project_file(output)} already exists; --force replaces its machine and slots")
    left_out: list[CannotSave] = []
    status, slots = _described(settings_from(url=url, realm=realm), kernel, machine)
    tables = exported(status, slots, left_out)
    if output is not None:
        note(f"timbr-wamp: wrote {write(tables, output, overwrite=force)}")
    elif as_json:
        print_json(tables)
    else:
        echo(toml(tables), nl=False)
    for problem in left_out:
        note(f"timbr-wamp: {problem}")
    if status.source.state != "none":
        note("timbr-wamp: the machine has a source, whose code it does not report: write [source] by hand")
    if left_out:
        raise CommandFailed(f"{len(left_out)} of the machine's parts are left out; the rest is exported")


def _described(settings: Any, kernel: str | None, name: str) -> tuple[Status, list[SlotInfo]]:
    """Return status and slots of a live machine. Source texts that are too long for the list are fetched one by one."""
    with connected(settings) as client:
        machine = machine_of(client, kernel, name)
        slots = [info if info.identity or info.source else machine[info.slot] for info in machine.slots]
        return machine.status, slots
