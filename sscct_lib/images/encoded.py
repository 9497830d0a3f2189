"""Volumes for a browser: compressed NIfTI files as text in base64, densities in 256 steps."""

import base64
import gzip
import struct
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from sscct_lib.images.prepare import on_grid_of

HU_RANGE = (-1024.0, 600.0)


def density_file(image: sitk.Image) -> str:
    """Encode densities in 256 steps; the header says how they become HU again."""
    low, high = HU_RANGE
    step = (high - low) / 255
    values = np.clip((sitk.GetArrayViewFromImage(image).astype(np.float32) - low) / step, 0, 255)
    return encoded(on_grid_of(image, np.rint(values).astype(np.uint8)), step, low)


def encoded(image: sitk.Image, slope: float = 1.0, intercept: float = 0.0) -> str:
    """Encode an image as a compressed NIfTI file in base64; voxel × slope + intercept is its value."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.nii"
        sitk.WriteImage(image, str(path))
        content = bytearray(path.read_bytes())
    struct.pack_into("<ff", content, 112, slope, intercept)  # scl_slope and scl_inter of NIfTI-1
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii")
