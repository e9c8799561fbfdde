"""The machine on its local sockets: records published, procedures answered."""

__all__: list[str] = []
