"""Benchmarks: ratios against peers on the same work, interleaved, medians, losses included."""
