"""Benchmarks: `python -m benchmarks NAME --json FILE`. Each is one module with a `rows()`."""
