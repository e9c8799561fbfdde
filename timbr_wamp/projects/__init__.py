"""Projects: create a machine from ``timbr.toml``, compare it with the file, and save it to the file."""

from timbr_wamp.projects.difference import Difference, describe_machine, describe_project, differences
from timbr_wamp.projects.project import Project, load_project
from timbr_wamp.projects.saving import exported, save, toml, write

__all__ = [
    "Difference",
    "Project",
    "differences",
    "exported",
    "load_project",
    "save",
    "describe_machine",
    "describe_project",
    "toml",
    "write",
]
