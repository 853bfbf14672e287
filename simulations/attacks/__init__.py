"""Attacks by name: what a share of the people does to the shared adapter."""
