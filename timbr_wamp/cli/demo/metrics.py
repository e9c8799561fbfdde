"""The demo's machine with metrics of this computer, ten readings per second.

It is the startup file of the demo's kernel. Copy a slot's source from the page or from ``m.slots``, change it, and
set it again while the machine runs: a function has in its text all that it uses, so it can also be exported. What
it keeps from message to message is a default value, which Python makes once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import psutil

from timbr_wamp import Machine

READINGS_PER_S = 10


def readings() -> Iterator[dict[str, Any]]:
    """Yield readings without end: percentages, and counters of the system."""
    number = 0
    psutil.cpu_percent(percpu=True)  # the first call always returns 0.0
    due = time.monotonic()
    while True:
        due = max(due + 1 / READINGS_PER_S, time.monotonic())  # do not catch up after a pause
        time.sleep(due - time.monotonic() if due > time.monotonic() else 0)
        number += 1
        disk, net = psutil.disk_io_counters(), psutil.net_io_counters()
        yield {
            "number": number,
            "time": time.time(),
            "cpu_percent": psutil.cpu_percent(percpu=True),
            "load": psutil.getloadavg(),
            "memory_percent": psutil.virtual_memory().percent,
            # None if the system has no such counters, as in some containers
            "disk_bytes": [disk.read_bytes, disk.write_bytes] if disk else [0, 0],
            "net_bytes": [net.bytes_recv, net.bytes_sent] if net else [0, 0],
        }


def clean(reading, *, before={}):
    """Average the cores; turn counters into bytes a second since the reading before, which ``before`` keeps."""
    from statistics import fmean

    span_s = max(reading["time"] - before.get("time", 0), 0.001)

    def rates(name):
        then = before.get(name, reading[name])
        return [round((new - old) / span_s) for new, old in zip(reading[name], then, strict=True)]

    cleaned = {
        "number": reading["number"],
        "cpu_percent": round(fmean(reading["cpu_percent"]), 1),
        "load": round(reading["load"][0], 2),
        "memory_percent": reading["memory_percent"],
        "disk_bytes_per_s": rates("disk_bytes"),
        "net_bytes_per_s": rates("net_bytes"),
    }
    before.update(reading)
    return cleaned


def rolling(clean, *, window=[], readings=100):
    """Mean and standard deviation of the last ten seconds' processor load, which ``window`` keeps."""
    from statistics import fmean, pstdev

    window.append(clean["cpu_percent"])
    del window[:-readings]
    return {
        "readings": len(window),
        "mean": round(fmean(window), 2),
        "deviation": round(pstdev(window), 2),
        "highest": max(window),
    }


def anomaly(rolling, clean, *, limit=3.0):
    """How far this reading is from the mean, in standard deviations, and whether that is too far."""
    z = (clean["cpu_percent"] - rolling["mean"]) / (rolling["deviation"] or 1.0)
    return {"number": clean["number"], "z": round(z, 2), "anomaly": abs(z) > limit}


def fragile(anomaly, *, fail_every=40):
    """Pass the reading on, but fail on every fortieth, on purpose. Mend me while I run."""
    if anomaly["number"] % fail_every == 0:
        raise RuntimeError(f"reading {anomaly['number']} fails on purpose, as every {fail_every}th does")
    return anomaly["anomaly"]


def summary(fragile, anomaly, rolling, clean):
    """One line for people; skipped when slot 3 failed, since it wants its value."""
    word = "unusual" if fragile else "usual"
    return f"cpu {clean['cpu_percent']} % (mean {rolling['mean']} %), memory {clean['memory_percent']} %: {word}"


m = Machine()
m.set(0, clean, name="clean")
m.set(1, rolling, name="rolling")
m.set(2, anomaly, name="anomaly")
m.set(3, fragile, name="fragile")
m.set(4, summary, name="summary")
m.source = readings
m.start()
