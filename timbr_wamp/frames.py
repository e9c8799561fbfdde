"""The stack frames of an error that are the user's own code, as lines that say where to look.

`timbr_wamp.errors` shows them in a notebook in place of a whole traceback. Imports nothing of timbr_wamp.
"""

from __future__ import annotations

import functools
import linecache
import os
import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

#: Frames that are shown: the last ones.
FRAMES_LIMIT = 5
#: Frames of a traceback that are looked at, and characters of a line that is shown.
_LOOKED_AT, _LINE_LIMIT = 1000, 120

#: Folders whose code is not the user's: this package and the standard library; and those of what is installed.
_FOREIGN = tuple(os.path.join(folder, "") for folder in (str(Path(__file__).parent), sysconfig.get_path("stdlib")))
_INSTALLED = re.compile(r"[/\\](site|dist)-packages[/\\]|^<frozen ")
#: A frame in the text of a traceback; what joins tracebacks.
_FRAME = re.compile(r'^ *File "(?P<file>[^"]+)", line \d+')
_JOINTS = re.compile(
    r"^(?:The above exception was the direct cause|During handling of the above exception, another exception).*$",
    re.MULTILINE,
)

#: File names of cells, of IPython in a kernel and in a terminal.
_CELL = re.compile(r"[/\\]ipykernel_\d+[/\\]|^<ipython-input-")
#: What IPython makes of a line ``%name words``.
_MAGIC = re.compile(
    r"get_ipython\(\)\.run_(?P<kind>line|cell)_magic\((?P<quote>['\"])(?P<name>\w+)(?P=quote), (?P<rest>.*)"
)


def own_frames(error: BaseException, *, of_cells: bool = False) -> list[str]:
    """Return a line for each frame of the user's code that led to an error and to its cause, the outermost first.

    ``of_cells`` leaves out frames of files. Empty when the only one is a cell of one line, which stands above
    the error. Never raises.
    """
    try:
        frames = [frame for one in _chain(error) for frame in _frames(one)]
        if of_cells:
            frames = [frame for frame in frames if _CELL.search(frame.filename)]
        if len(frames) == 1 and _is_one_line(frames[0]):
            return []
        return [_line(frame) for frame in frames[-FRAMES_LIMIT:]]
    except Exception:  # of reading sources, which may be anything: the error itself is shown all the same
        return []


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__


def _frames(error: BaseException) -> Iterator[traceback.FrameSummary]:
    for frame in traceback.extract_tb(error.__traceback__, limit=_LOOKED_AT):
        if not is_foreign(frame.filename):
            yield frame


def is_foreign(filename: str) -> bool:
    """Tell whether a file's code is that of this package, the standard library or an installed package."""
    is_cell = _CELL.search(filename) is not None
    return not is_cell and (filename.startswith(_FOREIGN) or _INSTALLED.search(filename) is not None)


def _is_one_line(frame: traceback.FrameSummary) -> bool:
    lines = linecache.getlines(frame.filename)
    return _CELL.search(frame.filename) is not None and sum(bool(line.strip()) for line in lines) <= 1


def _line(frame: traceback.FrameSummary) -> str:
    where = f"line {frame.lineno}" if _CELL.search(frame.filename) else f"{frame.filename}, line {frame.lineno}"
    function = "" if frame.name == "<module>" else f", in {frame.name}"
    text = _MAGIC.sub(_as_written, frame.line or "")
    text = text if len(text) <= _LINE_LIMIT else text[: _LINE_LIMIT - 1] + "…"
    return f"  {where}{function}" + (f": {text}" if text else "")


def _as_written(found: re.Match[str]) -> str:
    percent = "%" if found["kind"] == "line" else "%%"
    rest = found["rest"].rstrip(")")
    words = rest[1:-1] if found["kind"] == "line" and rest[:1] == rest[-1:] else ""
    return f"{percent}{found['name']} {words}".rstrip()


@functools.cache
def _internal() -> re.Pattern[str]:
    """Return what finds files of timbr_wamp and of the standard library in the text of a traceback.

    Ours are told by the names of our modules and packages, since a clone's folder may have the package's name and
    users' files in it. The demo's startup files are users' code.
    """
    ours = "|".join(
        sorted(part.stem for part in Path(__file__).parent.iterdir() if part.suffix == ".py" or part.is_dir())
    )
    standard = r"[/\\]lib[/\\]python3[^/\\]*[/\\](?!site-packages)"
    return re.compile(rf"[/\\]timbr_wamp[/\\](?!cli[/\\]demo[/\\])(?:{ours})(?:[/\\]|\.py$)|{standard}")


def own_part(text: str) -> list[str]:
    """Return the lines of another process's traceback that are about users' code: their frames, and what was raised.

    Empty if there is no such frame.
    """
    shown: list[str] = []
    for part in _JOINTS.split(text):
        lines = _own_lines(part.strip("\n").splitlines())
        shown += [*([""] if shown and lines else []), *lines]
    return shown


def _own_lines(lines: list[str]) -> list[str]:
    """Return one traceback's lines without the frames of ours; empty if no other is left."""
    kept, found, ours = [], False, False
    for line in lines:
        frame = _FRAME.match(line)
        if frame is not None:
            ours = _internal().search(frame["file"]) is not None
            found = found or not ours
        elif not line.startswith(" "):
            ours = False
        if not ours:
            kept.append(line)
    return kept if found else []
