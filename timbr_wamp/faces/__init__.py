"""HTML and text of records, statuses, slots and errors, for local and for remote machines."""

__all__: list[str] = []
