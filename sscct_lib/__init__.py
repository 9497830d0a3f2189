"""Mortality of patients with systemic sclerosis from longitudinal chest CT.

One module for each notebook and a few shared ones; `CONTRIBUTING.md` draws the house.
"""

__version__ = "0.1.0"
