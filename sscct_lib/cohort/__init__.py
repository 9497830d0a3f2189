"""Notebook 01: who is in the study, and what became of them."""
