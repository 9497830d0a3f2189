"""The ground: a study's folder, settings, schemas, tables, results, words and the style of figures.

- `folder.load_study`: a study and one of its runs, with validated settings; `folder.Study` says where a run keeps
  things.
- `settings.Settings`: everything that `study.yaml` may say.
- `schemas`: the columns of every table that one stage hands to another.
- `tables.read_table`, `tables.write_table`: tables checked against their schema; `tables.read_predictions`: those of
  all models of a run; `tables.read_csv`, `tables.write_csv`: tables of people and for people.
- `results.process`: one function over many scans, what is finished skipped, bad scans set aside.
- `results.show`: what a notebook needs before its first result; `results.told`: how far long work is.
- `files.atomic`: a file appears whole or not at all; `files.checksum`, `files.write_secret`, `files.copy_folder`.
- `code.code_hash`: the code that a result rests on.
- `recovery.alone`: one run at a time; `recovery.set_damaged_aside`: damaged results are made again.
- `sweeps.read_sweep`: a table of runs with other settings; `sweeps.share_results`: what these runs share.
- `stages`: the names of notebooks and per-scan stages, and their order.
- `words`: features, horizons, shares and estimates as readers see them.
- `plots`: the style of every figure.
"""
