"""A project: a folder with ``timbr.toml``, from which a machine is made.

The folder is put on Python's path, so that ``module:name`` finds the modules in it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from timbr_wamp import plugins
from timbr_wamp.contract import FunctionRef
from timbr_wamp.errors import InvalidProject, NotASource, TimbrError
from timbr_wamp.machine import Machine
from timbr_wamp.machine.protocols import Source
from timbr_wamp.machine.slots.arguments import refusal
from timbr_wamp.machine.slots.functions import load
from timbr_wamp.projects.schema import ProjectFile, SlotEntry, SourceEntry, read_project
from timbr_wamp.settings import project_file

__all__ = ["LoadedSlot", "Project", "entries_of", "load_project"]

#: Who set the slots, in their revisions.
AUTHOR = "timbr.toml"


@dataclass(frozen=True, slots=True)
class LoadedSlot:
    """A slot of the file with the function that it names."""

    entry: SlotEntry
    function: Callable[..., Any]


#: Of machines that projects made: what their functions and source stand for in the file.
_made: WeakKeyDictionary[Machine, tuple[list[LoadedSlot], SourceEntry | None]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Project:
    """A project's file, read and checked in its form; no code of it has run yet."""

    #: The file.
    path: Path
    content: ProjectFile

    @property
    def folder(self) -> Path:
        """Where its modules are."""
        return self.path.parent

    def check(self) -> list[str]:
        """Load everything and start nothing; return all that is wrong. Runs the project's code as importing does."""
        _, problems = self._load()
        return problems

    def slots(self) -> list[LoadedSlot]:
        """Load the slots' functions; runs the project's code as importing does.

        Raises:
            InvalidProject: some cannot be loaded, with all problems.
        """
        (slots, _), problems = self._load()
        if problems:
            raise InvalidProject(str(self.path), problems)
        return slots

    def machine(self, *, serve: bool | None = False) -> Machine:
        """Make the machine: slots, policies and source as the file says; not started.

        Args:
            serve: see `Machine`.

        Raises:
            InvalidProject: something cannot be loaded, with all problems; no machine was made.
            PrepFailed: an object in a slot did not come up.
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
        _made[machine] = slots, given
        return machine

    def _load(self) -> tuple[tuple[list[LoadedSlot], Any], list[str]]:
        """Return the slots' functions and the source that could be loaded, and what is wrong with the others."""
        if str(self.folder) not in sys.path:
            sys.path.insert(0, str(self.folder))
        problems, slots, source = [], [], None
        for entry in self.content.slots:
            where = f"slot {entry.slot}" + (f" ({entry.name})" if entry.name else "")
            try:
                function = self._loaded(entry)
            except TimbrError as error:
                problems.append(f"{where}: {error}")
                continue
            if (why := refusal(function, entry.slot)) is not None:
                problems.append(f"{where}: {type(function).__name__} cannot be a slot: {why}")
            else:
                slots.append(LoadedSlot(entry, function))
        if self.content.source is not None:
            try:
                source = _checked_source(self._loaded(self.content.source))
            except TimbrError as error:
                problems.append(f"source: {error}")
        try:
            plugins.load(plugins.EXECUTORS, self.content.machine.executor)
        except TimbrError as error:
            problems.append(f"machine.executor: {error}")
        return (slots, source), problems

    def _loaded(self, entry: SlotEntry | SourceEntry) -> Any:
        if entry.source is not None:
            return load(FunctionRef(kind="source", text=entry.source))
        assert entry.function is not None  # the form was checked
        loaded = load(FunctionRef(kind="reference", text=entry.function))
        self._check_origin(entry.function.partition(":")[0])
        return loaded

    def _check_origin(self, module: str) -> None:
        """Refuse a module of the same name from elsewhere, that was imported before ours could be.

        Raises:
            InvalidProject: which one, and where it is from.
        """
        first = module.partition(".")[0]
        ours = [path for path in (self.folder / f"{first}.py", self.folder / first / "__init__.py") if path.is_file()]
        found = getattr(sys.modules.get(first), "__file__", None)
        if ours and found is not None and not ours[0].samefile(found):
            raise InvalidProject(str(self.path), [f"module {first} is another one here: {found}; rename the project's"])


def _checked_source(source: object) -> object:
    """Return what may be a source; a function is not called for that, since it may open something.

    Raises:
        NotASource: it is surely none.
    """
    gives = isinstance(source, (Iterable, AsyncIterable, Source)) or callable(source)
    if not gives or isinstance(source, (str, bytes, bytearray, dict)):
        raise NotASource(type(source).__name__)
    return source


def load_project(path: str | Path | None = None) -> Project:
    """Read a project, given by its folder or file; None: what ``TIMBR_PROJECT`` names, else the working folder's.

    Runs no code of it.

    Raises:
        InvalidProject: the file is not there, or has problems; all of them are told.
    """
    file = project_file(None if path is None else Path(path).expanduser()).absolute()
    return Project(file, read_project(file))


def entries_of(machine: Machine) -> tuple[list[LoadedSlot], SourceEntry | None]:
    """Return what the file said of a machine that a project made; nothing for other machines."""
    return _made.get(machine, ([], None))
