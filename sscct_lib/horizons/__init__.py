"""Notebook 05: how good risks of death are, whichever model made them; it knows predictions, and no model.

- `evaluation.Evaluation`: predictions checked, patients resampled, outcomes known: what everything else takes.
- `evaluate`: the table of performance; `comparison`: paired differences, and the true risk of a simulated study;
  `planned`: the comparisons that were planned before the run.
- `findings`: what a run found, in sentences made from its numbers by rules.
- `models`: the equal-weight ensemble, the models of the front page, variants; `tables`: what readers see of all these.
- `curves`: ROC, calibration, survival by third; `decisions`: net benefit, thresholds, a worked example.
- `subgroups`: views and groups of the cohort, thirds by spread; `sensitivity`: rules, shortcuts.
- `censoring`: whether loss depends on the patient; weights by the risk; what if the lost died, or lived.
- `survival`: follow-up, hazard ratios, competing causes; `trajectories`: risk over a patient's scans.
- `patients`: similar patients, the most wrong; `figures`: everything that is drawn.
- `sample_size`: how many patients a model needs, by Riley's criteria.
- `bootstrap`, `metrics`, `calibration`: intervals and measures in all resamples of patients at once.
"""
