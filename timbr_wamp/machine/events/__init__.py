"""What happens to a machine and who hears of it: log, hooks, event handlers, notices."""

__all__: list[str] = []
