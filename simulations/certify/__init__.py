"""Certificates: how likely an answer in a finished run is to break the charter, and how sure that is."""
