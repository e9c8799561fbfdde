"""`Shared`: how a kernel that is on the router looks, with a link to the page."""

from __future__ import annotations

from dataclasses import dataclass, field

from timbr_wamp.tables import html_text, printable

#: Longest address that is shown whole, in characters.
ADDRESS_LIMIT = 4000


@dataclass(frozen=True, slots=True)
class Shared:
    """A kernel on the router, as its own notebook sees it. Its display has a link to the page."""

    kernel_id: str
    #: The kernel's name for people.
    name: str
    #: Names of its machines that are listed.
    machines: tuple[str, ...]
    #: URL of the router.
    url: str
    #: The page's address. At the user's own router it has a token, which is revoked when the kernel leaves the
    #: router; whoever has it can do what its role may. None when there is no page.
    page: str | None = field(repr=False)
    #: How to end what was started for it; None when nothing was.
    ending: str | None = None
    #: Which kernel the verbs of ``%wamp`` go to; None when it was not shared by one.
    selection: str | None = None

    def __str__(self) -> str:
        return "\n".join([self._sentence(), *([f"page: {self.page}"] if self.page else []), *self._notes()])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        lines = [html_text(self._sentence())]
        if self.page:
            address = html_text(self.page, ADDRESS_LIMIT)
            lines.append(f'<a href="{address}" target="_blank" rel="noopener noreferrer">Open the page</a>')
        lines += [html_text(note) for note in self._notes()]
        return "<br>".join(lines)

    def _sentence(self) -> str:
        machines = ", ".join(self.machines) or "none yet; one that is made later comes by itself"
        return printable(f"{self.name} is on the router as {self.kernel_id}; machines: {machines}")

    def _notes(self) -> list[str]:
        off = "%wamp unshare, or the end of this kernel, takes it off, and the link then opens nothing"
        return [note for note in (self.selection, off, self.ending) if note is not None]


__all__ = ["Shared"]
