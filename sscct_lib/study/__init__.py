"""The ground: a study's folder, settings, schemas, tables, results, words and the style of figures.

- `folder.load_study`: a study and one of its runs, with validated settings; `folder.Study` says where a run keeps
  things.
- `settings.Settings`: everything that `study.yaml` may say.
- `schemas`: the columns of every table that one stage hands to another.
- `tables.read_table`, `tables.write_table`: tables checked against their schema; `tables.read_predictions`: those of
  all models of a run; `tables.read_csv`, `tables.write_csv`: tables of people and for people.
- `results.process`: one function over many scans, what is finished skipped, bad scans set aside.
- `results.show`: what a notebook needs before its first result; `results.told`: how far long work is.
- `files.atomic`: a file appears whole or not at all, among results with the user's seal; `files.copy_folder`;
  `seals.checksum`, `seals.write_secret`.
- `code.code_hash`: the code that a result rests on.
- `keys.to_make`: what a run lacks, or has otherwise than it is asked for now; `keys.refuse_out_of_date`: the same for
  readers; `keys.notebook_record`, `keys.scans_ingredients`: what a result is recorded with.
- `recovery.alone`: one run at a time; `recovery.set_aside`: what is damaged, or not this user's, is made again;
  `recovery.load_own`, `recovery.refuse_strange`: the same for readers.
- `seals.unsealed`: results that are not as this user's work left them; `seals.seal_all`: what another program wrote for
  the user.
- `runs.open_run`: a study in a notebook, in the run in which its parameters hold; `runs.beside`: the same for the
  command line; `runs.read_sweep`: a table of runs; `runs.share_results`: what runs share.
- `stages`: the names of notebooks and per-scan stages, and their order.
- `disclosure.count_texts`, `disclosure.count_text`, `disclosure.of_patients`: counts of patients and of their scans as
  text, without small ones; `disclosure.age_text`, `disclosure.quarters_text`, `disclosure.quarter_steps`.
- `words`: features, horizons, shares and estimates as readers see them.
- `plots`: the style of every figure.
"""
