"""What outlives a machine's process: the journal."""

from timbr_wamp.store.journal import SqliteJournal
from timbr_wamp.store.journal_files import open_journal, open_next_journal, remove_old

__all__ = ["SqliteJournal", "open_journal", "open_next_journal", "remove_old"]
