"""Every name that people meet is documented, and links in the documentation lead somewhere."""

from __future__ import annotations

import doctest
import pkgutil
import re
from importlib import import_module
from pathlib import Path

import click
import pytest

import timbr_wamp
from timbr_wamp.cli import main
from timbr_wamp.cli.reference import cli_reference, commands
from timbr_wamp.contract.api import PROCEDURES, TOPICS
from timbr_wamp.contract.exports import uri_text
from timbr_wamp.errors import ERRORS
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_in_the_documentation_compiles(page: Path) -> None:
    for snippet in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        if not re.search(r"^\s*[%!]|^>>>", snippet, re.MULTILINE):  # IPython's own lines are no Python
            compile(snippet, str(page), "exec")


MODULES = sorted(name for _, name, _ in pkgutil.walk_packages(timbr_wamp.__path__, "timbr_wamp."))


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_doctests(name: str) -> None:
    outcome = doctest.testmod(import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert outcome.failed == 0
