"""Notebook 01: who is in the study, and what became of them.

- `manifest.read_manifest`: one row per scan, every violation named.
- `selection.select`, `selection.build_cohort`: exclusions with their counts; labels, and folds split by patient.
- `selection.select_masks`, `selection.select_features`: what later stages leave out; `selection.flow_text`: in words.
- `outcomes.survival_outcome`, `outcomes.known_outcomes`: what models learn from, with weights for unknown states.
- `outcomes.censoring_weights`, `outcomes.patient_weights`: weights by follow-up, and by patient.
- `tables`: who the patients are, what is missing for whom, and who was alive when; `figures.flow_diagram`.
"""
