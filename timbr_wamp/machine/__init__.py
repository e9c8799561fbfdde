"""The core: slots, plan, worker, publisher, control. Usable without IPython, WAMP or a router."""

from timbr_wamp.machine.machine import Machine
from timbr_wamp.machine.protocols import EndOfSource, Executor, Hook, Journal, Sink, Source
from timbr_wamp.machine.running.aliases import AliasedValues
from timbr_wamp.machine.slots.table import identity

__all__ = ["AliasedValues", "EndOfSource", "Executor", "Hook", "Journal", "Machine", "Sink", "Source", "identity"]
