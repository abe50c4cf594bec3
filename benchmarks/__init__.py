"""Benchmarks of evenload against the published planners: ``python -m benchmarks.run``."""
