"""A fair comparison of strategies: a tournament over strategies, seeds and any list of values."""
