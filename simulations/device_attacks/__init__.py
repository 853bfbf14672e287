"""Attacks by name: what a private adapter may be made to do on a person's own device."""
