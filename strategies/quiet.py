"""Calling Flower's own strategies without their chatter and without their pauses."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_flower() -> Iterator[None]:
    """Silence Flower's own log for a while: it warns of what we do on purpose and counts every reply."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def quick_collections() -> Iterator[None]:
    """Make forced garbage collections cheap for a while.

    Flower's Bulyan collects once a reply, 0.2 s each with torch loaded. What exists on entry is set aside,
    so that each collection looks only at what was made since.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
