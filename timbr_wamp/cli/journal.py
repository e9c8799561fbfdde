"""Commands about the journals of this computer: what there are, what is in them, whether they are whole."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from timbr_wamp.cli.base import CommandFailed, Commands, console, json_option, note, print_json, settings_from
from timbr_wamp.errors import StorageBusy, StorageFailed, TimbrError, counted

if TYPE_CHECKING:
    from timbr_wamp.settings import Settings
    from timbr_wamp.store import SqliteJournal

#: Records that are read at once.
RECORDS_AT_ONCE = 1_000

target_argument = click.argument("target", metavar="FILE|KERNEL")


@click.group(cls=Commands)
def journal() -> None:
    """List, check, compact and export the journals of machines on this computer."""


@journal.command("ls")
@json_option
def list_journals(as_json: bool) -> None:
    """List the journals of kernels, and of machines without a kernel, in the data folder.

    One that a process has is read from a copy, which does not disturb it.
    """
    from timbr_wamp.store.journal_files import journals_in

    settings = settings_from()
    rows = [_summary(path, settings) for path in journals_in(_folder(settings))]
    if as_json:
        print_json(rows)
        return
    from timbr_wamp.cli.tables import rich_table
    from timbr_wamp.tables import Cell, StatusTable, size_text

    problems = any(row["problem"] for row in rows)
    table = StatusTable(
        ("kernel", "machine", "file", "records", "waiting", "size", "in use by", *(["problem"] if problems else [])),
        rows=[
            (
                row["name"] or row["kernel"], row["machine"], Path(row["file"]).name,
                *(Cell(f"{row[key]:,}" if key in row else "?", right=True) for key in ("records", "waiting")),
                Cell(size_text(row["bytes"]), right=True), row["holder"] or "",
                *([row["problem"] or ""] if problems else []),
            )
            for row in rows
        ],
        empty="no journal",
    )  # fmt: skip
    console().print(rich_table(table))


@journal.command("info")
@target_argument
@json_option
def journal_info(target: str, as_json: bool) -> None:
    """Print what is in a journal, or in each of a kernel's: records, messages that wait, events, revisions.

    KERNEL is a kernel's id or name, or the name of a machine without a kernel.
    """
    infos = []
    for path in _paths(target):
        holder = _holder(path)  # before it is read, which may open it
        with _reading(path) as found:
            infos.append({**found.info(), "path": str(path), "in_use_by": holder})
    if as_json:
        print_json(infos)
        return
    from timbr_wamp.cli.tables import rich_table
    from timbr_wamp.tables import StatusTable

    for info in infos:
        rows = [(key.replace("_", " "), _value_text(value)) for key, value in info.items()]
        console().print(rich_table(StatusTable((), rows=rows)))


@journal.command("check")
@target_argument
@click.pass_context
def check_journal(ctx: click.Context, target: str) -> None:
    """Check a journal's file, or each of a kernel's: SQLite's own check, check sums, and the numbering of records.

    The exit status is 1 if something is wrong.
    """
    problems = 0
    for path in _paths(target):
        with _reading(path) as found:
            wrong = found.check()
        for problem in wrong:
            note(f"timbr-wamp: {path}: {problem}")
        if not wrong:
            note(f"{path} is whole")
        problems += len(wrong)
    ctx.exit(1 if problems else 0)


@journal.command("compact")
@target_argument
def compact_journal(target: str) -> None:
    """Give the room of removed records back to the file system. No process may have the journal."""
    from timbr_wamp.store import SqliteJournal
    from timbr_wamp.tables import size_text

    for path in _paths(target):
        before = _size(path)
        found = SqliteJournal(path)
        try:
            found.compact()
        finally:
            found.close()
        note(f"{path}: {size_text(before - _size(path))} saved, {size_text(_size(path))} left")


@journal.command("export")
@target_argument
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A file, made anew; default: stdout.")
@click.option("--after", "after_seq", type=click.IntRange(min=0), default=0, metavar="SEQ", help="Only later records.")
@click.pass_context
def export_journal(ctx: click.Context, target: str, output: Path | None, after_seq: int) -> None:
    """Print the records of a journal as lines of JSON, as `tail --json` does: oid, run, seq, attempt, values …

    Records that are damaged are left out and named; the exit status is then 1.
    """
    paths = _paths(target)
    if len(paths) > 1:
        raise CommandFailed(f"{target} has {len(paths)} journals; name one: {', '.join(map(str, paths))}")
    count, damaged = 0, list[tuple[int, int]]()
    with _reading(paths[0]) as found, _lines(output) as write:
        last = found.last_seq()
        while after_seq < last:
            rows, wrong = found.readable(after_seq, RECORDS_AT_ONCE)
            for row in rows:
                write(row)
            count, damaged = count + len(rows), damaged + wrong
            after_seq = max([*(row[0] for row in rows[-1:]), *(end for _, end in wrong)], default=last)
    for first, last in damaged:
        note(f"timbr-wamp: records {first} to {last} are damaged and left out")
    if output is not None:
        note(f"{counted(count, 'record')} written to {output}")
    ctx.exit(1 if damaged else 0)


@contextmanager
def _lines(output: Path | None) -> Iterator[Any]:
    """Give what writes a record as a line. A file is there when all of it is."""
    if output is None:
        import orjson

        yield lambda row: print_json(orjson.loads(_line(row)), line=True)
        return
    part = output.with_name(f"{output.name}.part")
    try:
        with open(part, "wb") as file:
            yield lambda row: _write_line(file, row)
        os.replace(part, output)
    finally:
        part.unlink(missing_ok=True)


def _write_line(file: BinaryIO, row: Any) -> None:
    file.write(_line(row) + b"\n")


def _line(row: Any) -> bytes:
    """Return a record as `tail --json` prints it, its values' texts as they are."""
    from timbr_wamp.machine.records.rows import texts_of, whole_text

    _, oid, text, meta, layout = row
    first, *values = texts_of(whole_text(text, layout))
    named = b",".join(b'"f%d":%b' % pair for pair in enumerate(values))
    return b'{"oid":"%b",%b,"values":{"in":%b%b}}' % (oid.encode(), meta[1:-1], first, b"," * bool(named) + named)


# --- which ---


def _folder(settings: Settings) -> Path:
    from timbr_wamp.settings import JOURNALS_FOLDER

    return settings.data_dir / JOURNALS_FOLDER


def _paths(target: str) -> list[Path]:
    """Return the journals that an argument names: a file, or a kernel's by its folder, name or unique prefix."""
    from timbr_wamp.errors import did_you_mean
    from timbr_wamp.store.journal_files import journals_in

    if Path(target).is_file():
        return [Path(target).absolute()]
    settings = settings_from()
    folder = _folder(settings)
    there = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    names = {name: _kernel_name(settings, name) for name in there}
    for fits in (
        [name for name in there if target in (name, names[name])],
        [name for name in there if name.startswith(target)],
    ):
        found = [path for name in fits for path in journals_in(folder / name)]
        if len(fits) == 1 and found:
            return found
        if len(fits) > 1:
            raise CommandFailed(f"{target} may be {', '.join(fits)}")
    known = [*there, *filter(None, names.values())]
    raise CommandFailed(f"no journal {target!r}: it is no file, and no kernel has one{did_you_mean(target, known)}")


def _kernel_name(settings: Settings, kernel_id: str) -> str | None:
    """Return the name of a kernel that this computer's processes know."""
    from timbr_wamp import runtime

    found = runtime.read_file(runtime.kernel_file(settings.runtime_dir, kernel_id), runtime.KernelFile)
    return None if found is None else found.name


def _holder(path: Path) -> str | None:
    """Return which process has a journal: its pid and command."""
    from timbr_wamp.runtime import process_name
    from timbr_wamp.streams.file_locks import holder_of

    pid = holder_of(path)
    return None if pid is None else f"process {pid} ({process_name(pid) or 'it has ended'})"


@contextmanager
def _reading(path: Path) -> Iterator[SqliteJournal]:
    """Give a journal for reading; say so if it is a copy."""
    from timbr_wamp.store.journal_files import readable

    holder = _holder(path)
    if holder is not None and sys.stderr.isatty():
        note(f"timbr-wamp: {path} is in use by {holder}; reading a copy")
    try:
        with readable(path) as found:
            yield found
    except StorageBusy as error:
        raise StorageFailed(str(path), f"{error.holder} writes too much to it; try again") from error


def _summary(path: Path, settings: Settings) -> dict[str, Any]:
    """Return a line of the list."""
    from timbr_wamp.store.journal_files import machine_of

    kernel_id = path.parent.name
    row: dict[str, Any] = {
        "kernel": kernel_id, "name": _kernel_name(settings, kernel_id), "machine": machine_of(path), "file": str(path),
        "bytes": _size(path), "holder": _holder(path), "problem": None,
    }  # fmt: skip
    try:
        with _reading(path) as found:
            info = found.info()
    except (TimbrError, OSError) as error:
        return {**row, "problem": str(error)}
    return {**row, **{key: info[key] for key in ("run", "first_seq", "last_seq", "records", "waiting")}}


def _size(path: Path) -> int:
    """Return the bytes of a journal's files."""
    return sum(file.stat().st_size for suffix in ("", "-wal") if (file := Path(f"{path}{suffix}")).exists())


def _value_text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {number:,}" for key, number in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value or "nobody")
