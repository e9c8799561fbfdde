"""How messages come in: the queue with its counts, admission when it is full, and the source that is read."""

__all__: list[str] = []
