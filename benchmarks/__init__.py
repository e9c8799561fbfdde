"""Figures of the project, each a ratio or bound measured side by side in one run: ``make bench``."""
