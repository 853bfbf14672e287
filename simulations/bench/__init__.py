"""`commonground bench`: how fast the fleet is against the alternatives, and against what the machine can do.

Every figure is a ratio of things that were timed in turn in one run: seconds belong to a machine and a day.
"""
