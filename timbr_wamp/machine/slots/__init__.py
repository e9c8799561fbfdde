"""What stands in the slots: the table and its revisions, functions and objects, and who consumes whose value."""

__all__: list[str] = []
