"""Notebook 04: networks that read scans, and their risks."""
