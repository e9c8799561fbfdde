"""Events of a machine: log and bus, hooks, event handlers, notices."""

__all__: list[str] = []
