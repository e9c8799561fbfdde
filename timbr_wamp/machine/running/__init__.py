"""How messages run: the lifecycle, the worker, the compiled and the careful pass, backoff, executors."""

__all__: list[str] = []
