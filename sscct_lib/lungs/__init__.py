"""Notebook 02: lung masks, made and judged."""
