"""A plugin for hyperfunc: an agent type, a scorer, a strategy, a memory backend and an exporter.

Import things from their modules. Nothing is imported here, because loading ``hyperfunc_wordplay.plugin`` runs this file
too, and hyperfunc loads every plugin before it knows whether torch will be needed.
"""
