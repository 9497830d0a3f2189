"""Mortality of patients with systemic sclerosis from longitudinal chest CT.

Twelve packages, bottom up; each imports only from those above it in this list:

- `study`: the ground: a study's folder, settings, schemas, tables, results, words and the style of figures.
- `images`: scans and masks in one geometry. `demo`: the synthetic study, its truth apart.
- `intake`: from a hospital's export to a study. `cohort`: notebook 01. `lungs`: notebook 02.
- `horizons`: notebook 05, which judges risks and knows no model.
- `radiomics`: notebook 03. `deep`: notebook 04. Both make risks; neither knows the other.
- `report`: one scan, one page; a scan from outside.
- `book`: the rendered book.
- `cli`: the command `sscct`.
"""

__version__ = "0.1.0"
