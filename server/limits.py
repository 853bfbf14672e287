"""How large an honest reply is, by the manifest: what the front door and the rounds let in, and no more.

Flower sends a message as a tree of objects: first the tree's names, then each object by itself. So a bound on
the bytes of one object and on how many a tree may name bounds the whole message.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)

from commonground.manifest import Manifest
from commonground.strategies.records import train_content

SLACK = 8192  # bytes of names, heads and protobuf around an object
OTHER = 65536  # bytes of every other request


@dataclass(frozen=True)
class Limits:
    """Of one reply.

    Attributes:
        objects: how many a tree may name.
        object_bytes: of one object in its request.
        tree_bytes: of the request that names the tree.
    """

    objects: int
    object_bytes: int
    tree_bytes: int

    @property
    def message_bytes(self) -> int:
        """Of all objects together, at most."""
        return self.objects * self.object_bytes


def limits(manifest: Manifest) -> Limits:
    """What an honest reply needs, measured on one, with some room for other names and headers."""
    sample = {
        spec.name: np.full(spec.shape, number + 1, spec.dtype) for number, spec in enumerate(manifest.sent)
    }
    content = train_content(sample)
    sizes = [len(part.deflate()) for part in get_all_nested_objects(content).values()]
    tree = get_object_tree(content)
    objects = sum(1 for _ in iterate_object_tree(tree)) + 1  # the message itself
    return Limits(objects + 4, max(sizes) + SLACK, 2 * tree.ByteSize() + SLACK)
