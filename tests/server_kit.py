"""Real servers for tests, each a process of its own on a free port with a folder of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from wait_kit import wait_until

from timbr_wamp.router import free_port

#: Seconds within which a server answers, and ends.
START_LIMIT_S, STOP_LIMIT_S = 20.0, 10.0


class Server:
    """A server process; `kill` and `start` may follow each other."""

    def __init__(self, command: list[str], port: int, folder: Path) -> None:
        self.command, self.port, self.folder = command, port, folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(self._answers, f"{self.command[0]} answers", START_LIMIT_S)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text(errors="replace")[-2000:]
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
            return True
        return False

    def kill(self) -> None:
        """End it at once, as a power failure does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_LIMIT_S)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, such as SIGSTOP: then it answers nobody until SIGCONT."""
        assert self._process is not None
        self._process.send_signal(number)


class Proxy:
    """Stands between a client and a server of this computer, and loses answers: `losing`.

    A client whose answer is lost finds its connection closed; the server has done what it was asked.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = [self._listener]
        #: Answers until the next one that is lost; None: none is.
        self._left: int | None = None
        #: Answers lost.
        self.lost = 0

    def __enter__(self) -> Proxy:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            _shut(one)
        for thread in self._threads:
            thread.join(STOP_LIMIT_S)

    @contextlib.contextmanager
    def losing(self, answers: int) -> Iterator[None]:
        """Within the block, lose one answer, after so many that come."""
        self._left = answers
        yield
        self._left = None

    def _start(self, target: Callable[..., object], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                try:
                    server = socket.create_connection(("127.0.0.1", self._server_port))
                except OSError:
                    _shut(client)
                    continue
                self._sockets.append(server)
                self._start(self._pump, client, server, False)
                self._start(self._pump, server, client, True)

    def _pump(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if answers and self._left is not None:
                    self._left -= 1
                    if self._left < 0:
                        self._left = None
                        self.lost += 1
                        break
                target.sendall(data)
        _shut(source)
        _shut(target)


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


def find_redis() -> str:
    """Return the path of redis-server.

    Raises:
        FileNotFoundError: it is not installed.
    """
    found = shutil.which("redis-server")
    if found is None:
        raise FileNotFoundError("redis-server is not on the PATH")
    return found


def find_mongodb() -> None:
    """Check for the server that speaks MongoDB's protocol.

    Raises:
        FileNotFoundError: it is not installed.
    """
    if importlib.util.find_spec("nx_27017") is None:
        raise FileNotFoundError("the package nx-27017 is not installed")


@contextlib.contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[Server]:
    """A Redis that syncs each change to its disk. ``options``: as in ``redis.conf``, such as ``--appendonly no``."""
    port = free_port()
    command = [
        find_redis(), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", "",
        "--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0", *options,
    ]  # fmt: skip
    with _running(Server(command, port, folder)) as server:
        yield server


@contextlib.contextmanager
def mongodb_server(folder: Path, data: str = "memory") -> Iterator[Server]:
    """A server with MongoDB's protocol; ``data``: the folder of its files, or in memory."""
    port = free_port()
    program = "from nx_27017.nx_27017 import main; main()"
    command = [
        sys.executable, "-W", "ignore", "-c", program, "--data-dir", data, "--host", "127.0.0.1", "--port", str(port),
        "--log-file", str(folder / "log"), "--pid-file", str(folder / "pid"),
    ]  # fmt: skip
    with _running(Server(command, port, folder)) as server:
        yield server


@contextlib.contextmanager
def _running(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        server.kill()
