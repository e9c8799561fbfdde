"""What the project's ``timbr.toml`` names: a source of real events, and two slot functions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[2] / "data" / "earthquakes.json"


def events() -> Iterator[dict[str, Any]]:
    """Yield a week of the USGS's earthquakes in the order of their time."""
    yield from sorted(json.loads(DATA.read_bytes())["features"], key=lambda event: event["properties"]["time"])


def clean(event: dict[str, Any]) -> dict[str, Any]:
    """Keep what matters, with units in the names."""
    longitude, latitude, depth_km = event["geometry"]["coordinates"]
    return {
        "id": event["id"],
        "magnitude": event["properties"]["mag"],
        "place": event["properties"]["place"],
        "depth_km": depth_km,
        "latitude": latitude,
        "longitude": longitude,
    }


def intensity(clean: dict[str, Any]) -> float:
    """Shaking at the surface, roughly."""
    if clean["depth_km"] <= 0:
        raise ValueError(f"{clean['id']} lies {-clean['depth_km']} km above sea level: that has no logarithm")
    return round(1.5 * clean["magnitude"] - 3.5 * math.log10(clean["depth_km"]) + 3.0, 2)
