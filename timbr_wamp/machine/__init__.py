"""The core: slots, plan, worker, publisher, control. Usable without IPython, WAMP or a router."""

from timbr_wamp.machine.machine import Machine
from timbr_wamp.machine.protocols import EndOfSource, Executor, Hook, Journal, Sink, Source
from timbr_wamp.machine.slots import identity
from timbr_wamp.machine.views import AliasedValues

__all__ = ["AliasedValues", "EndOfSource", "Executor", "Hook", "Journal", "Machine", "Sink", "Source", "identity"]
