"""The Flower app of a node: `commonground.client.app:app`.

Flower finds it by syntax, so it is a plain assignment. Messages carry the person's index in their config
because the node ids of Flower's simulation are random numbers: the server sorts the nodes by id and a
person is a rank. A real device has one person and looks at its own store only.
"""

from __future__ import annotations

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from commonground.client import handlers

app = ClientApp()


@app.train()  # type: ignore[untyped-decorator]  # flwr is not followed by mypy here
def shared(message: Message, context: Context) -> Message:
    """Shared phase: the sealed update, or a constant."""
    _one_thread()
    return handlers.shared_phase(message)


@app.train("private")  # type: ignore[untyped-decorator]
def private(message: Message, context: Context) -> Message:
    """Private phase: a constant acknowledgement."""
    _one_thread()
    return handlers.private_phase(message)


def _one_thread() -> None:
    # In every call, since an actor or an executor may be a new process: several threads add floats in
    # another order than one, and oversubscribe the cores that other people's devices run on.
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
