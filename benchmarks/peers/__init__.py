"""Contenders: each a script for one interpreter, speaking the protocol of ``benchmarks.harness``."""
