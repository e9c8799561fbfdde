"""The import rule (floors, downwards only), read from the source itself; nothing is imported for it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "timbr_wamp"

#: Room → floor. A room imports from lower floors, and from its own room.
FLOORS = {
    "command_line": 0, "errors": 1, "frames": 1,
    "names": 2, "values": 2, "settings": 2, "consent": 2, "plugins": 2, "tables": 2, "codecs": 2, "places": 2,
    "rows": 2, "examples": 2, "literals": 2, "user_warnings": 2,
    "contract": 3, "runtime": 3, "streams": 3,
    "faces": 4, "display": 4, "processes": 4,
    "machine": 5, "client": 5, "kernel": 5, "router": 5,
    "store": 6, "projects": 6, "cluster": 6, "connectors": 6, "magic": 6, "attach": 6, "dashboard": 6,
    "components": 7, "agents": 7,
    "cli": 8, "__main__": 9,
}  # fmt: skip

#: Neighbours on one floor that may be used all the same, each with its reason.
ALLOWED = {
    ("settings", "names"): "a setting that becomes a name or a router's URL is checked as one",
    ("errors", "frames"): "an error says in a notebook where in the user's code it arose",
    ("settings", "consent"): "what a project's file sets may want the user's consent",
    ("codecs", "plugins"): "codecs of other packages are found by entry point",
    ("rows", "values"): "what has no Arrow type is written as JSON text",
    ("values", "codecs"): "values are walked here, and written there",
    ("display", "faces"): "a card that is drawn again is drawn by the faces",
}

#: Inside `machine/`: room or module → floor, likewise.
MACHINE_FLOORS = {
    "messages": 1, "waiting": 1, "interrupts": 1, "isolation": 1, "parsing": 1, "forks": 1, "processing": 1,
    "removed": 1, "raw": 1, "checks": 1, "differences": 1,
    "protocols": 2, "tracebacks": 2,
    "slots": 3, "events": 4, "intake": 5, "records": 6, "running": 7, "history": 7,
    "trials": 8, "inquiries": 9, "assembly": 9, "machine": 10, "serving": 11,
}  # fmt: skip

#: Third party → the rooms or modules that may import it. What is not listed is not allowed.
THIRD_PARTIES = {
    "orjson": {"values", "contract", "machine", "components", "cli", "streams", "store"},
    "platformdirs": {"settings"},
    "msgspec": {"contract", "runtime", "machine", "client", "components", "router", "magic", "projects"},
    "psutil": {"runtime", "router"},
    "zmq": {"machine", "components"},
    "cloudpickle": {"machine", "client", "store"},
    "pytest": {"streams"},
    "autobahn": {"client"},
    "txaio": {"client"},
    "ipykernel": {"kernel"},
    "IPython": {"kernel", "magic"},
    "jupyter_client": {"components"},
    "jupyter_core": {"components"},
    "tomli_w": {"projects"},
    "click": {"cli"},
    "rich": {"cli", "display"},
    "tqdm": {"display"},
    "redis": {"streams"},
    "pymongo": {"streams"},
}

#: Where even within its room a third party has one module of its own.
ONE_MODULE = {"jupyter_client": 1, "redis": 1}


def _modules() -> Iterator[Path]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if "static" not in path.parts and "config" not in path.relative_to(PACKAGE).parts:
            yield path


def _room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield ``(line, absolute module)`` of each import, also those inside functions and for type checkers."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            assert node.module is not None
            if node.module == "timbr_wamp":
                yield from ((node.lineno, f"timbr_wamp.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module


MODULES = pytest.mark.parametrize("path", list(_modules()), ids=lambda path: str(path.relative_to(PACKAGE)))


@MODULES
def test_imports_go_downwards(path: Path) -> None:
    room = _room(path)
    if room == "__init__":
        return  # the lazy names of the package itself: strings, and imports for type checkers
    if path.parent.name == "demo":
        return  # a startup file for kernels: a user's program
    wrong = []
    for line, module in _imports(path):
        parts = module.split(".")
        if parts[0] != "timbr_wamp":
            continue
        other = parts[1] if len(parts) > 1 else "__init__"
        if other in (room, "__version__", "__init__") or (room, other) in ALLOWED:
            continue
        if FLOORS.get(other, 0) >= FLOORS[room]:
            wrong.append(f"{path.relative_to(ROOT)}:{line}: {room} (floor {FLOORS[room]}) imports {module}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "path",
    [path for path in _modules() if path.parent != PACKAGE and _room(path) == "machine" and path.stem != "__init__"],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_imports_inside_the_machine_go_downwards(path: Path) -> None:
    room = path.relative_to(PACKAGE / "machine").parts[0].removesuffix(".py")
    wrong = []
    for line, module in _imports(path):
        parts = module.split(".")
        if parts[:2] != ["timbr_wamp", "machine"]:
            continue
        other = parts[2] if len(parts) > 2 else "machine"
        if other != room and MACHINE_FLOORS[other] >= MACHINE_FLOORS[room]:
            wrong.append(f"{path.relative_to(ROOT)}:{line}: {room} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_through_others() -> None:
    modules = {_dotted(path): path for path in _modules()}
    imports = {
        name: {module for _, module in _imports(path) if module in modules and module != name}
        for name, path in modules.items()
        if not name.endswith("__init__")
    }
    circles = []
    done: set[str] = set()

    def visit(name: str, chain: tuple[str, ...]) -> None:
        if name in chain:
            circles.append(" → ".join((*chain[chain.index(name) :], name)))
        elif name not in done:
            for other in sorted(imports.get(name, ())):
                visit(other, (*chain, name))
            done.add(name)

    for name in imports:
        visit(name, ())
    assert not circles, "\n".join(circles)


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@MODULES
def test_third_parties_stay_in_their_rooms(path: Path) -> None:
    if path.parent.name == "demo":
        return
    room = _room(path)
    wrong = []
    for line, module in _imports(path):
        top = module.partition(".")[0]
        if top in ("timbr_wamp", "__future__") or top in sys.stdlib_module_names:
            continue
        if room not in THIRD_PARTIES.get(top, set()):
            wrong.append(f"{path.relative_to(ROOT)}:{line}: {room} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_what_is_allowed_is_used() -> None:
    used: set[tuple[str, str]] = set()
    for path in _modules():
        for _, module in _imports(path):
            parts = module.split(".")
            used.add((_room(path), parts[1] if parts[0] == "timbr_wamp" and len(parts) > 1 else parts[0]))
    allowed = {(room, library) for library, rooms in THIRD_PARTIES.items() for room in rooms} | set(ALLOWED)
    assert allowed <= used, allowed - used


@pytest.mark.parametrize(("library", "count"), ONE_MODULE.items())
def test_some_third_parties_have_one_module(library: str, count: int) -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for path in _modules()
        if any(module.partition(".")[0] == library for _, module in _imports(path))
    }
    assert len(users) <= count, users


def test_twisted_is_imported_only_in_the_router() -> None:
    speakers = {
        path.relative_to(ROOT).parts[0]
        for folder in ("timbr_wamp", "router-config")
        for path in (ROOT / folder).rglob("*.py")
        for _, module in _imports(path)
        if module.partition(".")[0] in ("twisted", "crossbar") or module.startswith("autobahn.twisted")
    }
    assert speakers <= {"router-config"}


def test_the_router_component_needs_nothing_of_ours() -> None:
    wrong = [
        f"{path.name}:{line}"
        for path in (ROOT / "router-config").rglob("*.py")
        for line, module in _imports(path)
        if module.partition(".")[0] == "timbr_wamp"
    ]
    assert not wrong, "the router's own environment has no timbr_wamp"


def test_every_room_has_a_floor() -> None:
    rooms = {_room(path) for path in _modules()} - {"__init__"}
    assert rooms <= set(FLOORS)


@MODULES
def test_a_module_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not tree.body or ast.get_docstring(tree), "its first lines say nothing"
