"""The operator's console: what an operator sees of a study, in a browser. It changes nothing."""
