"""How records, statuses, slots and errors look, as HTML and as text: of a machine here and of one elsewhere."""

__all__: list[str] = []
