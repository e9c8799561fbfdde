"""Real data that comes with the package: what the tutorials, the how-tos and the demo read."""

from __future__ import annotations

from pathlib import Path

from timbr_wamp.errors import InvalidArgument

__all__ = ["NAMES", "path"]

#: The files: a week of earthquakes (USGS, GeoJSON) and 1,461 days of weather (NOAA, CSV), both public domain.
NAMES = ("earthquakes.json", "seattle-weather.csv")

_INSTALLED = Path(__file__).with_name("example_data")
_CLONE = Path(__file__).parents[1] / "examples" / "data"


def path(name: str) -> Path:
    """Return where a file of example data is, by its name: one of `NAMES`.

    >>> path("earthquakes.json").name
    'earthquakes.json'

    Raises:
        InvalidArgument: there is no such file.
    """
    if name not in NAMES:
        raise InvalidArgument("name", f"there is no example data {name!r}: there are {', '.join(NAMES)}")
    return (_INSTALLED if _INSTALLED.is_dir() else _CLONE) / name
