"""Data that every layer shares: ids, image references, OCI structures. No effects, standard library only."""
