"""The rendered book of a run: notebooks executed, chapters and generated pages assembled, two editions and a PDF.

- `build.build_book`: the book of a run, rendered; `chapters.is_current`: whether it shows what the run has;
  `chapters.front_page`: where it begins.
- `chapters.missing_stages`: which notebooks of a run are not there, and why.
- `editions.without_folders`: settings without the places of a machine.
- `chapters.run_notebook`: one notebook, executed on a study.
- `chapters.write_provenance`: what made the result of a stage.
- `pdf.print_book`: the clinicians' edition as one PDF.
- `sweep.compare`: the runs of a sweep against the first; `sweep.state`: whether a run has changed since.
"""
