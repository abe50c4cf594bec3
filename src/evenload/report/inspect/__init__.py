"""What a file of loads or of a placement is, and what is odd in it."""

from evenload.report.inspect.facts import Facts, print_facts
from evenload.report.inspect.loads import inspect_loads
from evenload.report.inspect.placement import inspect_placement

__all__ = ["Facts", "inspect_loads", "inspect_placement", "print_facts"]
