"""Notebook 03: features of the lungs, and risks from them.

Features
- `extract.extract_scans`: PyRadiomics' features and quantitative CT of every scan.
- `stability.versions_of_scans`: the same of slightly changed scans.
- `pipeline.feature_agreement`: how well each feature agrees between such versions (ICC).

Models
- `feature_sets.join`: outcome, clinical values and features of each scan side by side.
- `cross_validation.cross_validate`: out-of-fold risks of every model; `predict_removed`: of scans that trained none.
- `clinical_scores.predict`: the same of age and sex, lung function, GAP, ILD-GAP, SADL and Goh's stage.
- `explain.held_out_importance`: what a model loses without a kind of feature.
- `explain.feature_weights`, `leading_features`, `accumulated_effects`: what a model makes of single features.

Models that travel
- `saved.save_models`: fitted on all scans, on disk with a card; `saved.predict_risks`: risks of new scans.
- `saved.load_model`, `pipeline.design`, `pipeline.prepared`: one of them, and what it sees of a scan.

What readers see
- `tables`, `figures`: tables and plots of notebook 03.
"""
