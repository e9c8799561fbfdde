"""The demo's machine with real data: a week of earthquakes from the USGS, ten events per second, repeated.

It is the startup file of the demo's kernel. Copy a slot's source from the page or from ``m.slots``, change it, and
set it again while the machine runs: a function has in its text all that it uses, so it can also be exported. What
it keeps from message to message is a default value, which Python makes once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from timbr_wamp import Machine, examples

EVENTS_PER_S = 10


DATA = json.loads(examples.path("earthquakes.json").read_bytes())
EVENTS = sorted(DATA["features"], key=lambda event: event["properties"]["time"])


def replay() -> Iterator[dict[str, Any]]:
    """Yield the events in order of time, repeatedly."""
    due = time.monotonic()
    while True:
        for event in EVENTS:
            due = max(due + 1 / EVENTS_PER_S, time.monotonic())  # do not catch up after a pause
            time.sleep(due - time.monotonic() if due > time.monotonic() else 0)
            yield event


def clean(event):
    """Keep the fields of interest, with units in their names."""
    longitude, latitude, depth_km = event["geometry"]["coordinates"]
    place = event["properties"]["place"]
    return {
        "id": event["id"],
        "time_s": event["properties"]["time"] / 1000,
        "magnitude": event["properties"]["mag"],
        "depth_km": depth_km,
        "latitude": latitude,
        "longitude": longitude,
        "region": place.rsplit(", ", 1)[-1],
        "place": place,
    }


def rolling(clean, *, window=[], events=100):
    """Mean magnitude of the last hundred events, which ``window`` keeps, and where most of them were."""
    from collections import Counter
    from statistics import fmean, pstdev

    window.append(clean)
    del window[:-events]
    magnitudes = [event["magnitude"] for event in window]
    return {
        "events": len(window),
        "mean": round(fmean(magnitudes), 2),
        "deviation": round(pstdev(magnitudes), 2),
        "busiest": Counter(event["region"] for event in window).most_common(3),
    }


def anomaly(rolling, clean, *, limit=3.0):
    """How far above the mean this event is, in standard deviations, and whether that is remarkable."""
    z = (clean["magnitude"] - rolling["mean"]) / (rolling["deviation"] or 1.0)
    return {"z": round(z, 2), "anomaly": z > limit}


def intensity(anomaly, rolling, clean):
    """Shaking at the surface, roughly. Some events have no depth that it could use: mend me while I run."""
    from math import log10

    if clean["depth_km"] <= 0:
        raise ValueError(f"{clean['id']} lies {-clean['depth_km']} km above sea level: that has no logarithm")
    return round(1.5 * clean["magnitude"] - 3.5 * log10(clean["depth_km"]) + 3.0, 2)


def summary(intensity, anomaly, rolling, clean):
    """One line for people; skipped when slot 3 failed, since it wants its value."""
    word = "!" if anomaly["anomaly"] else ""
    return f"M {clean['magnitude']} {clean['place']}, felt {intensity}{word}"


m = Machine()
m.set(0, clean, name="clean")
m.set(1, rolling, name="rolling")
m.set(2, anomaly, name="anomaly")
m.set(3, intensity, name="intensity")
m.set(4, summary, name="summary")
m.source = replay
m.start()
