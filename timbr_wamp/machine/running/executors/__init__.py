"""The executors: inline, threads, processes, and the window of messages whose slots are awaited."""

__all__: list[str] = []
