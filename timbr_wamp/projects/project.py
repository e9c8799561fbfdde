"""`Project`: a folder with ``timbr.toml``, which describes a machine.

The folder is added to ``sys.path``, so that ``module:name`` can refer to its modules.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from timbr_wamp.contract import FunctionRef, SourceOptions
from timbr_wamp.errors import InvalidArgument, InvalidProject, TimbrError
from timbr_wamp.machine import Machine
from timbr_wamp.machine.assembly import check_revision, loaded_executor
from timbr_wamp.machine.intake.readers import refuse_source, why_not_restarted
from timbr_wamp.machine.intake.restarts import Restarts
from timbr_wamp.machine.slots.functions import load
from timbr_wamp.machine.slots.table import SlotTable
from timbr_wamp.projects.schema import ProjectFile, SlotEntry, SourceEntry, read_project
from timbr_wamp.settings import expanded, project_file

__all__ = ["LoadedSlot", "Project", "entries_of", "load_project"]

#: Author of the revisions that a project makes.
AUTHOR = "timbr.toml"


@dataclass(frozen=True, slots=True)
class LoadedSlot:
    """A slot of the file and its function."""

    entry: SlotEntry
    function: Callable[..., Any]


#: For machines that a project created: the entries of the file for their slots and source.
_loaded_from: WeakKeyDictionary[Machine, tuple[list[LoadedSlot], SourceEntry | None]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Project:
    """A project's file, parsed and checked. Creating this object runs no code of the project."""

    path: Path
    content: ProjectFile

    @property
    def folder(self) -> Path:
        """The project's folder, which has its modules."""
        return self.path.parent

    def check(self) -> list[str]:
        """Load everything, start nothing, and return all problems. Imports the project's modules."""
        _, problems = self._load()
        return problems

    def slots(self) -> list[LoadedSlot]:
        """Load the slots' functions. Imports the project's modules.

        Raises:
            InvalidProject: something cannot be loaded; the error lists all problems.
        """
        (slots, _), problems = self._load()
        if problems:
            raise InvalidProject(str(self.path), problems)
        return slots

    def machine(self, *, serve: bool | None = False) -> Machine:
        """Create the machine with its slots, policies and source, without starting it.

        Args:
            serve: see `Machine`.

        Raises:
            InvalidProject: something cannot be loaded; the error lists all problems.
            PrepFailed: the ``prep`` of an object in a slot raised.
        """
        (slots, source), problems = self._load()
        if problems:
            raise InvalidProject(str(self.path), problems)
        about = self.content.machine
        machine = Machine(
            about.stages, about.bufsize, name=about.name, serve=serve, executor=about.executor,
            concurrency=about.concurrency, on_error=about.on_error,
        )  # fmt: skip
        try:
            machine.assign(
                {slot.entry.slot: slot.function for slot in slots},
                names={slot.entry.slot: slot.entry.name for slot in slots if slot.entry.name},
                sources={slot.entry.slot: slot.entry.source for slot in slots if slot.entry.source},
                policies={slot.entry.slot: slot.entry.policy for slot in slots if slot.entry.policy},
                author=AUTHOR,
            )
            if (given := self.content.source) is not None:
                options = {name: getattr(given, name) for name in given.options.__struct_fields__}
                machine.set_source(source, total=given.total, author=AUTHOR, **options)
        except BaseException:
            machine.close()
            raise
        _loaded_from[machine] = slots, given
        return machine

    def _load(self) -> tuple[tuple[list[LoadedSlot], Any], list[str]]:
        """Return the slots and the source that could be loaded, and the problems with the others."""
        if str(self.folder) not in sys.path:
            sys.path.insert(0, str(self.folder))
        problems: list[str] = []
        slots, source = [], None
        table = self._empty_table(problems)
        for entry in self.content.slots:
            where = f"slot {entry.slot}" + (f" ({entry.name})" if entry.name else "")
            try:
                function = self._loaded(entry)
                table.assign({entry.slot: function}, policies={entry.slot: entry.policy} if entry.policy else None)
            except TimbrError as error:
                problems.append(f"{where}: {error}")
            else:
                slots.append(LoadedSlot(entry, function))
        if self.content.source is not None:
            try:
                source = _checked_source(self._loaded(self.content.source), self.content.source.options)
            except TimbrError as error:
                problems.append(f"source: {error}")
        return (slots, source), problems

    def _empty_table(self, problems: list[str]) -> SlotTable:
        """Return a table that refuses what the machine's would refuse, and prepares no objects."""
        about = self.content.machine
        options: dict[str, Any] = {} if about.on_error is None else {"policy": about.on_error}
        try:
            executor = loaded_executor(about.executor)
        except TimbrError as error:
            problems.append(f"machine.executor: {error}")
        else:
            executor.close()
            options["check"] = partial(check_revision, executor)
        return SlotTable(about.stages, time.time, **options)

    def _loaded(self, entry: SlotEntry | SourceEntry) -> Any:
        if entry.source is not None:
            return load(FunctionRef(kind="source", text=entry.source))
        assert entry.function is not None  # checked by read_project
        loaded = load(FunctionRef(kind="reference", text=entry.function))
        self._check_origin(entry.function.partition(":")[0])
        return loaded

    def _check_origin(self, module: str) -> None:
        """Refuse a module that was imported from another place under the name of a module of the project.

        Raises:
            InvalidProject: the error has the module's name and file.
        """
        first = module.partition(".")[0]
        own = [path for path in (self.folder / f"{first}.py", self.folder / first / "__init__.py") if path.is_file()]
        found = getattr(sys.modules.get(first), "__file__", None)
        if own and found is not None and not own[0].samefile(found):
            problem = f"another module {first} is already imported from {found}; rename the project's module"
            raise InvalidProject(str(self.path), [problem])


def _checked_source(source: object, options: SourceOptions) -> object:
    """Return ``source`` if it may be a source. A function is not called, because it may open files or connections.

    Raises:
        NotASource: it cannot be a source.
        InvalidArgument: it cannot be restarted as the options say.
    """
    refuse_source(source)
    if Restarts(options).wanted and (problem := why_not_restarted(source)) is not None:
        raise InvalidArgument("source", problem)
    return source


def load_project(path: str | Path | None = None) -> Project:
    """Read a project by its folder or file; None means the one in ``TIMBR_PROJECT``, else in the working folder.

    Runs no code of the project.

    Raises:
        InvalidProject: the file is missing or has problems; the error lists all of them.
    """
    file = project_file(None if path is None else expanded(path)).absolute()
    return Project(file, read_project(file))


def entries_of(machine: Machine) -> tuple[list[LoadedSlot], SourceEntry | None]:
    """Return the file's entries for a machine that a project created; empty for other machines."""
    return _loaded_from.get(machine, ([], None))
