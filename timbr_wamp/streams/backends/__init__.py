"""Storages of streams, one module each; imported when a URL names it."""

__all__: list[str] = []
