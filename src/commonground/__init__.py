"""Federated preference learning: a shared safety floor, and a private part that never leaves the device."""

from commonground.comparisons import Comparison, Person
from commonground.errors import CommonGroundError

__version__ = "0.1.0"

__all__ = ["CommonGroundError", "Comparison", "Person", "__version__"]
