"""`Shown`: how the wire's structs look in a notebook and in print. Their ``repr`` stays what it is."""

from __future__ import annotations

from typing import Protocol


class Printer(Protocol):
    """What IPython's ``lib.pretty`` gives to print with."""

    def text(self, text: str) -> None:
        """Print a text."""


class Shown:
    """A struct with a face: HTML in notebooks, a text for ``print``. `contract.faces` draws both."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        from timbr_wamp.contract.faces import html_of  # faces know the structs, so structs ask late

        return html_of(self)

    def __str__(self) -> str:
        from timbr_wamp.contract.faces import text_of

        return text_of(self)
