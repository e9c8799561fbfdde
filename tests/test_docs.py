"""Every name that people meet is documented; links, paths, modules and names of the documentation exist."""

from __future__ import annotations

import ast
import configparser
import doctest
import inspect
import pkgutil
import re
import runpy
from collections import defaultdict
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest

import timbr_wamp
from timbr_wamp import plugins
from timbr_wamp.cli import main
from timbr_wamp.cli.reference import cli_reference, commands
from timbr_wamp.client import AsyncClient, Client, RemoteKernel, RemoteMachine
from timbr_wamp.client.async_client import AsyncKernel
from timbr_wamp.client.async_machine import AsyncMachine
from timbr_wamp.contract.api import PROCEDURES, TOPICS
from timbr_wamp.contract.exports import uri_text
from timbr_wamp.errors import ERRORS
from timbr_wamp.machine import Machine
from timbr_wamp.magic.commands import VERBS

ROOT = Path(__file__).parents[1]
WIRE = (ROOT / "docs/reference/wire.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])


@pytest.mark.parametrize("scope", PROCEDURES)
def test_every_procedure_is_in_the_wire_reference(scope: str) -> None:
    missing = [name for name in PROCEDURES[scope] if f"### `{uri_text(scope, name)}`" not in WIRE]
    assert not missing


@pytest.mark.parametrize("scope", TOPICS)
def test_every_topic_is_in_the_wire_reference(scope: str) -> None:
    missing = [name for name in TOPICS[scope] if f"| `{uri_text(scope, name)}` |" not in WIRE]
    assert not missing


def test_every_error_is_in_the_wire_reference() -> None:
    assert not [uri for uri in ERRORS if f"| `{uri}` |" not in WIRE]


def test_the_cli_reference_is_fresh() -> None:
    page = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    assert page == cli_reference(), "stale: run `make docs` (python -m timbr_wamp.cli.reference) and commit it"


@pytest.mark.parametrize(("words", "command"), list(commands(main)), ids=lambda value: str(value))
def test_every_command_and_option_says_what_it_is(words: str, command: click.Command) -> None:
    assert command.help, f"{words} has no help"
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert not [option.name for option in options if not option.help], f"options of {words} without help"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_of_the_magic_is_documented(verb: str) -> None:
    page = (ROOT / "docs/reference/magics.md").read_text(encoding="utf-8")
    assert f"`%wamp {verb}" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    broken = [
        target
        for target in targets
        if not re.match(r"[a-z]+:", target) and not target.startswith("#")
        if not (page.parent / target.partition("#")[0]).exists()
    ]
    assert not broken


def anchors(page: Path) -> set[str]:
    """Return the anchors that a page's headings have, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", re.sub(r"\]\([^)]*\)", "]", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_into_pages_lead_to_a_heading(page: Path) -> None:
    targets = re.findall(r"\]\(((?![a-z]+:)[^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    assert not [
        (file, anchor) for file, anchor in targets if anchor not in anchors(page.parent / file if file else page)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_in_the_documentation_compiles(page: Path) -> None:
    for snippet in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        if not re.search(r"^\s*[%!]|^>>>", snippet, re.MULTILINE):  # IPython's own lines are no Python
            assert compile(snippet, str(page), "exec")


# --- names of the code -------------------------------------------------------------------------


def spans(page: Path) -> list[str]:
    """Return what stands as code in a page's text; fenced blocks are left out."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]


def resolve(dotted: str) -> object:
    """Return a module, or an attribute of one, by its dotted name.

    Raises:
        AttributeError, ModuleNotFoundError: there is none.
    """
    parts = dotted.split(".")
    found: object = import_module(parts[0])
    for position, part in enumerate(parts[1:], start=2):
        try:
            found = getattr(found, part)
        except AttributeError:
            found = import_module(".".join(parts[:position]))
    return found


def missing(names: Iterable[str]) -> list[str]:
    """Return the dotted names that do not exist."""
    wrong = []
    for name in sorted(set(names)):
        try:
            resolve(name)
        except (AttributeError, ModuleNotFoundError):
            wrong.append(name)
    return wrong


#: Groups of entry points look like modules, and are none.
GROUPS = {value for name, value in vars(plugins).items() if name.isupper() and isinstance(value, str)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_and_names_of_the_package_exist(page: Path) -> None:
    dotted = [name for span in spans(page) for name in re.findall(r"\btimbr_wamp(?:\.[A-Za-z_]\w*)+", span)]
    assert not missing(name for name in dotted if name not in GROUPS and not name.endswith((".db", ".egg", ".toml")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_folders_exist(page: Path) -> None:
    folders = "timbr_wamp|router-config|frontend|tests|examples|benchmarks|docs"
    paths = [path for span in spans(page) for path in re.findall(rf"(?<![\w/.])(?:{folders})/[\w./-]*", span)]
    assert not [path for path in paths if not (ROOT / path).exists()]


#: How pages call what they talk about.
OBJECTS = {
    "m": (Machine, RemoteMachine, AsyncMachine),
    "Machine": (Machine,),
    "RemoteMachine": (RemoteMachine,),
    "machine": (RemoteMachine,),
    "client": (Client, AsyncClient),
    "kernel": (RemoteKernel, AsyncKernel),
}


def has(cls: type, attribute: str) -> bool:
    """Tell whether objects of a class have an attribute: the class's own, or one that a method sets."""
    if hasattr(cls, attribute):
        return True
    texts = [inspect.getsource(base) for base in cls.__mro__ if base.__module__.startswith("timbr_wamp.")]
    return any(re.search(rf"\bself\.{attribute}\b.* = ", text) for text in texts)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_attributes_that_are_mentioned_exist(page: Path) -> None:
    mentioned = {
        match for span in spans(page) for match in re.findall(rf"(?<![\w./])({'|'.join(OBJECTS)})\.([a-z_]+)\b", span)
    }
    files = {"py", "md", "toml", "json", "txt"}
    wrong = [
        f"{name}.{attribute}"
        for name, attribute in sorted(mentioned)
        if attribute not in files and not any(has(cls, attribute) for cls in OBJECTS[name])
    ]
    assert not wrong


ARCHITECTURE = ROOT / "docs/explanation/architecture.md"


def test_the_architecture_names_what_is_there() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    paths = re.findall(r"`([\w-]+(?:/[\w-]+)*(?:\.py|/))`", text)
    assert not [path for path in paths if not (ROOT / "timbr_wamp" / path).exists() and not (ROOT / path).exists()]
    named = re.findall(r"`([\w/]+)\.py`((?:,?\s+`[A-Za-z_][\w.]*`)+)", text)
    assert len(named) > 30
    assert not missing(
        f"timbr_wamp.{path.replace('/', '.')}.{name}"
        for path, names in named
        for name in re.findall(r"`([\w.]+)`", names)
    )


def rooms_below(folder: Path) -> set[str]:
    """Return the rooms of a package: folders with Python in them, and modules."""
    hidden = {"__init__", "__main__", "__pycache__"}
    return {path.stem for path in folder.iterdir() if path.suffix in ("", ".py") and path.stem not in hidden}


def floors_of(name: str) -> dict[str, int]:
    """Return one of the tables of floors that `tests/test_layering.py` checks imports with."""
    tree = ast.parse((ROOT / "tests/test_layering.py").read_text(encoding="utf-8"))
    values = {target.id: node.value for node in tree.body if isinstance(node, ast.Assign) for target in node.targets
              if isinstance(target, ast.Name)}  # fmt: skip
    floors: dict[str, int] = ast.literal_eval(values[name])
    return floors


def test_the_architecture_names_every_room_on_its_floor() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| (.*) \|$", text, re.MULTILINE)
    documented = {room: int(floor) for floor, rooms in rows for room in re.findall(r"`(\w+)`", rooms)}
    package = ROOT / "timbr_wamp"
    there = {room for room in floors_of("FLOORS") if (package / room).is_dir() or (package / f"{room}.py").is_file()}
    assert documented == {room: floor for room, floor in floors_of("FLOORS").items() if room in there - {"__main__"}}
    explained = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| .+ \|$", text, re.MULTILINE)
    assert {word for row in explained for word in re.findall(r"`(\w+)`", row)} == set(documented)


def test_the_architecture_names_the_rooms_of_the_machine_from_the_top_down() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    documented = re.findall(r"^\| `machine/(\w+)(?:/|\.py)` \|", text, re.MULTILINE)
    floors = floors_of("MACHINE_FLOORS")
    assert set(documented) == set(floors)
    assert [floors[room] for room in documented] == sorted(floors.values(), reverse=True)


# --- dependencies ------------------------------------------------------------------------------

#: Packages that are imported by another name.
IMPORTED_AS = {"pyzmq": "zmq", "tomli-w": "tomli_w"}


def importers() -> dict[str, set[str]]:
    """Return for each imported package the rooms that import it; the demo's startup files are users' programs."""
    rooms = defaultdict[str, set[str]](set)
    for path in (ROOT / "timbr_wamp").rglob("*.py"):
        room = path.relative_to(ROOT / "timbr_wamp").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if path.parent.name != "demo" else ():
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                rooms[name.partition(".")[0]].add(room)
    return rooms


def test_every_dependency_is_listed_with_the_rooms_that_import_it() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    needed = re.findall(r"^([A-Za-z][\w-]*)", config["options"]["install_requires"], re.MULTILINE)
    text = (ROOT / "docs/explanation/dependencies.md").read_text(encoding="utf-8")
    documented = dict(re.findall(r"^\| `([\w-]+)` \| ([^|]+) \| [^|]+ \|$", text, re.MULTILINE))
    rooms = {
        name: {room.partition("/")[0] for room in re.findall(r"`([\w/]+)`", documented.get(name, ""))}
        for name in needed
    }
    found = importers()
    assert rooms == {name: found[IMPORTED_AS.get(name, name)] for name in needed}


# --- the web site ------------------------------------------------------------------------------

DOCS = ROOT / "docs"
CONF: dict[str, Any] = runpy.run_path(str(DOCS / "conf.py"))
NAV: dict[str, list[str]] = CONF["NAV"]
PUBLIC: tuple[str, ...] = CONF["PUBLIC"]

#: Packages with names for our own rooms; users may not rely on them.
INTERNAL = {
    "timbr_wamp.cli": "commands",
    "timbr_wamp.client.connection": "the client's",
    "timbr_wamp.dashboard": "the page",
    "timbr_wamp.dashboard.build": "builds the page",
    "timbr_wamp.faces.tables": "the faces'",
    "timbr_wamp.kernel": "for IPython",
    "timbr_wamp.magic": "for IPython, reached by %load_ext timbr_wamp",
    "timbr_wamp.processes": "processes of bridges and hosts",
    "timbr_wamp.rows": "what records and other values inherit their methods from",
}


def test_the_order_of_pages_names_every_page_once() -> None:
    named = [page for pages in NAV.values() for page in pages]
    there = [str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.glob("**/*.md")]
    assert sorted([*named, "index"]) == sorted(there), "the order is NAV in docs/conf.py"


def test_the_order_of_pages_is_tutorial_how_to_reference_explanation_glossary() -> None:
    rooms = [page.partition("/")[0] for pages in NAV.values() for page in pages]
    assert list(dict.fromkeys(rooms)) == ["tutorial", "how-to", "reference", "explanation", "glossary"]


def test_the_first_page_leads_to_every_other() -> None:
    links = set(re.findall(r"\]\(([\w/-]+)\.md\)", (DOCS / "index.md").read_text(encoding="utf-8")))
    assert not sorted({page for pages in NAV.values() for page in pages} - links), "docs/index.md does not lead there"


# --- public names ------------------------------------------------------------------------------


def test_the_reference_lists_the_public_packages() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \|", (DOCS / "reference/api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == list(PUBLIC) == list(dict.fromkeys(PUBLIC)), "each once, in the order of PUBLIC in docs/conf.py"


@pytest.mark.parametrize("package", PUBLIC)
def test_the_page_of_a_package_has_every_public_name(package: str) -> None:
    described = re.findall(r"^\.\. (?:auto\w+|py:\w+):: ([\w.]+)$", CONF["api_page"](package, {}), re.MULTILINE)
    names = getattr(import_module(package), "__all__", None) or CONF["public_names"](package)
    assert described[1:] == [f"{package}.{name}" for name in names]


def test_every_package_with_names_is_public_or_internal() -> None:
    packages = [name for _, name, is_package in pkgutil.walk_packages(timbr_wamp.__path__, "timbr_wamp.") if is_package]
    named = {name for name in packages if getattr(import_module(name), "__all__", ())}
    assert sorted(named - set(PUBLIC) - set(INTERNAL)) == [], "PUBLIC of docs/conf.py, or INTERNAL above"


def imports_of(page: Path) -> set[tuple[str, str]]:
    """Return ``(module, name)`` of what a page's Python imports from the package."""
    found = set()
    for text in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("timbr_wamp"):
                found |= {(str(node.module), alias.name) for alias in node.names}
    return found


@pytest.mark.parametrize("page", sorted(DOCS.glob("**/*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page_imports_public_names_only(page: Path) -> None:
    public = {(package, name) for package in PUBLIC for name in CONF["public_names"](package)}
    public |= {tuple(package.rsplit(".", 1)) for package in PUBLIC if "." in package}
    assert not sorted(imports_of(page) - public)


# --- doctests ----------------------------------------------------------------------------------

MODULES = sorted(name for _, name, _ in pkgutil.walk_packages(timbr_wamp.__path__, "timbr_wamp."))


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_doctests(name: str) -> None:
    outcome = doctest.testmod(import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert outcome.failed == 0


def promises() -> list[str]:
    """The points of the page about security, except of what is not protected."""
    text = (ROOT / "docs" / "explanation" / "security.md").read_text(encoding="utf-8")
    return re.findall(r"^- .+(?:\n  .+)*", text.partition("## What is not protected")[0], re.MULTILINE)


def test_each_promise_about_security_names_the_tests_that_attack_it() -> None:
    assert len(promises()) > 20
    wrong = []
    for promise in promises():
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", promise)
        if not named:
            wrong.append(promise)
        for file, name in named:
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            functions = (ast.FunctionDef, ast.AsyncFunctionDef)
            if not any(isinstance(node, functions) and node.name == name for node in ast.walk(tree)):
                wrong.append(f"{file}::{name} does not exist")
    assert not wrong
