"""gradflow side by side with its peers, in one process. `python -m benchmarks --help`."""
