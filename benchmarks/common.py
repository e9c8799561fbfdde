"""Shared by all figures: real data, three slot functions, a subscriber process, the table."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

#: Rounds of every ratio; the median is printed.
ROUNDS = 5

#: Counts the messages of a PUB socket; prints ``hello`` at the first of that name, and the count at one named ``end``.
SUBSCRIBER = """
import sys, zmq
socket = zmq.Context().socket(zmq.SUB)
socket.setsockopt(zmq.SUBSCRIBE, b"")
socket.setsockopt(zmq.RCVHWM, 0)
socket.connect(sys.argv[1])
count, greeted = 0, False
print("ready", flush=True)
while True:
    frames = socket.recv_multipart()
    if frames[0] == b"hello":
        if not greeted:
            print("hello", flush=True)
        greeted = True
    elif frames[0] == b"end":
        break
    else:
        count += 1
print(count, flush=True)
"""


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    value: float
    #: How ``value`` must compare to ``target``: ``>=`` or ``<=``.
    relation: str
    target: float
    unit: str = ""
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the value reaches the target."""
        return self.value >= self.target if self.relation == ">=" else self.value <= self.target

    def line(self) -> str:
        """Return the printed line."""
        mark = "ok  " if self.met else "MISS"
        return (
            f"{mark} {self.name:<66} {self.value:9.3g} {self.unit:<4} "
            f"(wanted {self.relation} {self.target:g}) {self.note}"
        )


@dataclass(frozen=True)
class Point:
    """One point of a curve, which has no target."""

    name: str
    value: float
    unit: str = ""
    note: str = ""
    met = True

    def line(self) -> str:
        """Return the printed line."""
        return f"     {self.name:<66} {self.value:9.5g} {self.unit:<4} {self.note}"


def earthquakes(times: int = 1) -> list[dict[str, Any]]:
    """Return a week of earthquakes, repeated ``times`` times."""
    text = (ROOT / "examples" / "data" / "earthquakes.json").read_text(encoding="utf-8")
    features: list[dict[str, Any]] = json.loads(text)["features"]
    return features * times


def clean(quake: dict[str, Any]) -> dict[str, Any]:
    """First slot: flatten."""
    return {**quake["properties"], "coordinates": quake["geometry"]["coordinates"]}


def energy(properties: dict[str, Any]) -> float:
    """Second slot: joules of the magnitude."""
    return float(10 ** (1.5 * (properties["mag"] or 0) + 4.8))


def label(joules: float, properties: dict[str, Any]) -> dict[str, Any]:
    """Third slot: gets the two newest values."""
    return {"place": properties["place"], "strong": joules > 1e10}


SLOTS = (clean, energy, label)


@contextmanager
def subscriber(endpoint: str) -> Iterator[subprocess.Popen[str]]:
    """Run a counting subscriber in another process; it is connected when the block starts."""
    process = subprocess.Popen([sys.executable, "-c", SUBSCRIBER, endpoint], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    """Wait until the subscriber says ``word``."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line == word, f"the subscriber said {line!r} instead of {word!r}"


def scratch_folder() -> Path:
    """Return a new private folder with a short path, for sockets."""
    return Path(tempfile.mkdtemp(prefix="twb", dir="/tmp"))


def median_ratio(rounds: int, *measures: Callable[[], float]) -> tuple[list[float], list[list[float]]]:
    """Measure side by side, round after round; return the median of each ratio to the first, and all values."""
    values: list[list[float]] = [[] for _ in measures]
    for _ in range(rounds):
        for kept, measure in zip(values, measures, strict=True):
            kept.append(measure())
    ratios = [statistics.median(v / b for v, b in zip(kept, values[0], strict=True)) for kept in values[1:]]
    return ratios, values
