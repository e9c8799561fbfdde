"""`Displayable`: structs of the wire with a display in notebooks and for ``print``, and as rows of tables.

Their HTML and text are made by `timbr_wamp.faces`. That package imports this one, so it is loaded by
name, as a plugin.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, Protocol, Union, get_args, get_origin

import msgspec

from timbr_wamp import plugins
from timbr_wamp.rows.tabular import ColumnType, Grid, Tabular
from timbr_wamp.values import json_safe

#: Fields that hold UTC seconds.
TIMES = frozenset({"time", "first_time", "last_time", "last_processed_time", "started_at"})


class Printer(Protocol):
    """The printer of IPython's ``lib.pretty``."""

    def text(self, text: str) -> None:
        """Print a text."""


def render(name: str, value: object) -> str:
    """Return the HTML or text that the plugin ``name`` of the group ``FACES`` makes of ``value``."""
    draw: Any = plugins.load(plugins.FACES, name)
    text: str = draw(value)
    return text


class _DataclassFields:
    """A struct's fields as `dataclasses` knows them: so pandas and polars take lists of structs as rows."""

    def __get__(self, instance: object, owner: type) -> dict[str, Any]:
        return _dataclass_fields(owner)


@cache
def _dataclass_fields(struct: Any) -> dict[str, Any]:
    made: Any = dataclasses.make_dataclass(struct.__name__, struct.__struct_fields__)
    fields: dict[str, Any] = made.__dataclass_fields__
    return fields


class Displayable(Tabular):
    """A struct with HTML for notebooks and a text for ``print``; a row of a table."""

    __slots__ = ()

    __dataclass_fields__ = _DataclassFields()

    @property
    def _fields(self) -> tuple[str, ...]:
        """The names of the fields, as of a named tuple."""
        return struct_fields(type(self))

    def _asdict(self) -> dict[str, Any]:
        """Return the fields by name, nested structs as dicts too. Times are UTC seconds."""
        return self.to_dicts()[0]

    def _grid(self) -> Grid:
        return structs_grid(type(self), [self])

    def _repr_html_(self) -> str:
        return render("struct_html", self)

    def __str__(self) -> str:
        return render("struct_text", self)

    def __repr__(self) -> str:
        return render("struct_repr", self)


def struct_fields(struct: Any) -> tuple[str, ...]:
    """Return the names of a struct's fields."""
    fields: tuple[str, ...] = struct.__struct_fields__
    return fields


def structs_grid(struct: Any, items: Sequence[object]) -> Grid:
    """Return a table of structs of one class, one column per field."""
    names = struct_fields(struct)
    return Grid(names, [_cells(names, item) for item in items], _column_types(struct))


def _cells(names: Sequence[str], item: object) -> list[Any]:
    plain = msgspec.to_builtins(item, str_keys=True, enc_hook=json_safe)
    return [plain[name] for name in names]


@cache
def _column_types(struct: Any) -> dict[str, ColumnType]:
    """Return the types of the columns that hold one kind of plain value, by the struct's annotations."""
    found: dict[str, ColumnType] = {}
    for field in msgspec.structs.fields(struct):
        union = get_origin(field.type) in (Union, types.UnionType)
        kinds = {kind for kind in (get_args(field.type) if union else (field.type,)) if kind is not type(None)}
        if field.name in TIMES:
            found[field.name] = "time"
        elif len(kinds) == 1 and (kind := _PLAIN.get(*kinds)) is not None:
            found[field.name] = kind
        elif all(get_origin(kind) is Literal for kind in kinds):
            found[field.name] = "text"
    return found


_PLAIN: dict[Any, ColumnType] = {str: "text", int: "int", float: "float", bool: "bool"}
