"""wherry: a complete container engine in Python. ARCHITECTURE.md is the map."""

__version__ = "0.1.0"
