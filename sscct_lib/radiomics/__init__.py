"""Notebook 03: features of the lungs, and risks from them."""
