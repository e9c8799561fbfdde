"""The core: slots, plan, worker, publisher, control. Usable without IPython, WAMP or a router."""

from timbr_wamp.machine.machine import AliasedValues, Machine, identity
from timbr_wamp.machine.protocols import EndOfSource, Executor, Hook, Journal, Sink, Source

__all__ = ["AliasedValues", "EndOfSource", "Executor", "Hook", "Journal", "Machine", "Sink", "Source", "identity"]
