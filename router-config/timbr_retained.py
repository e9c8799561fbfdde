"""Release the retained events of kernels that are gone, which Crossbar.io would keep for as long as it runs.

WAMP has no message for it, so this works on the broker's map of subscriptions, as Crossbar.io itself does when
a subscription loses its last subscriber. Standard library only.
"""

from __future__ import annotations

from typing import Any

#: Time for which the last state of a kernel that is gone can still be fetched.
RELEASE_AFTER_S = 5.0


def release(component: Any, kernel_id: str) -> int:
    """Release the retained events of a kernel's topics; return the number of topics that had some."""
    broker_map = component._transport._router._broker._subscription_map
    prefix = f"io.timbr.kernel.{kernel_id}."
    released = 0
    for topic in [uri for uri in broker_map._observations_exact if uri.startswith(prefix)]:
        observation = broker_map.get_observation(topic)
        if observation.extra is None or not observation.extra.retained_events:
            continue
        released += 1
        observation.extra.retained_events = []
        if not observation.observers:
            broker_map.delete_observation(observation)
    return released
