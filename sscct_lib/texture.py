"""PyRadiomics' features of one region, without its overhead."""

import logging
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from radiomics import getFeatureClasses, imageoperations

Hu = NDArray[np.int16]
Region = NDArray[np.bool_]

FEATURE_CLASSES = {name: cls for name, cls in getFeatureClasses().items() if name != "shape2D"}

# PyRadiomics tells of every fallback on its own logger; what concerns a user reaches him as a ScanError.
logging.getLogger("radiomics").setLevel(logging.ERROR)


def pyradiomics_features(hu: Hu, region: Region, spacing_zyx: tuple[float, ...], bin_width: float) -> dict[str, float]:
    """Compute PyRadiomics' features of a region on the original image.

    Parameters
    ----------
    hu
        Densities, HU, shape (z, y, x), cut to the bounding box of the region.
    region
        The region, shape (z, y, x).
    spacing_zyx
        Voxel sides, mm, in the order of the axes.
    bin_width
        Width of a grey-level bin, HU; bins are aligned with 0 HU.

    Returns
    -------
    dict
        107 features `original_<class>_<feature>` of the classes firstorder, glcm, gldm, glrlm, glszm, ngtdm
        and shape.

    References
    ----------
    van Griethuysen JJM, et al. Computational radiomics system to decode the radiographic phenotype.
    Cancer Res 2017;77:e104-7.
    """
    image, mask = sitk.GetImageFromArray(hu), sitk.GetImageFromArray(region.astype(np.uint8))
    for volume in (image, mask):
        volume.SetSpacing(spacing_zyx[::-1])
    bins = discretise(hu, region, bin_width)
    features = {}
    for name, cls in FEATURE_CLASSES.items():
        calculator = _with_bins(cls, bins)(image, mask, binWidth=bin_width)
        for feature, value in calculator.execute().items():
            features[f"original_{name}_{feature}"] = float(value)
    return features


def discretise(hu: Hu, region: Region, bin_width: float) -> NDArray[np.int64]:
    """Sort densities into grey-level bins as PyRadiomics does.

    Parameters
    ----------
    hu
        Densities, HU, shape (z, y, x).
    region
        The region, shape (z, y, x).
    bin_width
        Width of a bin, HU.

    Returns
    -------
    numpy.ndarray
        1 for the bin of the lowest density in the region, and so on; 0 outside the region; shape (z, y, x).
    """
    values = hu[region]
    # PyRadiomics' own edges, which need only the extremes; it hands all voxels to Python's slow min and max.
    edges = imageoperations.getBinEdges(np.array([values.min(), values.max()]), binWidth=bin_width)
    bins = np.zeros(hu.shape, dtype=np.int64)
    bins[region] = np.digitize(values, edges)
    return bins


def _with_bins(cls: type[Any], bins: NDArray[np.int64]) -> type[Any]:
    """Make a PyRadiomics class that takes grey levels as they are, for it would bin the image again."""

    def apply_binning(self: Any, matrix: NDArray[Any]) -> NDArray[np.int64]:
        levels = np.unique(bins[self.maskArray])
        self.coefficients.update(grayLevels=levels, Ng=int(levels[-1]))
        return bins

    return type(cls.__name__, (cls,), {"_applyBinning": apply_binning, "__module__": cls.__module__})
