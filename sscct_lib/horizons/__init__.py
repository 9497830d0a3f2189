"""Notebook 05: how good risks are, whatever made them."""
