"""The machine's local wire: records are published and procedures answered on ZeroMQ sockets."""

__all__: list[str] = []
