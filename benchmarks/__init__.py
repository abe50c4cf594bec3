"""What evenload is measured by: `python -m benchmarks.run` and `python -m benchmarks.baseline`."""
