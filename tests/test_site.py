"""The web site of the documentation: it has every page and every public name, and it builds without a warning."""

from __future__ import annotations

import ast
import pkgutil
import re
import runpy
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import timbr_wamp

ROOT = Path(__file__).parents[1]
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
}


def test_the_order_of_pages_names_every_page_once() -> None:
    named = [page for pages in NAV.values() for page in pages]
    there = [str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.glob("**/*.md")]
    assert sorted([*named, "index"]) == sorted(there)


def test_the_order_of_pages_is_tutorial_how_to_reference_explanation_glossary() -> None:
    rooms = [page.partition("/")[0] for pages in NAV.values() for page in pages]
    assert list(dict.fromkeys(rooms)) == ["tutorial", "how-to", "reference", "explanation", "glossary"]


def test_the_first_page_leads_to_every_other() -> None:
    links = set(re.findall(r"\]\(([\w/-]+)\.md\)", (DOCS / "index.md").read_text(encoding="utf-8")))
    assert not sorted({page for pages in NAV.values() for page in pages} - links)


# --- names -------------------------------------------------------------------------------------


def test_the_reference_lists_the_public_packages() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \|", (DOCS / "reference/api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == list(PUBLIC)


@pytest.mark.parametrize("package", PUBLIC)
def test_the_page_of_a_package_has_every_public_name(package: str) -> None:
    described = re.findall(r"^\.\. (?:auto\w+|py:\w+):: ([\w.]+)$", CONF["api_page"](package, {}), re.MULTILINE)
    names = getattr(import_module(package), "__all__", None) or CONF["public_names"](package)
    assert described[1:] == [f"{package}.{name}" for name in names]


def test_every_package_with_names_is_public_or_internal() -> None:
    packages = [name for _, name, is_package in pkgutil.walk_packages(timbr_wamp.__path__, "timbr_wamp.") if is_package]
    named = {name for name in packages if getattr(import_module(name), "__all__", ())}
    assert sorted(named - set(PUBLIC) - set(INTERNAL)) == []


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


# --- the whole ---------------------------------------------------------------------------------


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")  # generated pages are written beside the others
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--builder", "dummy", "docs", "built"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
