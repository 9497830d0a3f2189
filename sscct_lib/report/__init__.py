"""One scan, one page; and a scan that was never in the study.

- `page.of_study`: everything that the page on a scan of the study shows; `page.read_tables` reads its tables once.
- `page.ScanReport`, `page.Tables`, `page.WEIGHTS`: the page's content, the tables, and the heading of the weights.
- `figure.scan_page`: the page drawn.
- `predict.predict_scan`: a scan from outside, judged by the models of a study.
- `page.Prediction`, `page.fields_described`: `prediction.json` and its fields, for the data dictionary.
"""
