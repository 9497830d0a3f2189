"""Scans and masks in one geometry."""
