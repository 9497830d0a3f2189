"""Notebook 02: lung masks, made and judged.

- `segment.segment_scans`: masks of many scans, made, judged and kept.
- `segment.load_lungs`: a prepared scan with its mask.
- `segment.usable`, `segment.removed`: scans whose lungs the models may see, and those that quality assurance removes.
- `segment.examine`: the lungs of one scan that belongs to no study.
- `trained.chosen_methods`, `trained.check_method`: the methods of a study, and whether what they need is there.
- `decisions`: what people decided: `read_decisions`, `add_decision`, `check_decisions`.
- `review.Review`: scans shown one by one in JupyterLab to a person who decides; `agreement`: how far two readers agree.
- `mending.export_masks`, `mending.import_masks`: masks that a person mends in other software.
- `verdict.SEVERE`: the measures for which a scan can fail.
- `figures.overlay`: a scan and its mask in three planes; `figures.worst_first`, `figures.spread`: which scans to show.
- `tables`: what notebook 02 shows as tables.
- `figures`: what it draws; `figures.draw_plane` draws one plane for other figures too.
"""
