"""How a synthetic scan was taken: scanner, kernel, dose, slice thickness, breath, contrast, and what they do."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from sscct_lib.demo.geometry import Floats

WIDE_FIELD_MM = 356.0  # shows the whole chest


@dataclass(frozen=True)
class Protocol:
    """How a scan was taken."""

    sharp: bool  # the kernel enhances edges, at the price of fine-grained noise
    blur_mm: float  # standard deviation of the point spread in the axial plane
    noise_hu: float  # standard deviation of noise in a voxel of 1 mm of an average body
    slice_thickness_mm: float
    inspiration: float  # height of the lungs, 1 at full inspiration of healthy lungs
    contrast: bool = False  # the vessels are enhanced
    missed_mm: float = 0.0  # how much of the bases lies below the scanned range
    field_mm: float = WIDE_FIELD_MM  # a narrow field cuts the sides of the lungs


def acquire(
    hu: Floats, body: Floats, protocol: Protocol, spacing_mm: float, rng: np.random.Generator
) -> NDArray[np.int16]:
    """Blur and add noise, as the scanner and its reconstruction would; int16 HU, as 12-bit scanners store it."""
    axial = protocol.blur_mm / spacing_mm
    along = protocol.slice_thickness_mm / np.sqrt(12) / spacing_mm
    out = gaussian_filter(hu, (along, axial, axial), mode="nearest", truncate=3.0)
    if protocol.sharp:
        halo = 1.1 / spacing_mm
        out += 0.35 * (out - gaussian_filter(out, (0, halo, halo), mode="nearest", truncate=3.0))
    out += _noise(body, protocol, spacing_mm, rng)
    return np.clip(np.rint(out), -1024, 3071).astype(np.int16)


def _noise(body: Floats, protocol: Protocol, spacing_mm: float, rng: np.random.Generator) -> Floats:
    """Noise with the kernel's grain, stronger in wide slices, where it also streaks from side to side."""
    grain = (0.35 if protocol.sharp else 0.85) / spacing_mm
    noise = rng.standard_normal(body.shape, dtype=np.float32)
    noise = gaussian_filter(noise, (0.0, grain, grain), mode="wrap", truncate=3.0)
    # Averaging over a larger voxel removes more of fine grain than of coarse grain.
    noise *= protocol.noise_hu * spacing_mm ** (-0.8 if protocol.sharp else -0.5) / noise.std()
    area = (body < 0).mean(axis=(1, 2))
    attenuation = np.exp(1.6 * (area / max(float(np.median(area)), 1e-3) - 1)).astype(np.float32)
    wide = np.clip(attenuation - 1.15, 0, 1.2)
    noise *= np.clip(attenuation, 0.6, 2.5)[:, None, None]
    at = np.flatnonzero(wide > 0)
    if len(at):
        streaks = gaussian_filter1d(rng.standard_normal((len(at), *body.shape[1:]), dtype=np.float32), 6.0 / spacing_mm)
        noise[at] += streaks * (1.4 * protocol.noise_hu * wide[at])[:, None, None]
    return noise
