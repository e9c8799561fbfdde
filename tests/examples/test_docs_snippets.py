"""What the documentation shows is what happens: its Python runs, prints what it says, its commands exist.

Python blocks of a page run one after the other in one namespace. A ``text`` block right below one is
what it prints; ``…`` in it stands for anything. A comment ``<!-- not run: reason -->`` right above a
block leaves it out. The working folder is an empty one, outside of the clone. A page that connects finds
a router with the demo's kernel. Links, and that all Python compiles, are checked by `tests/test_docs.py`.
"""

from __future__ import annotations

import ast
import configparser
import contextlib
import doctest
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
import nbformat
import pytest
from nbclient import NotebookClient
from wait_kit import wait_until

from timbr_wamp import plugins, runtime
from timbr_wamp.cli import main
from timbr_wamp.cli.local_services import POLICY as SERVICES
from timbr_wamp.cli.up import startup_file
from timbr_wamp.client import AsyncClient, Client, RemoteKernel, RemoteMachine, connect
from timbr_wamp.client.async_client import AsyncKernel
from timbr_wamp.client.async_machine import AsyncMachine
from timbr_wamp.components.kernel_supervisor import POLICY as KERNELS
from timbr_wamp.contract import (
    PAYLOAD_LIMIT_BYTES,
    ROW_LIMIT_BYTES,
    ErrorGroup,
    EventKind,
    Policy,
    PolicyCounts,
    Progress,
    SlotInfo,
    SourceOptions,
    Status,
    Verdict,
)
from timbr_wamp.contract.structs import Backpressure, OnExhausted
from timbr_wamp.dashboard import page_dir
from timbr_wamp.machine import Machine
from timbr_wamp.machine.events import hooks
from timbr_wamp.machine.removed import STOP_ARGUMENTS
from timbr_wamp.processes import RestartPolicy
from timbr_wamp.router import Router, free_port
from timbr_wamp.settings import ENV_PREFIX, NAMES, Settings, load_settings
from timbr_wamp.values import VALUE_LIMIT_BYTES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [ROOT / "README.md", *(page for room in ("tutorial", "how-to", "reference") for page in DOCS.glob(f"{room}/*.md"))]
)
CONSOLE_PAGES = sorted({*PAGES, *DOCS.glob("**/*.md"), *ROOT.glob("*.md")})

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NOT_RUN = re.compile(r"<!-- not run: .+? -->\s*\Z")
_IPYTHON = re.compile(r"^\s*[%!]", re.MULTILINE)
#: The host is there within this.
HOST_START_S = 20.0
#: A cell of a notebook ends within this.
CELL_LIMIT_S = 60


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    #: Line of the page that its first line is, from 1.
    line: int
    run: bool
    #: What the page says it prints; None: nothing is said.
    prints: str | None = None


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, each with the output that stands right below it."""
    text = page.read_text(encoding="utf-8")
    fences = list(_FENCE.finditer(text))
    blocks = []
    for fence, after in zip_longest(fences, fences[1:]):
        is_output = after is not None and after[1] == "text" and not text[fence.end() : after.start()].strip()
        blocks.append(
            Block(
                fence[1],
                fence[2],
                text.count("\n", 0, fence.start()) + 2,
                not _NOT_RUN.search(text[: fence.start()]),
                after[2] if is_output else None,
            )
        )
    return blocks


def check_page(page: Path) -> None:
    """Run a page's Python in order, in one namespace; compare what it prints, close what it leaves open."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    with contextlib.ExitStack() as opened:
        for block in python_of(page):
            printed = io.StringIO()
            # blank lines first: tracebacks and `inspect.getsource` then find the page's own lines
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            try:
                with contextlib.redirect_stdout(printed):
                    exec(code, namespace)
            finally:
                for value in namespace.values():
                    if isinstance(value, (Machine, Client)):
                        opened.callback(value.close)
            if block.prints is not None:
                check_output(block.prints, printed.getvalue(), f"{page}:{block.line}")


def python_of(page: Path) -> list[Block]:
    """Return the Python blocks of a page that are to run; IPython's own lines are no Python."""
    blocks = [block for block in blocks_of(page) if block.language == "python" and block.run]
    return [block for block in blocks if not _IPYTHON.search(block.text)]


def check_output(wanted: str, got: str, where: str) -> None:
    """Fail unless the output is what the page says."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(wanted.replace("…", "..."), got, flags), (
        f"{where} prints\n{got}\nbut the page says\n{wanted}"
    )


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def connects(page: Path) -> bool:
    wanted = re.compile(r"timbr_wamp\.connect\(|^%(wamp|juno) (connect|share)", re.MULTILINE)
    return any(wanted.search(block.text) for block in blocks_of(page) if block.run)


# --- Python ------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in PAGES if not connects(page)], ids=name_of)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_page(page)


@pytest.fixture(scope="module")
def settings(crossbar: Path) -> Iterator[Settings]:
    """Those of a node of their own, which `connect()` finds: pages list all kernels that there are."""
    folder = Path(tempfile.mkdtemp(prefix="tw", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"{ENV_PREFIX}RUNTIME_DIR", str(folder / "run"))
        patch.setenv(f"{ENV_PREFIX}DATA_DIR", str(folder / "data"))
        yield load_settings()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def router(settings: Settings) -> Iterator[Router]:
    node = Router.start(settings, port=free_port(), page_dir=page_dir())
    yield node
    node.stop()


@pytest.fixture(scope="module")
def host(router: Router, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A host on the session's router, as `timbr-wamp up` starts one."""
    log = tmp_path_factory.mktemp("host") / "host.log"
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "timbr_wamp", "host"], stdout=file, stderr=file)
    path = runtime.host_file(settings.runtime_dir, router.unix_url)
    try:
        wait_until(lambda: path.exists() or process.poll() is not None, "the host is there", HOST_START_S)
        assert path.exists(), log.read_text()
        yield
    finally:
        process.terminate()
        process.wait(HOST_START_S)


@pytest.fixture(scope="module")
def demo(host: None, settings: Settings) -> Iterator[RemoteKernel]:
    """The demo's kernel, on earthquakes."""
    with connect(settings=settings) as client:
        kernel = client.start_kernel(name="demo", startup=str(startup_file("earthquakes")))
        yield kernel
        kernel.shutdown()


@pytest.fixture
def unchanged_demo(demo: RemoteKernel) -> Iterator[RemoteKernel]:
    """The demo's kernel; what a page changes in its slots is taken back after it."""
    machine = demo.machine()
    before = machine.status.revision
    yield demo
    machine.rollback(before)


@pytest.mark.integration
@pytest.mark.parametrize("page", [page for page in PAGES if connects(page)], ids=name_of)
def test_a_page_does_what_it_says_on_a_node(
    page: Path, unchanged_demo: RemoteKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check_page(page)


# --- notebooks ---------------------------------------------------------------------------------


def is_for_notebooks(page: Path) -> bool:
    """Tell whether a page is for notebooks: tutorial, how-to, README, or with IPython's own cells."""
    wanted = ("ipython",) if page.parent.name == "reference" else ("ipython", "python")
    return any(block.language in wanted for block in blocks_of(page) if block.run)


def check_notebook(page: Path, folder: Path) -> None:
    """Make a notebook of a page's cells and do what "Run All" does, in a kernel with this working folder.

    Raises:
        CellExecutionError: a cell failed.
    """
    blocks = [block for block in blocks_of(page) if block.language in ("python", "ipython") and block.run]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(block.text) for block in blocks])
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, kernel_name="python3", timeout=CELL_LIMIT_S, resources=resources).execute()
    for block, cell in zip(blocks, notebook.cells, strict=True):
        if block.prints is not None:
            check_output(block.prints, text_of(cell), f"{page}:{block.line} in a notebook")


def text_of(cell: nbformat.NotebookNode) -> str:
    """Return what a cell printed and what its results look like as text."""
    outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    return "".join(text if text.endswith("\n") else f"{text}\n" for text in texts)


@pytest.mark.integration
@pytest.mark.parametrize("page", [page for page in PAGES if is_for_notebooks(page) and not connects(page)], ids=name_of)
def test_a_page_runs_as_a_notebook(page: Path, tmp_path: Path) -> None:
    check_notebook(page, tmp_path)


@pytest.mark.integration
@pytest.mark.parametrize("page", [page for page in PAGES if is_for_notebooks(page) and connects(page)], ids=name_of)
@pytest.mark.usefixtures("unchanged_demo")
def test_a_page_runs_as_a_notebook_on_a_node(page: Path, tmp_path: Path) -> None:
    check_notebook(page, tmp_path)


# --- JavaScript --------------------------------------------------------------------------------


@pytest.fixture
def beside_packages(node_packages: Path) -> Iterator[Path]:
    """A folder in which scripts find the packages of ``tests/node``, as Node.js looks for them."""
    folder = Path(tempfile.mkdtemp(dir=node_packages, prefix="tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.integration
@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_the_javascript_page_runs_in_node(
    demo: RemoteKernel, router: Router, beside_packages: Path, serializer: str
) -> None:
    page = DOCS / "how-to" / "use-from-javascript.md"
    scripts = [block for block in blocks_of(page) if block.language == "js" and block.run]
    assert len(scripts) >= 2
    for number, block in enumerate(scripts):
        script = beside_packages / f"script{number}.mjs"
        script.write_text(block.text, encoding="utf-8")
        done = subprocess.run(
            ["node", script, router.url, demo.id, serializer],
            env={**os.environ, "TIMBR_WAMP_TOKEN": router.admin_token},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        if block.prints is not None:
            check_output(block.prints, done.stdout, f"{page}:{block.line}")


@pytest.mark.parametrize(
    ("kernel_id", "token", "said"),
    [
        ("lab_0123456789ab", None, "wamp.error.no_such_procedure"),
        ("lab_0123456789ab", "admin.wrong", "wamp.error.not_authorized"),
    ],
)
@pytest.mark.integration
def test_the_javascript_page_says_what_is_wrong(
    router: Router, beside_packages: Path, kernel_id: str, token: str | None, said: str
) -> None:
    page = DOCS / "how-to" / "use-from-javascript.md"
    for number, block in enumerate(block for block in blocks_of(page) if block.language == "js" and block.run):
        script = beside_packages / f"wrong{number}.mjs"
        script.write_text(block.text, encoding="utf-8")
        done = subprocess.run(
            ["node", script, router.url, kernel_id],
            env={**os.environ, "TIMBR_WAMP_TOKEN": token or router.admin_token},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        assert said in done.stderr
        assert "UnhandledPromise" not in done.stderr


# --- commands ----------------------------------------------------------------------------------


def commands_in(page: Path) -> list[str]:
    """Return the commands after ``$`` in console blocks, and all of sh blocks, continued lines joined."""
    commands = []
    for block in blocks_of(page):
        lines = block.text.replace("\\\n", " ").splitlines()
        if block.language == "console":
            commands += [line[2:] for line in lines if line.startswith("$ ")]
        elif block.language == "sh":
            commands += [line for line in lines if line.strip()]
    return commands


def words_of(command: str) -> list[str]:
    """Return the words of the first program of a shell line, without variables set for it.

    >>> words_of("A=1 timbr-wamp put demo '{}' | cat")
    ['timbr-wamp', 'put', 'demo', '{}']
    """
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if set(word) <= set("|&;<>()"):
            break
        if words or not re.match(r"[A-Z_]+=", word):
            words.append(word)
    return words


@pytest.mark.parametrize("page", [page for page in CONSOLE_PAGES if commands_in(page)], ids=name_of)
def test_commands_exist_with_their_options(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line in commands_in(page):
        program, *words = words_of(line)
        if program == "make":
            assert {word for word in words if "=" not in word} <= targets, line
        elif program == "wampify":
            parse(["bridge", *words], line)
        elif program == "timbr-wamp":
            parse(words, line)
        elif program == ".venv/bin/uv":
            assert "\nuv==" in "\n" + (ROOT / "locks" / "uv.txt").read_text(encoding="utf-8"), line
            assert words[:2] == ["pip", "install"], line
        elif program == ".venv/bin/python":
            assert words[0] == "-m", line
            assert find_spec(words[1]) is not None, line


def parse(words: list[str], line: str) -> None:
    """Let click read a command line, without doing what it says."""
    command: click.Command = main
    while isinstance(command, click.Group):
        while words and words[0].startswith("-"):
            words = words[1:]  # the group's own flags
        found = command.commands.get(words[0]) if words else None
        assert found is not None, f"no such command: {line}"
        command, words = found, words[1:]
    try:
        command.make_context(command.name, list(words))
    except click.exceptions.Exit:
        return  # --help
    except click.UsageError as error:
        pytest.fail(f"{line}: {error.format_message()}")


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Yield the modules of the package: path and syntax tree."""
    package = ROOT / "timbr_wamp"
    for path in sorted(package.rglob("*.py")):
        yield str(path.relative_to(package)), ast.parse(path.read_text(encoding="utf-8"))


def test_commands_that_the_code_prints_exist_with_their_options() -> None:
    """They are made by `command_line`, so that they can be pasted; test_terminal.py types some of them."""
    found = []
    for path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "command_line":
                words = [str(word.value) if isinstance(word, ast.Constant) else "." for word in node.args]
                parse(words, f"{path}:{node.lineno}")
                found.append(words)
    assert ["up"] in found
    assert len(found) > 12


#: Texts for files, which are read by others than those who type.
NOT_TYPED = {"cli/reference.py", "projects/saving.py"}


def test_no_command_is_printed_without_being_made_for_pasting() -> None:
    command = re.compile(rf"timbr-wamp (?:{'|'.join(map(re.escape, main.commands))})\b")
    wrong = []
    for path, tree in sources():
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        wrong += [
            f"{path}:{node.lineno}: {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and command.search(node.value)
            if id(node) not in docs and path not in NOT_TYPED
        ]
    assert not wrong, "use timbr_wamp.command_line"


# --- names -------------------------------------------------------------------------------------


def test_every_setting_is_in_the_configuration_reference() -> None:
    page = (DOCS / "reference" / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)`", page, re.MULTILINE)
    assert rows == [(name, ENV_PREFIX + name.upper()) for name in NAMES]


@pytest.mark.parametrize(
    ("page", "documented"),
    [("machine.md", Machine), ("client.md", Client), ("client.md", RemoteKernel), ("client.md", RemoteMachine)],
)
def test_every_verb_is_in_its_reference(page: str, documented: type) -> None:
    words = words_in(f"reference/{page}")
    verbs = [name for name in dir(documented) if not name.startswith("_") and hasattr(documented, name)]
    assert not sorted(set(verbs) - words)


def test_every_removed_name_is_on_the_page_about_timbr_machine() -> None:
    removed = {name for name in dir(Machine) if not name.startswith("_") and not hasattr(Machine, name)}
    assert {"active", "print_status", "load_machine"} <= removed
    assert not sorted((removed | set(STOP_ARGUMENTS)) - words_in("how-to/from-timbr-machine.md"))


def words_in(page: str) -> set[str]:
    """Return the words of a page that stand as code in its text."""
    text = _FENCE.sub("", (DOCS / page).read_text(encoding="utf-8"))
    return set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", text))))


def test_every_point_event_and_handler_is_in_the_reference() -> None:
    words = words_in("reference/hooks-and-events.md")
    stages = {f"{when}_{word}" for when in ("pre", "post") for word in words}  # `pre_X` for `start`, `pause` …
    wanted = {*hooks.POINTS, *get_args(EventKind), *plugins.names(plugins.HANDLERS)}
    assert sorted(wanted - words - stages) == []


@pytest.mark.parametrize("struct", [Policy, PolicyCounts, SourceOptions, Progress, Status, SlotInfo, ErrorGroup])
def test_every_field_of_a_machines_structs_is_in_the_reference(struct: type[msgspec.Struct]) -> None:
    assert sorted(set(struct.__struct_fields__) - words_in("reference/machine.md")) == []


def test_every_verdict_policy_and_executor_is_in_the_reference() -> None:
    wanted = {*get_args(Verdict), *get_args(Backpressure), *get_args(OnExhausted), *plugins.names(plugins.EXECUTORS)}
    assert sorted(wanted - words_in("reference/machine.md")) == []


@pytest.mark.parametrize(
    ("face", "twin", "renamed"),
    [
        (Client, AsyncClient, {"wait_connected"}),
        (RemoteKernel, AsyncKernel, set()),
        (RemoteMachine, AsyncMachine, {"source", "running", "handler", "plot", "display_status"}),
    ],
)
def test_every_verb_has_the_asynchronous_twin_that_the_reference_promises(
    face: type, twin: type, renamed: set[str]
) -> None:
    verbs = {name for name in vars(face) if not name.startswith("_")} - {"url", "authid", "role", "connected"}
    assert sorted(verbs - renamed - set(dir(twin)) - {"id", "name"}) == []


def test_every_dependency_has_its_reason() -> None:
    text = (DOCS / "explanation" / "dependencies.md").read_text(encoding="utf-8")
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lists = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    ours = [match[0] for lines in lists for line in lines.splitlines() if (match := re.match(r"[A-Za-z][\w.-]*", line))]
    package = json.loads((ROOT / "frontend" / "package.json").read_text(encoding="utf-8"))
    missing = [
        name for name in (*ours, *package["dependencies"], *package["devDependencies"]) if f"`{name}`" not in text
    ]
    assert not missing


def modules_below(path: Path) -> list[Path]:
    return [path] if path.suffix else sorted(path.rglob("*.py"))


def constant(name: str, room: str = "") -> Any:
    """Return a constant of the package by its name, wherever it is; ``room`` (a path) tells apart equal names."""
    folder = ROOT / "timbr_wamp" / room
    pattern = re.compile(rf"^(?:\w+, )*{name}(?:, \w+)*(?:: \w+)? = ", re.MULTILINE)
    found = [path for path in modules_below(folder) if pattern.search(path.read_text(encoding="utf-8"))]
    modules = [import_module(".".join(path.relative_to(ROOT).with_suffix("").parts)) for path in found]
    values = {getattr(module, name) for module in modules}
    assert len(values) == 1, f"{name} is {values or 'nothing'} in {[module.__name__ for module in modules]}"
    return values.pop()


MIB, KIB = 1 << 20, 1 << 10


def numbers() -> dict[str, list[str]]:
    """Return what pages say, by the constants that decide it."""
    return {
        "reference/machine.md": [
            f"1 to {constant('STAGES_LIMIT')}",
            f"newest {constant('REVISIONS_KEPT')} are kept",
            f"newest {constant('RING_ROWS'):,} records (at most {constant('RING_BYTES') // MIB} MiB",
            f"{constant('ERRORS_KEPT'):,} failed messages and {constant('EVENTS_KEPT'):,} events",
            f"last {constant('KNOWN_OIDS'):,} given ones",
            f"one message in {constant('TIMED_EVERY')}",
            f"over {VALUE_LIMIT_BYTES // MIB} MiB",
            f"once, 1 to {constant('CONCURRENCY_LIMIT'):,};",
            f"attempt, 0 to {constant('RETRIES_LIMIT'):,};",
            f"at most {constant('ABANDONED_LIMIT')}, then calls",
        ],
        "reference/hooks-and-events.md": [
            f"{constant('GROUPS_KEPT')} groups",
            f"{constant('OPEN_KEPT'):,} open messages a group and {constant('OPEN_KEPT_IN_ALL'):,} in all",
            f"newest {constant('EVENTS_KEPT'):,} are kept",
        ],
        "tutorial/introspection.md": [
            f"after {constant('STALLED_S'):g} seconds",
            f"one message in {constant('TIMED_EVERY')} is timed",
        ],
        "explanation/limits.md": [
            f"newest {constant('RING_ROWS'):,} records ({constant('RING_BYTES') // MIB} MiB)",
            f"{constant('ERRORS_KEPT'):,} failed messages ({constant('ERRORS_BYTES') // MIB} MiB)",
            f"{constant('REVISIONS_KEPT')} revisions",
            f"no message was finished for {constant('STALLED_S'):g} s",
            f"At most {constant('STAGES_LIMIT')} slots",
            f"last {constant('KNOWN_OIDS'):,} that callers",
            f"{VALUE_LIMIT_BYTES // MIB} MiB of JSON",
            f"{ROW_LIMIT_BYTES // KIB} KiB of text",
            f"event | {PAYLOAD_LIMIT_BYTES // MIB} MiB",
            f"at most {constant('MESSAGES_LIMIT'):,} messages",
            f"At most {constant('WAITING')} calls wait",
            f"waits at most {constant('LONGEST_PUT_S'):g} s",
        ],
        "explanation/delivery.md": [
            f"above {constant('EVENTS_PER_S', 'machine'):g} records a second",
            f"last {constant('KNOWN_OIDS'):,} such oids",
            f"{constant('BUFFER_ROWS'):,} rows wait",
        ],
        "explanation/architecture.md": [
            f"at most {constant('BATCH_MESSAGES', 'machine/running/worker.py')}",
            f"at most {constant('RUNNING', 'machine/serving')} that run messages",
            f"{constant('LOOKING', 'machine/serving')} that read a journal",
            f"slots, at most {constant('POOL_THREADS')}",
        ],
        "explanation/figures.md": [f"one message in {constant('TIMED_EVERY')},"],
        "glossary.md": [f"was finished for {constant('STALLED_S'):g} seconds"],
        "how-to/run-slots-in-threads.md": [
            f"At most {constant('POOL_THREADS')} threads",
            f"At most {constant('ABANDONED_LIMIT')} such calls",
        ],
        "how-to/from-timbr-machine.md": [
            f"newest {constant('RING_ROWS'):,} records and {constant('ERRORS_KEPT'):,} failed messages",
        ],
        "how-to/read-every-record.md": [
            f"newest {constant('RING_ROWS'):,} records",
            f"over {ROW_LIMIT_BYTES // KIB} KiB",
        ],
        "how-to/restart-and-adopt-kernels.md": [
            f"at most {KERNELS.limit} times in {KERNELS.window_s:g} s",
            f"at most {RestartPolicy().limit} times in {RestartPolicy().window_s / 60:g} minutes",
            f"at most {SERVICES.limit} times each in {SERVICES.window_s / 60:g} minutes",
        ],
    }


def test_numbers_are_those_of_the_code() -> None:
    wrong = {}
    for page, wanted in numbers().items():
        text = " ".join((DOCS / page).read_text(encoding="utf-8").split())
        wrong[page] = [number for number in wanted if number not in text]
    assert not {page: missing for page, missing in wrong.items() if missing}
