"""What watching costs; run it as ``python -m benchmarks.observability``."""
