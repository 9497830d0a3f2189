"""Notebook 04: networks that read scans, and their risks.

Train and predict:
- `cross_validation.cross_validate`: out-of-fold risks of a cohort; `predict_risks`: risks of new scans.
- `prediction.fold_model`, `cards`, `shipped`: trained networks and what their cards say; `predict`: risks by one.
- `longitudinal.cross_validate_all`: risks from all scans of a patient up to each.
- `networks.build`, `HazardNetwork`, `display_name`: a network, untrained, and its name in tables.

Weights to start from:
- `weights.fetch`, `located`, `check_weights`, `table`: published weights and the files of a study.
- `weights.load_weights`: a file's tensors in an encoder, counted.
- `pretraining.pretrain_folds`: encoders that learned from a study's own scans.

Look into:
- `explain.explain_scan`, `attribute_scans`, `sanity`: zones and voxels that a risk rests on, and a check of the maps.
- `lesions.lesion_table`: whether networks look at disease, in a simulated study.
- `out_of_distribution.flag_all`, `flag_new`: scans unlike those that a network learned from.
- `cubes.cube_path`, `view_of`, `load_cubes`: what a network sees.
- `tables`, `figures`: what notebook 04 shows.
"""
