"""What holds for any private adapter: budget, guard, menu, charter, and how sure one can be of it."""
