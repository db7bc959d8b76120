"""Conversion of foreign checkpoints, recognised by their keys."""
