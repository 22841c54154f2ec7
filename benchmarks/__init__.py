"""Measures gradflow and its peers side by side, in one process. `python -m benchmarks --help`."""
