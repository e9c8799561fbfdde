"""A machine's local wire as a bridge uses it: a real ZeroMQ subscriber and a real control client."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import msgspec
import zmq
from machine_kit import LIMIT_S

from timbr_wamp import runtime
from timbr_wamp.contract import MACHINE, Status
from timbr_wamp.errors import from_wire
from timbr_wamp.machine import Machine

LIMIT_MS = int(LIMIT_S * 1000)


def file_of(machine: Machine, folder: Path) -> runtime.MachineFile:
    found = runtime.read_file(folder / f"machine-{os.getpid()}-{machine.name}.json", runtime.MachineFile)
    assert found is not None
    return found


class Peer:
    """A subscriber and control client, as a bridge is one."""

    def __init__(self, file: runtime.MachineFile) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.records = self._connect(zmq.SUB, file, file.pub)
        self.records.setsockopt(zmq.SUBSCRIBE, b"")
        self.control = self._connect(zmq.DEALER, file, file.control)
        self._numbers = itertools.count(1)
        self._replies: list[list[object]] = []

    def _connect(self, kind: int, file: runtime.MachineFile, endpoint: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.rcvtimeo = LIMIT_MS
        if file.curve_server_key is not None:
            socket.curve_serverkey = file.curve_server_key.encode()
            socket.curve_publickey = str(file.curve_client_public).encode()
            socket.curve_secretkey = str(file.curve_client_secret).encode()
        socket.connect(endpoint)
        return socket

    def send(self, name: str, *args: object, author: str | None = "ada", **kwargs: object) -> int:
        number = next(self._numbers)
        self.control.send(msgspec.msgpack.encode([number, name, args, kwargs, author]))
        return number

    def reply(self, number: int) -> list[object]:
        """Return the next reply to a request; replies to others wait."""
        for reply in self._replies:
            if reply[0] == number:
                self._replies.remove(reply)
                return reply
        while True:
            reply = msgspec.msgpack.decode(self.control.recv())
            if reply[0] == number:
                return reply
            self._replies.append(reply)

    def result(self, number: int) -> object:
        """Return a request's result, or raise the error that came."""
        _, kind, value = self.reply(number)
        if kind == "error":
            raise from_wire(*value)
        assert kind == "result"
        return value

    def call(self, name: str, *args: object, **kwargs: object) -> object:
        return self.result(self.send(name, *args, **kwargs))

    def status(self) -> Status:
        return MACHINE["status"].result(self.call("status"))

    def wait_subscribed(self, machine: Machine) -> None:
        """Step messages until one arrives: PUB drops what is sent before the subscription is there."""
        self.records.rcvtimeo = 20
        for _ in range(200):
            machine.put("are you there?")
            machine.get()
            try:
                self.records.recv_multipart()
            except zmq.Again:
                continue
            break
        self.records.rcvtimeo = LIMIT_MS
        machine.put("last")
        last = machine.get()[0].encode()
        while self.records.recv_multipart()[0] != last:
            pass

    def close(self) -> None:
        self._context.destroy(linger=0)

    def cancel(self, number: int) -> None:
        """Cancel a request."""
        self.control.send(msgspec.msgpack.encode([number, "__cancel__", [], {}, None]))
