"""How `make docs` makes a web site of these pages, with Sphinx: order, search, and a reference of every public name.

The pages are plain Markdown, to be read anywhere; what only the site has is added here while it is built.
"""

from __future__ import annotations

import builtins
import inspect
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from sphinx.addnodes import pending_xref
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.nodes import make_refnode

import timbr_wamp
from timbr_wamp.machine.removed import Removed

#: The pages in the order in which a reader asks: caption → pages of ``docs``, without their suffix.
NAV = {
    "Learn it": [
        "tutorial/first-machine",
        "tutorial/introspection",
        "tutorial/mend-and-recover",
        "tutorial/from-anywhere",
    ],
    "How to: functions in slots": [
        "how-to/call-a-web-api",
        "how-to/use-a-model",
        "how-to/keep-a-state",
        "how-to/write-object-and-async-slots",
        "how-to/run-slots-in-threads",
        "how-to/run-slots-in-processes",
        "how-to/feed-one-machine-from-another",
    ],
    "How to: data in and out": [
        "how-to/tables-and-dataframes",
        "how-to/when-the-queue-is-full",
        "how-to/restart-a-source",
        "how-to/read-every-record",
    ],
    "How to: failures": [
        "how-to/mend-a-slot-live",
        "how-to/try-a-change",
        "how-to/choose-a-policy",
        "how-to/debug-a-pipeline",
        "how-to/what-is-left-after-a-restart",
    ],
    "How to: run it for others": [
        "how-to/share-a-notebook",
        "how-to/use-it-in-your-jupyter",
        "how-to/run-the-router",
        "how-to/secure-a-realm",
        "how-to/restart-and-adopt-kernels",
        "how-to/run-headless",
        "how-to/use-from-javascript",
        "how-to/debug-a-bridge",
    ],
    "How to: bring what I have": [
        "how-to/from-timbr-machine",
        "how-to/from-juno-magic",
        "how-to/from-streamz",
    ],
    "Look it up": [
        "reference/machine",
        "reference/hooks-and-events",
        "reference/client",
        "reference/api",
        "reference/magics",
        "reference/cli",
        "reference/faces",
        "reference/streams",
        "reference/codecs",
        "reference/configuration",
        "reference/projects",
        "reference/wire",
    ],
    "Understand it": [
        "explanation/where-a-machine-lives",
        "explanation/architecture",
        "explanation/delivery",
        "explanation/security",
        "explanation/limits",
        "explanation/figures",
        "explanation/decisions",
        "explanation/dependencies",
    ],
    "Words": ["glossary"],
}

#: What users may import from. A name that several of them have is described under the first.
PUBLIC = (
    "timbr_wamp",
    "timbr_wamp.machine",
    "timbr_wamp.client",
    "timbr_wamp.contract",
    "timbr_wamp.store",
    "timbr_wamp.streams",
    "timbr_wamp.errors",
    "timbr_wamp.tables",
    "timbr_wamp.display",
    "timbr_wamp.codecs",
    "timbr_wamp.values",
    "timbr_wamp.projects",
    "timbr_wamp.settings",
    "timbr_wamp.router",
    "timbr_wamp.examples",
)

#: Characters of a constant's value that are shown.
LONGEST_VALUE = 300
API_PAGES = Path(__file__).parent / "reference" / "api"

# --- Sphinx's settings -------------------------------------------------------------------------

project = "timbr_wamp"
author = "the authors of timbr_wamp"
release = timbr_wamp.__version__
root_doc = "index"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"timbr_wamp {release}"
html_show_copyright = html_show_sphinx = html_copy_source = False
myst_heading_anchors = 4
default_role = "py:obj"  # `name` in a docstring is a link if it is a public name
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "special-members": "__call__, __getitem__, __setitem__, __delitem__",
}


def public_names(package: str) -> list[str]:
    """Return the public names of a package: its ``__all__``; of one without, the classes that it defines."""
    module = import_module(package)
    classes = [name for name, value in vars(module).items() if inspect.isclass(value) and value.__module__ == package]
    return list(getattr(module, "__all__", classes))


def comment(package: str, constant: str) -> str:
    """Return the ``#:`` comment of a constant, which may be in any module of the package."""
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        text = ModuleAnalyzer.for_module(name).find_attr_docs().get(("", constant))
        if text is not None:
            return " ".join(text)
    return ""


def entry(full: str, value: object) -> list[str]:
    """Return the lines that describe a public name."""
    if inspect.isclass(value):
        outside = [base.__name__ for base in value.__mro__ if not base.__module__.startswith("timbr_wamp")]
        inherits = len(value.__mro__) > len(outside) + 1
        options = [f"   :inherited-members: {', '.join(outside)}"] if inherits else []
        if issubclass(value, BaseException):
            options = ["   :show-inheritance:"]
        return [f".. autoclass:: {full}", *options, ""]
    if inspect.isroutine(value):
        return [f".. autofunction:: {full}", ""]
    text = repr(value)
    shown = [f"   :value: {text}"] if len(text) <= LONGEST_VALUE and "<" not in text else []
    return [f".. py:data:: {full}", *shown, "", f"   {comment(*full.rsplit('.', 1))}", ""]


def api_page(package: str, described: dict[int, str]) -> str:
    """Return the page of a package; ``described`` says where objects are described already, and is filled."""
    lines = [package, "=" * len(package), "", f".. automodule:: {package}", "   :no-members:", ""]
    for name in public_names(package):
        value, full = getattr(import_module(package), name), f"{package}.{name}"
        first = described.setdefault(id(value), full) if inspect.isclass(value) or inspect.isroutine(value) else full
        if first == full:
            lines += entry(full, value)
        else:
            lines += [f".. py:data:: {full}", "   :no-index-entry:", "", f"   Another name of :py:obj:`{first}`.", ""]
    return "\n".join(lines)


def write_api_pages(*_: object) -> None:
    """Write a page for each public package, and remove those of others."""
    API_PAGES.mkdir(exist_ok=True)
    for page in API_PAGES.glob("*.rst"):
        if page.stem not in PUBLIC:
            page.unlink()
    described: dict[int, str] = {}
    for package in PUBLIC:
        page, text = API_PAGES / f"{package}.rst", api_page(package, described)
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def toctree(pages: list[str], *options: str) -> str:
    return "\n".join(["", "```{toctree}", *options, "", *pages, "```", ""])


def add_navigation(app: Any, name: str, source: list[str]) -> None:
    """Add the order of the pages to the first one, and the generated pages to the one about them."""
    if name == root_doc:
        for caption, pages in NAV.items():
            source[0] += toctree(pages, ":hidden:", f":caption: '{caption}'")
    elif name == "reference/api":
        source[0] += toctree([f"api/{package}" for package in PUBLIC])


def is_left_out(app: Any, what: str, name: str, value: object, skip: bool, options: object) -> bool | None:
    """Leave out names that were removed, and special methods of other packages; None: as Sphinx decides."""
    foreign = name.startswith("__") and not str(getattr(value, "__module__", "")).startswith("timbr_wamp")
    return True if isinstance(value, Removed) or foreign else None


def link_by_last_part(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Link `connect_async` in a docstring to the one public name that ends like that, wherever it is."""
    if node.get("reftype") != "obj":
        return None
    wanted = f".{node['reftarget']}"
    objects = env.domains.python_domain.objects.items()
    found = {(to.docname, to.node_id) for name, to in objects if name.endswith(wanted) and to.objtype != "data"}
    if len(found) != 1:
        return None
    ((page, target),) = found
    return make_refnode(app.builder, node["refdoc"], page, target, content, wanted[1:])


def leave_builtins_alone(app: Any, doctree: Any) -> None:
    """Make no links of `bytes` and the like: a field of that name may be somewhere."""
    for node in list(doctree.findall(pending_xref)):
        if node.get("refdomain") == "py" and hasattr(builtins, node["reftarget"]):
            node.replace_self(node.children)


def setup(app: Any) -> None:
    app.connect("builder-inited", write_api_pages)
    app.connect("source-read", add_navigation)
    app.connect("autodoc-skip-member", is_left_out)
    app.connect("doctree-read", leave_builtins_alone)
    app.connect("missing-reference", link_by_last_part)
