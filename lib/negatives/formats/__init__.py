"""Negatives files of other systems."""
