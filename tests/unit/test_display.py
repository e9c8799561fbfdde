"""Live cards and progress bars: when they poll, draw and end, and that they leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
import termios
import threading
from collections.abc import Callable, Coroutine, Iterator
from io import StringIO
from typing import Any

import pytest

from timbr_wamp.client import RemoteMachine
from timbr_wamp.contract import Progress, SlotInfo, Status
from timbr_wamp.display import LiveStatus, bars, display_status, progress_bar, screens, show_progress
from timbr_wamp.display import live_status as live
from timbr_wamp.errors import ConnectionLost, InvalidArgument, PluginNotInstalled

LIMIT_S = 5.0
TICK_S = 0.005


class Drawn:
    """A screen that keeps what is drawn on it, and can be waited for."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.htmls: list[str] = []
        self.threads: set[str] = set()
        self._changed = threading.Condition()

    def draw(self, html: str, text: str) -> None:
        with self._changed:
            self.texts.append(text)
            self.htmls.append(html)
            self.threads.add(threading.current_thread().name)
            self._changed.notify_all()

    def wait_for(self, text: str) -> None:
        """Wait until a card with that text is drawn."""
        with self._changed:
            came = self._changed.wait_for(lambda: any(text in one for one in self.texts), LIMIT_S)
        assert came, f"{text!r} was not drawn, but {self.texts[-1:]}"


class Counting:
    """A machine's status that counts how often it was asked for; the test changes it."""

    def __init__(self, **fields: Any) -> None:
        self.fields: dict[str, Any] = {"name": "m", "run": "r", "state": "running", "running": True, **fields}
        self.asked = 0
        self.error: Exception | None = None
        self._asked = threading.Condition()

    def __call__(self) -> Status:
        with self._asked:
            self.asked += 1
            self._asked.notify_all()
        if self.error is not None:
            raise self.error
        return Status(**{"time": 1e9 + self.asked, "uptime_s": float(self.asked), **self.fields})

    def wait_until_asked(self, more: int) -> None:
        """Wait for further calls."""
        with self._asked:
            wanted = self.asked + more
            assert self._asked.wait_for(lambda: self.asked >= wanted, LIMIT_S), "nobody asked"


@pytest.fixture
def screen() -> Drawn:
    return Drawn()


@pytest.fixture
def follow(screen: Drawn, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LiveStatus]]:
    """Follow a status on `screen`; ended at the end of the test."""
    monkeypatch.setattr(live, "REST_INTERVAL_S", TICK_S)
    made: list[LiveStatus] = []

    def start(status: Counting, **options: Any) -> LiveStatus:
        card = LiveStatus(status, screen, interval_s=TICK_S, **options)
        made.append(card)
        card.start()
        return card

    yield start
    for card in made:
        card.stop()
        assert not card.running


# --- live status -------------------------------------------------------------------------------


def test_a_card_follows_in_a_thread_of_its_own_until_it_is_stopped(follow, screen) -> None:
    status = Counting()
    card = follow(status)
    screen.wait_for("up 0 s" if status.asked == 0 else "up 1 s")
    status.fields["processed"] = 31
    screen.wait_for("processed    31")
    assert card.running
    assert "updating" in repr(card)
    status.fields["processed"] = 32
    card.stop()
    asked, drawn = status.asked, len(screen.texts)
    assert not card.running
    assert "processed    32" in screen.texts[-1], "the last card is of the end"
    assert "no longer updated; as of 2001-09-09" in screen.texts[-1]
    assert "no longer updated" in screen.htmls[-1]
    card.stop()
    assert (status.asked, len(screen.texts)) == (asked, drawn)
    assert screen.threads == {"timbr-live-status"}


def test_a_machine_at_rest_is_asked_but_not_drawn_again_until_it_starts(follow, screen) -> None:
    status = Counting(state="idle", running=False)
    follow(status)
    screen.wait_for("● idle")
    status.wait_until_asked(5)
    assert len(screen.texts) == 1
    status.fields |= {"state": "running", "running": True}
    screen.wait_for("● running")


def test_a_card_ends_when_its_machine_was_closed(follow, screen) -> None:
    status, closed = Counting(state="stopped"), threading.Event()
    card = follow(status, ended=closed.is_set)
    screen.wait_for("● stopped")
    assert not card.wait(0)
    closed.set()
    assert card.wait(LIMIT_S)
    assert "no longer updated" in screen.texts[-1]


def test_a_card_ends_after_its_duration(follow, screen) -> None:
    now = [100.0]
    status = Counting()
    card = follow(status, duration_s=10.0, clock=lambda: now[0])
    status.wait_until_asked(3)
    assert card.running
    now[0] = 110.0
    assert card.wait(LIMIT_S)


def test_a_card_shows_since_when_updates_are_missing_and_continues(follow, screen) -> None:
    status = Counting()
    card = follow(status)
    status.wait_until_asked(1)
    status.error = ConnectionError("the link <is> down")
    screen.wait_for("no update since 2001-09-09")
    screen.wait_for("ConnectionError: the link <is> down")
    assert not any("<is>" in html for html in screen.htmls)
    status.error = None
    status.fields["processed"] = 32
    screen.wait_for("processed    32")
    assert card.running


def test_a_card_without_updates_for_long_ends(follow, screen) -> None:
    status = Counting()
    status.error = ConnectionError("gone")
    card = follow(status)
    assert card.wait(LIMIT_S)
    assert status.asked == live.FAILURE_LIMIT
    assert screen.texts == []


def test_a_card_whose_screen_fails_ends(screen) -> None:
    class Gone:
        def draw(self, html: str, text: str) -> None:
            raise OSError("closed")

    card = LiveStatus(Counting(), Gone(), interval_s=TICK_S)
    card.start()
    assert card.wait(LIMIT_S)


@pytest.mark.parametrize("interval_s", [0, -1, float("nan")])
def test_an_interval_must_be_above_0(interval_s: float, screen: Drawn) -> None:
    with pytest.raises(InvalidArgument, match="interval_s"):
        LiveStatus(Counting(), screen, interval_s=interval_s)
    with pytest.raises(InvalidArgument, match="interval_s"):
        show_progress(lambda: Progress(done=0), interval_s=interval_s)


def test_the_number_of_updated_cards_is_bounded(follow) -> None:
    cards = [follow(Counting()) for _ in range(screens.MAX_LIVE + 2)]
    for card in cards:
        screens._remember(card)
    assert [card.running for card in cards] == [False, False] + [True] * screens.MAX_LIVE


def test_an_output_that_nobody_watches_gets_one_card(capsys: pytest.CaptureFixture[str]) -> None:
    status, file = Counting(processed=31), StringIO()
    card = display_status(status, file=file)
    assert file.getvalue().count("processed    31") == 1
    assert not card.running
    assert status.asked == 1
    display_status(status)
    assert "processed    31" in capsys.readouterr().out


def test_an_error_of_the_first_poll_is_raised() -> None:
    status = Counting()
    status.error = ConnectionError("no link")
    with pytest.raises(ConnectionError, match="no link"):
        display_status(status, file=StringIO())


class Terminal:
    """A pseudo terminal: a file to write to, and what was written."""

    def __init__(self) -> None:
        self._reader, writer = pty.openpty()
        termios.tcsetwinsize(writer, (24, 100))
        self.file = os.fdopen(writer, "w")
        self._read: list[bytes] = []
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        while True:
            try:
                chunk = os.read(self._reader, 4096)
            except OSError:  # the other side was closed
                return
            if not chunk:
                return
            self._read.append(chunk)

    def text(self) -> str:
        """Close it, and return all that was written."""
        self.file.close()
        self._thread.join(LIMIT_S)
        os.close(self._reader)
        return b"".join(self._read).decode()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


def test_a_terminal_shows_the_card_until_the_machine_rests(terminal: Terminal) -> None:
    status = Counting(processed=1)

    def ask() -> Status:
        if status.asked == 3:
            status.fields |= {"state": "stopped", "running": False, "processed": 2}
        return status()

    card = display_status(ask, interval_s=TICK_S, file=terminal.file)
    assert not card.running
    text = terminal.text()
    assert "processed    1" in text
    assert "processed    2" in text
    assert text.rindex(SHOW_CURSOR) > text.rindex(HIDE_CURSOR)


def test_ctrl_c_ends_the_card_on_a_terminal_and_nothing_else(terminal: Terminal) -> None:
    status = Counting()

    def ask() -> Status:
        if status.asked == 3:
            signal.raise_signal(signal.SIGINT)
        return status()

    card = display_status(ask, interval_s=TICK_S, file=terminal.file)
    assert not card.running
    assert SHOW_CURSOR in terminal.text()


class SharedConnection:
    """Stands in for the connection of a remote machine; answers locally."""

    def __init__(self, status: Counting) -> None:
        self.status, self.name = status, "far"

    def wait(self, question: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
        return asyncio.run(question(*args))

    async def _call(self, kind: object, name: str, *args: object) -> Any:
        if name == "status":
            return self.status()
        slots = [SlotInfo(slot=0, identity=False, function="app.clean", values=1), SlotInfo(slot=1)]
        return {"slots": slots, "errors": []}[name]


def test_a_remote_machine_shows_its_card_and_follows_itself(capsys: pytest.CaptureFixture[str]) -> None:
    status = Counting(processed=31)
    link = SharedConnection(status)
    machine = RemoteMachine(link, link)  # type: ignore[arg-type]
    html = machine._repr_html_()
    assert "<b>running</b>" in html
    assert "app.clean" in html
    machine.display_status()
    assert "processed    31" in capsys.readouterr().out


def test_a_remote_machine_that_cannot_be_asked_says_why() -> None:
    status = Counting()
    status.error = ConnectionLost("status", "<closed>")
    link = SharedConnection(status)
    html = RemoteMachine(link, link)._repr_html_()  # type: ignore[arg-type]
    assert "ConnectionLost: the connection dropped during status (&lt;closed&gt;)" in html


# --- progress ----------------------------------------------------------------------------------


def steps(total: int | None, *, stops_at: int | None = None) -> Callable[[], Progress]:
    """Return a progress that advances by one with each call."""
    done = iter(range(1000))

    def ask() -> Progress:
        now = next(done)
        percent = None if total is None else 100.0 * now / total
        state = "stopped" if now == stops_at else "running"
        return Progress(done=now, total=total, percentage=percent, rate_per_s=5.0, state=state, complete=now == total)

    return ask


@pytest.mark.parametrize("bar", ["none", "tqdm", "rich", "text"])
def test_progress_is_followed_until_it_is_complete(bar: bars.BarKind) -> None:
    file = StringIO()
    last = show_progress(steps(4), interval_s=TICK_S, bar=bar, file=file)
    assert (last.done, last.complete) == (4, True)
    assert bool(file.getvalue()) == (bar != "none")


def test_progress_ends_when_the_machine_rests_or_the_time_is_over() -> None:
    assert show_progress(steps(None, stops_at=3), interval_s=TICK_S, bar="none").done == 3
    now = iter(range(100))
    last = show_progress(steps(None), interval_s=TICK_S, bar="none", timeout_s=3, clock=lambda: float(next(now)))
    assert (last.done, last.state) == (2, "running")
    settled = iter([False, False, True])
    assert show_progress(steps(None), interval_s=TICK_S, bar="none", until=lambda: next(settled)).done == 2


@pytest.mark.parametrize("bar", ["tqdm", "rich"])
@pytest.mark.parametrize("total", [4, None])
def test_a_bar_on_a_terminal(terminal: Terminal, bar: bars.BarKind, total: int | None) -> None:
    show_progress(steps(total, stops_at=4), interval_s=TICK_S, bar=bar, file=terminal.file)
    text = terminal.text()
    assert ("4/4" in text or "4 of 4" in text) == (total == 4)
    assert "/s" in text
    if bar == "rich":
        assert text.rindex(SHOW_CURSOR) > text.rindex(HIDE_CURSOR)


@pytest.mark.parametrize("bar", ["tqdm", "rich"])
def test_ctrl_c_closes_the_bar_and_is_raised(terminal: Terminal, bar: bars.BarKind) -> None:
    more = steps(100)

    def ask() -> Progress:
        progress = more()
        if progress.done == 3:
            signal.raise_signal(signal.SIGINT)
        return progress

    with pytest.raises(KeyboardInterrupt):
        show_progress(ask, interval_s=TICK_S, bar=bar, file=terminal.file)
    text = terminal.text()
    assert "2" in text
    assert text.endswith("\n") or SHOW_CURSOR in text


def test_pushed_progress_is_drawn_and_a_new_total_is_a_new_bar() -> None:
    file = StringIO()
    with progress_bar("tqdm", file=file) as update:
        update(Progress(done=1, total=2))
        update(Progress(done=3, total=8, errored=1))
    assert "1/2" in file.getvalue()
    assert "3/8" in file.getvalue()
    assert "1 errored" in file.getvalue()


def test_auto_is_rich_on_a_terminal_and_nothing_elsewhere(terminal: Terminal) -> None:
    assert isinstance(bars.open_bar("auto", StringIO()), bars.NoBar)
    assert isinstance(bars.open_bar("auto", terminal.file), bars.RichBar)
    terminal.text()


def test_auto_is_tqdm_in_a_notebook_if_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bars, "notebook_shell", object)
    assert isinstance(bars.open_bar("auto", StringIO()), bars.TqdmBar)
    monkeypatch.setattr(bars, "find_spec", lambda name: None)
    assert isinstance(bars.open_bar("auto", StringIO()), bars.TextBar)


class NotebookShell:
    """IPython's shell in a kernel, as a screen uses it."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []
        self.display_pub = self.kernel = self.session = self
        self.iopub_socket = self.topic = None

    def get_parent(self) -> dict[str, str]:
        return {}

    def publish(self, data: dict[str, str], transient: dict[str, str]) -> None:
        self.shown.append(data)

    def send(self, socket: object, kind: str, content: dict[str, Any], **options: object) -> None:
        assert kind == "update_display_data"
        self.shown.append(content["data"])


def test_a_notebook_without_tqdm_shows_progress_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = NotebookShell()
    monkeypatch.setattr(bars, "notebook_shell", lambda: shell)
    monkeypatch.setattr(bars, "find_spec", lambda name: None)
    with progress_bar() as update:
        update(Progress(done=1, total=4, percentage=25.0))
        update(Progress(done=4, total=4, percentage=100.0, complete=True))
    first, last = (data["text/plain"] for data in shell.shown)
    assert "1 of 4 messages" in first
    assert "complete" in last
    assert "progressbar" in shell.shown[-1]["text/html"]


def test_a_text_bar_is_drawn_in_its_line_of_a_terminal_and_written_once_into_a_file(terminal: Terminal) -> None:
    for file in (terminal.file, StringIO()):
        with progress_bar("text", file=file) as update:
            update(Progress(done=1, total=4, percentage=25.0))
            update(Progress(done=4, total=4, percentage=100.0, complete=True))
        written = file.getvalue() if isinstance(file, StringIO) else terminal.text()
        assert written.count("4 of 4 messages recorded, complete") == 1
        assert ("1 of 4" in written) == (file is terminal.file)


def test_a_missing_bar_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgument, match="'lead'"):
        bars.open_bar("lead")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(PluginNotInstalled, match=r"timbr-wamp\[progress\]"):
        bars.open_bar("tqdm")
