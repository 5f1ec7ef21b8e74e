"""The loop that joins strategy, population and fitness. See :mod:`hyperfunc.optimization.loop`."""
