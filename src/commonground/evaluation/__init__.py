"""Accuracy, welfare, information erased; intervals by person."""
