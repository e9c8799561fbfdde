"""Carry into a wheel what lives elsewhere in a clone. All else about the package is in ``setup.cfg``."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

#: File or folder of a clone → folder below the package where a wheel has its copy.
CARRIED = {
    "router-config": "timbr_wamp/router/config",
    "locks/uv.txt": "timbr_wamp/router/config",
    "locks/build.txt": "timbr_wamp/router/config",
    "examples/data/README.md": "timbr_wamp/example_data",
    "examples/data/earthquakes.json": "timbr_wamp/example_data",
    "examples/data/seattle-weather.csv": "timbr_wamp/example_data",
}


class BuildWithCarried(build_py):
    """Build the package, then copy `CARRIED` into it. An editable install reads them in place."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for source, folder in CARRIED.items():
            target = Path(self.build_lib, folder)
            if Path(source).is_dir():
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".*"))
            else:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target / Path(source).name)  # without its mode: the data is read-only


setup(cmdclass={"build_py": BuildWithCarried})
