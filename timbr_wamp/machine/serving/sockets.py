"""The local wire of a machine: its sockets, and the runtime file by which a bridge finds them.

ipc sockets in the user's 0700 runtime folder; where ZeroMQ has no ipc, tcp on 127.0.0.1 with CurveZMQ for the
one client key that is in the 0600 runtime file. ZAP, by which the key is checked: https://rfc.zeromq.org/spec/27/
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import zmq

from timbr_wamp import plugins, runtime
from timbr_wamp.errors import CallTimeout, counted
from timbr_wamp.machine.isolation import run_within
from timbr_wamp.machine.serving.control import ControlServer
from timbr_wamp.machine.serving.publisher import Publisher
from timbr_wamp.settings import load_settings
from timbr_wamp.user_warnings import MachineReplaced, warn_user

if TYPE_CHECKING:
    from zmq.auth.thread import ThreadAuthenticator

    from timbr_wamp.machine.machine import Machine

logger = logging.getLogger(__name__)

#: Time for a machine that is replaced by a newer one to finish its message, and then for those who read all of its
#: records to read the last ones and leave, seconds.
REPLACED_STOP_S, REPLACED_READ_S = 1.0, 1.0
READ_POLL_S = 0.005

#: Longest wait for the control thread and for ZeroMQ when the sockets are closed, and longest time for sending the
#: last replies, seconds.
CLOSE_LIMIT_S, LINGER_S = 2.0, 0.5

#: Machines that this process serves, by name: a newer one of the same name replaces the older one.
_served: dict[str, weakref.ref[Machine]] = {}
#: Held while the file of a name is written or removed, because the machines of one name share it.
_served_lock = threading.RLock()

_SOCKET_NAME_BYTES = len("m-0123456789.p")


class LocalSockets:
    """Open sockets, control thread and runtime file. `close` removes all of them."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], publisher: Publisher, control: ControlServer,
        file: runtime.MachineFile, path: Path, leftovers: list[Path], keys: ThreadAuthenticator | None,
        older: Machine | None,
    ) -> None:  # fmt: skip
        self.publisher, self.control, self.file, self._older = publisher, control, file, older
        self._finalizer = weakref.finalize(self, _close, context, publisher, control, path, leftovers, keys, file)

    @classmethod
    def open(cls, machine: Machine, transport: Literal["ipc", "tcp"] | None) -> LocalSockets:
        """Open the wire of ``machine`` and write its runtime file, which takes the name from an older machine.

        When it fails, an older machine of the name is served as before. Else the older one answers whom it knows
        until `end_older`.

        Raises:
            UnsafeFolder: the runtime folder is not ours alone.
            OSError: the runtime file could not be written.
        """
        runtime_dir = load_settings().runtime_dir
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        leftovers: list[Path] = []
        keys: ThreadAuthenticator | None = None
        control: ControlServer | None = None
        try:
            pub, router = context.socket(zmq.XPUB), context.socket(zmq.ROUTER)
            publisher = Publisher(pub, machine.run)
            pub.setsockopt(zmq.LINGER, 0)
            router.setsockopt(zmq.LINGER, int(LINGER_S * 1000))
            file = runtime.MachineFile(
                pid=os.getpid(), process_started=runtime.own_process_started(), name=machine.name, run=machine.run,
                pub="", control="", opened_at=time.time(),
            )  # fmt: skip
            face = plugins.own_kernel()
            file.connection_file = None if face is None else face.connection_file()
            if (transport or ("ipc" if zmq.has("ipc") else "tcp")) == "ipc":
                leftovers = _bind_ipc(runtime.private_folder(runtime_dir), pub, router, file)
            else:
                keys = _bind_curve(context, pub, router, file)
            control = ControlServer(machine, router, publisher.acknowledge)
            _warn_of_replacing(machine)
            path, older = _take_name(machine, runtime_dir, file)
        except BaseException:
            if control is not None:
                control.close()
            _end_within(CLOSE_LIMIT_S, machine.name, control, keys, context, linger_s=0.0)
            _remove(leftovers)
            raise
        control.start()
        return cls(context, publisher, control, file, path, leftovers, keys, older)

    def end_older(self) -> None:
        """Stop the machine that had the name before, if it is served, and close its sockets.

        Who reads all of its records first gets the last ones, and sees the new file and leaves. Waits at most
        `REPLACED_STOP_S` and `REPLACED_READ_S`.
        """
        older, self._older = self._older, None
        if older is None or older.endpoint is None:
            return
        logger.info("machine %r is replaced by a newer one of its name: it is stopped and no longer served", older.name)
        with contextlib.suppress(CallTimeout):  # a slow message is recorded when it ends, and no other starts
            older.give_way(REPLACED_STOP_S)
        older.unserve(read_s=REPLACED_READ_S)

    def wait_read(self, timeout_s: float) -> None:
        """Wait until no listener to all records is left, at most ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while self.publisher.has_complete_listeners() and time.monotonic() < deadline:
            time.sleep(READ_POLL_S)

    def close(self) -> None:
        """Close sockets, end the control thread, remove the files. Idempotent."""
        self._finalizer()


def _take_name(machine: Machine, runtime_dir: Path, file: runtime.MachineFile) -> tuple[Path, Machine | None]:
    """Write the runtime file; return its path and the machine that had the name before."""
    with _served_lock:
        path = runtime.write_file(runtime_dir / f"machine-{os.getpid()}-{machine.name}.json", file)
        before, _served[machine.name] = _served.get(machine.name), weakref.ref(machine)
    older = before() if before is not None else None
    return path, older if older is not machine else None


def _warn_of_replacing(machine: Machine) -> None:
    """Warn if a machine that has work is about to lose its name. Before that happens: a warning may be an error."""
    with _served_lock:
        before = _served.get(machine.name)
    older = None if before is None else before()
    if older is None or older is machine or older.endpoint is None:
        return
    status = older.status
    if status.queue_size or status.state in ("running", "draining", "paused"):
        waiting = f" with {counted(status.queue_size, 'message')} waiting" if status.queue_size else ""
        text = (
            f"a new machine takes the name {machine.name!r} of one that was {status.state}{waiting}, and stops it; "
            "to have both, give one of them another name=…"
        )
        warn_user(text, MachineReplaced)


def _give_name_back(path: Path, file: runtime.MachineFile) -> None:
    """Remove the runtime file, unless a newer machine has its name."""
    with _served_lock:
        now = runtime.read_file(path, runtime.MachineFile)
        if now is None or now.control == file.control:
            path.unlink(missing_ok=True)


def _bind_ipc(
    runtime_dir: Path, pub: zmq.Socket[bytes], router: zmq.Socket[bytes], file: runtime.MachineFile
) -> list[Path]:
    folder = runtime.socket_folder(runtime_dir, _SOCKET_NAME_BYTES)
    stem = f"m-{secrets.token_hex(5)}"
    leftovers = [folder / f"{stem}.p", folder / f"{stem}.c"]
    file.pub, file.control = (f"ipc://{path}" for path in leftovers)
    if folder != runtime_dir:
        leftovers.append(folder)
    try:
        pub.bind(file.pub)
        router.bind(file.control)
    except zmq.ZMQError:
        _remove(leftovers)
        raise
    return leftovers


class _OneKey:
    """Accepts one client key: knowing the server's public key lets nobody in."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def callback(self, domain: str, key: bytes) -> bool:
        return secrets.compare_digest(key, self._key)


def _bind_curve(
    context: zmq.Context[zmq.Socket[bytes]],
    pub: zmq.Socket[bytes],
    router: zmq.Socket[bytes],
    file: runtime.MachineFile,
) -> ThreadAuthenticator:
    """Bind over tcp; return the thread that checks the keys of clients."""
    from zmq.auth.thread import ThreadAuthenticator  # needs asyncio, and is needed here only

    server_public, server_secret = zmq.curve_keypair()
    client_public, client_secret = zmq.curve_keypair()
    keys = ThreadAuthenticator(context)
    keys.start()  # before the sockets are bound, which else ask nobody
    try:
        keys.configure_curve_callback(credentials_provider=_OneKey(client_public))
        for socket in (pub, router):
            socket.curve_server = True
            socket.curve_secretkey, socket.curve_publickey = server_secret, server_public
        file.curve_server_key = server_public.decode()
        file.curve_client_public, file.curve_client_secret = client_public.decode(), client_secret.decode()
        file.pub, file.control = (f"tcp://127.0.0.1:{s.bind_to_random_port('tcp://127.0.0.1')}" for s in (pub, router))
    except BaseException:
        keys.stop()
        raise
    return keys


def _close(
    context: zmq.Context[zmq.Socket[bytes]], publisher: Publisher, control: ControlServer, path: Path,
    leftovers: list[Path], keys: ThreadAuthenticator | None, file: runtime.MachineFile,
) -> None:  # fmt: skip
    if os.getpid() != file.pid:
        return  # a forked child: sockets, threads and files are its parent's
    _give_name_back(path, file)
    control.close()
    publisher.close()
    _end_within(CLOSE_LIMIT_S, file.name, control, keys, context, linger_s=LINGER_S)
    _remove(leftovers)


def _end_within(
    limit_s: float, name: str, control: ControlServer | None, keys: ThreadAuthenticator | None,
    context: zmq.Context[zmq.Socket[bytes]], *, linger_s: float,
) -> None:  # fmt: skip
    """Wait for the control thread, then end the thread that checks keys, and ZeroMQ's threads.

    Each of these waits has no limit of its own. What has not ended in time goes on in a daemon thread.
    """
    waits = control is None or not control.is_own_thread  # which cannot wait for itself

    def end() -> None:
        if control is not None:
            control.wait_closed()
        if keys is not None:
            keys.stop()
        context.destroy(linger=int(linger_s * 1000))

    if not run_within(limit_s if waits else 0.0, end) and waits:
        logger.warning("machine %r: its sockets are not closed after %g s", name, limit_s)


def _remove(paths: list[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
