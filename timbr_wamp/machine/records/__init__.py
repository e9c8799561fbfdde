"""What became of messages: numbered records, the newest of them, failures and their groups, replay, rates."""

__all__: list[str] = []
