"""Projects: a machine written down in ``timbr.toml``, made from it, compared with it, saved into it."""

from timbr_wamp.projects.difference import Difference, differences, side_of_machine, side_of_project
from timbr_wamp.projects.project import Project, load_project
from timbr_wamp.projects.saving import exported, save, toml, write

__all__ = [
    "Difference",
    "Project",
    "differences",
    "exported",
    "load_project",
    "save",
    "side_of_machine",
    "side_of_project",
    "toml",
    "write",
]
