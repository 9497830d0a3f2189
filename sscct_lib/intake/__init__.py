"""From a hospital's export to a study in which nobody can be recognised.

- `ingest.ingest`: chest CT series chosen, de-identified and listed in a manifest; `report.summarise`: what became of
  them.
- `clinical.read_values`: clinical values of one patient, as `sscct predict --clinical` takes them.
- `pseudonyms.read_identifiers`: what a hospital calls its patients, so that a study can be searched for it.
- `privacy_search.search_study`: what may point to a patient, in every file of a study.
"""
