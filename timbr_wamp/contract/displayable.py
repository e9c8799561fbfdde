"""`Displayable`: structs of the wire with a display in notebooks and for ``print``.

Their HTML and text are made by `timbr_wamp.faces`. That package imports this one, so it is loaded by
name, as a plugin. The ``repr`` of the structs is unchanged.
"""

from __future__ import annotations

from typing import Any, Protocol

from timbr_wamp import plugins


class Printer(Protocol):
    """The printer of IPython's ``lib.pretty``."""

    def text(self, text: str) -> None:
        """Print a text."""


def render(name: str, value: object) -> str:
    """Return the HTML or text that the plugin ``name`` of the group ``FACES`` makes of ``value``."""
    draw: Any = plugins.load(plugins.FACES, name)
    text: str = draw(value)
    return text


class Displayable:
    """A struct with HTML for notebooks and a text for ``print``."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return render("struct_html", self)

    def __str__(self) -> str:
        return render("struct_text", self)
