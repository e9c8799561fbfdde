"""`Displayable`: structs of the wire that show themselves in a notebook and in print.

What they look like is `timbr_wamp.faces`, on the floor above: it is found by name, as a plugin. Their
``repr`` stays what it is.
"""

from __future__ import annotations

from typing import Any, Protocol

from timbr_wamp import plugins


class Printer(Protocol):
    """What IPython's ``lib.pretty`` gives to print with."""

    def text(self, text: str) -> None:
        """Print a text."""


def face(name: str, value: object) -> str:
    """Return what the face called ``name`` makes of ``value``: HTML or text."""
    draw: Any = plugins.load(plugins.FACES, name)
    drawn: str = draw(value)
    return drawn


class Displayable:
    """A struct with a face: HTML in notebooks, a text for ``print``."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return face("struct_html", self)

    def __str__(self) -> str:
        return face("struct_text", self)
