"""Scans and masks in one geometry, from files that nobody vouches for.

- `prepare.prepare_scans`: the scans of a manifest, verified and in the study's orientation and spacing.
- `prepare.read_scan`, `prepare.to_hounsfield`, `prepare.resample`, `prepare.resample_mask`: the same, step by step.
- `prepare.read_result`, `prepare.write_image`: volumes that the study keeps.
- `nifti.read_volume`: any NIfTI, NRRD or MetaImage volume, judged before memory is taken for it, and not read where it
  is not said how the body lies in it.
- `dicom.find_series`, `dicom.read_headers`: the DICOM series of an export; `dicom.is_dicom`.
- `dicom_pixels.volumes_of`, `dicom_pixels.read_slices`: a series judged as a chest CT, and read as a volume.
- `dicom_masks.read_dicom_mask`: lungs from DICOM SEG or RTSTRUCT, on the grid of a scan.
- `dicom_export.write_dicom`: a prepared scan and its mask as DICOM; `encoded`: volumes for a browser.
- `masks`: shapes of masks, and the right lung told from the left.
- `reasons`: what reading a scan may find, what is done then, and how it is told.
- `scanners`: makers and kernels by the names that everybody uses; the batch of a scan for ComBat.
"""
