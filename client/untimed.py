"""How long a person's device took is nobody's business.

Flower's SuperNode (1.42) tells the server with every answer for how many seconds the device worked on it: a
number about a person that no manifest lists, and which grows with how much she has said. There is no setting
for it, so the node process, which is ours, makes it a constant in its own memory; Flower's files stay as they
are. What is left is what no software can hide: when an answer arrives.
"""

from __future__ import annotations

from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

CONSTANT = 0.0  # seconds, whatever it was

_measured = InMemoryNodeState.get_message_processing_duration


def keep_times() -> None:
    """From now on this process tells no server how long anything took; doing it again changes nothing."""
    InMemoryNodeState.get_message_processing_duration = _constant


def _constant(state: InMemoryNodeState, message_id: str) -> float:
    _measured(state, message_id)  # it drops old entries, and says in the log where an answer came too late
    return CONSTANT
