"""What is claimed about speed, measured against hand-written floors in the same run: `python -m benchmarks`."""
