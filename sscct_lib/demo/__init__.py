"""The synthetic study, whose truth is known and kept apart.

- `make.write_demo`: the demo study: manifest, truth and every scan that is not there yet.
- `make.make_scans`: scans and true masks of some rows of its manifest, as the workflow asks for them.
- `make.write_dicom_demo`: the demo as a hospital would export it.
"""
