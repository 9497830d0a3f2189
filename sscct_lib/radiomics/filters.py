"""The filtered images of PyRadiomics, bit for bit, in compiled loops.

PyRadiomics takes its Laplacian of Gaussian from SimpleITK and its wavelet from PyWavelets, which work along one line
of voxels at a time. Here many lines advance together, so that a processor's vector units do the same sums in the same
order. A machine that rounds sums otherwise is noticed, and PyRadiomics' own filters are used there. Images are HU,
shape (z, y, x), and each filtered one comes with PyRadiomics' name for it.
"""

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pywt
import SimpleITK as sitk
from numba import njit
from numpy.typing import NDArray
from radiomics import imageoperations

from sscct_lib.study.settings import RadiomicsSettings

MIN_SIDE = 8  # voxels; a wavelet of six wraps around a shorter side more than once
LANES = 32  # lines that advance together

Hu = NDArray[np.int16]
Singles = NDArray[np.float32]
Doubles = NDArray[np.float64]
Named = tuple[str, NDArray[Any]]

# Deriche's exponentials (A, B) of the Gaussian and of its second derivative; W and L are common to both.
GAUSSIAN = (1.3530, 1.8151, -0.3531, 0.0902)
SECOND = (-1.3563, 5.2318, 0.3446, -2.2355)
W1, L1, W2, L2 = 0.6681, -1.3932, 2.0787, -1.3732


def image_types(hu: Hu, spacing: tuple[float, ...], settings: RadiomicsSettings) -> Iterator[Named]:
    """Yield name and values (z, y, x) of the original image and what filters make of it; spacing x, y, z in mm."""
    yield "original", hu
    yield from log_images(hu, spacing, settings.log_sigma_mm)
    if settings.wavelet:
        yield from wavelet_images(hu)


def log_images(hu: Hu, spacing: tuple[float, ...], sigmas_mm: tuple[float, ...]) -> Iterator[Named]:
    """Yield the Laplacian of Gaussian (float32; Deriche R. INRIA report 1893, 1993) for each width; spacing x, y, z."""
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(spacing)
    for sigma in sigmas_mm:
        # No voxel is filtered until it is asked for: PyRadiomics leaves out a width too great for the image.
        room = min(hu.shape) >= 4 and all(
            n >= math.ceil(sigma / side) + 1 for n, side in zip(hu.shape[::-1], spacing, strict=True)
        )
        if room and same_arithmetic():
            yield f"log-sigma-{str(float(sigma)).replace('.', '-')}-mm-3D", _laplacian(hu, spacing, sigma)
        else:
            for filtered, name, _ in imageoperations.getLoGImage(image, None, sigma=[sigma]):
                yield name, sitk.GetArrayFromImage(filtered)


def wavelet_images(hu: Hu) -> Iterator[Named]:
    """Yield the eight bands (float64) of an undecimated wavelet, coiflet 1: low or high along x, y and z."""
    if min(hu.shape) >= MIN_SIDE and same_arithmetic():
        yield from _bands(hu)
        return
    for filtered, name, _ in imageoperations.getWaveletImage(sitk.GetImageFromArray(hu), None):
        yield name, sitk.GetArrayFromImage(filtered)


@cache
def same_arithmetic() -> bool:
    """Whether our loops round as SimpleITK and PyWavelets do on this machine."""
    hu = np.random.default_rng(0).integers(-1024, 600, (11, 10, 13)).astype(np.int16)
    spacing = (0.7, 1.1, 1.5)
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(spacing)
    theirs = [sitk.GetArrayFromImage(next(imageoperations.getLoGImage(image, None, sigma=[2.5]))[0])]
    theirs += [sitk.GetArrayFromImage(band) for band, _, _ in imageoperations.getWaveletImage(image, None)]
    ours = [_laplacian(hu, spacing, 2.5), *(values for _, values in _bands(hu))]
    return all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))


def _laplacian(hu: Hu, spacing: tuple[float, ...], sigma_mm: float) -> Singles:
    """Sum the second derivatives along x, y and z, each smoothed along the other two axes."""
    volume = hu.astype(np.float32)
    total = np.zeros_like(volume)
    smooth, derive = ([_recursion(sigma_mm / side, order, sigma_mm) for side in spacing] for order in (0, 2))
    for axis in range(3):
        part = _filtered(volume, axis, derive[axis])
        for other in range(3):
            if other != axis:
                part = _filtered(part, other, smooth[other])
        _add(total.reshape(-1), part.reshape(-1), 1.0 / (spacing[axis] * spacing[axis]))
    return total


@njit(cache=True)
def _add(total: Singles, part: Singles, scale: float) -> None:
    for i in range(len(total)):
        total[i] = np.float32(np.float64(total[i]) + np.float64(part[i]) * scale)


def _numerator(sigma: float, a1: float, b1: float, a2: float, b2: float) -> tuple[Doubles, float, float, float]:
    """The four coefficients of a sum of two damped waves, and their moments."""
    sin1, sin2, cos1, cos2 = (f(w / sigma) for f in (math.sin, math.cos) for w in (W1, W2))
    exp1, exp2 = math.exp(L1 / sigma), math.exp(L2 / sigma)
    n0 = a1 + a2
    n1 = exp2 * (b2 * sin2 - (a2 + 2 * a1) * cos2)
    n1 += exp1 * (b1 * sin1 - (a1 + 2 * a2) * cos1)
    n2 = (a1 + a2) * cos2 * cos1
    n2 -= b1 * cos2 * sin1 + b2 * cos1 * sin2
    n2 *= 2 * exp1 * exp2
    n2 += a2 * exp1 * exp1 + a1 * exp2 * exp2
    n3 = exp2 * exp1 * exp1 * (b2 * sin2 - a2 * cos2)
    n3 += exp1 * exp2 * exp2 * (b1 * sin1 - a1 * cos1)
    return np.array([n0, n1, n2, n3]), n0 + n1 + n2 + n3, n1 + 2 * n2 + 3 * n3, n1 + 4 * n2 + 9 * n3


def _recursion(sigma: float, order: int, sigma_mm: float) -> Doubles:
    """Coefficients of a recursive Gaussian or of its second derivative, in the order of operations of ITK."""
    # Rows: forward weights N, backward weights M, feedback D, and the feedback of what lies beyond either end.
    cos1, cos2 = math.cos(W1 / sigma), math.cos(W2 / sigma)
    exp1, exp2 = math.exp(L1 / sigma), math.exp(L2 / sigma)
    d4 = exp1 * exp1 * exp2 * exp2
    d3 = -2 * cos1 * exp1 * exp2 * exp2
    d3 += -2 * cos2 * exp2 * exp1 * exp1
    d2 = 4 * cos2 * cos1 * exp1 * exp2
    d2 += exp1 * exp1 + exp2 * exp2
    d1 = -2 * (exp2 * cos2 + exp1 * cos1)
    sd = 1.0 + d1 + d2 + d3 + d4
    dd = d1 + 2 * d2 + 3 * d3 + 4 * d4
    ed = d1 + 4 * d2 + 9 * d3 + 16 * d4
    n, sn, dn, en = _numerator(sigma, *GAUSSIAN)
    if order == 0:
        n *= 1.0 / (2 * sn / sd - n[0])
    else:
        second, sn2, dn2, en2 = _numerator(sigma, *SECOND)
        beta = -(2 * sn2 - sd * second[0]) / (2 * sn - sd * n[0])
        n = second + beta * n
        sn, dn, en = sn2 + beta * sn, dn2 + beta * dn, en2 + beta * en
        alpha = en * sd * sd - ed * sn * sd - 2 * dn * dd * sd + 2 * dd * dd * sn
        alpha /= sd * sd * sd
        n *= sigma_mm * sigma_mm / alpha
    n0, n1, n2, n3 = n
    m1, m2, m3, m4 = n1 - d1 * n0, n2 - d2 * n0, n3 - d3 * n0, -d4 * n0
    d = np.array([d1, d2, d3, d4])
    before, after = (d * total / sd for total in (n0 + n1 + n2 + n3, m1 + m2 + m3 + m4))
    return np.array([n, [m1, m2, m3, m4], d, before, after])


def _filtered(volume: Singles, axis: int, coefficients: Doubles) -> Singles:
    """Filter a volume (z, y, x) along x (0), y (1) or z (2)."""
    depth, height, width = volume.shape
    shape = {0: (depth * height, width, 1), 1: (depth, height, width), 2: (1, depth, height * width)}[axis]
    out = np.empty(shape, np.float32)
    _filter(volume.reshape(shape), coefficients, out)
    return out.reshape(volume.shape)


@njit(cache=True)
def _filter(volume: Singles, coefficients: Doubles, out: Singles) -> None:
    """Filter along the middle axis; lines of the last axis, or of the first where the last is 1, advance together."""
    outer, n, inner = volume.shape
    # What lies beyond either end is its last voxel: four more rows on both sides.
    data = np.zeros((n + 8, LANES))
    forward, backward = np.zeros_like(data), np.zeros_like(data)
    if inner == 1:
        for begin in range(0, outer, LANES):
            lanes = min(LANES, outer - begin)
            for lane in range(lanes):
                for i in range(n):
                    data[i + 4, lane] = volume[begin + lane, i, 0]
            _advance(data, forward, backward, coefficients)
            for lane in range(lanes):
                for i in range(n):
                    out[begin + lane, i, 0] = forward[i + 4, lane] + backward[i + 4, lane]
        return
    for line in range(outer):
        for begin in range(0, inner, LANES):
            lanes = min(LANES, inner - begin)
            for i in range(n):
                for lane in range(lanes):
                    data[i + 4, lane] = volume[line, i, begin + lane]
            _advance(data, forward, backward, coefficients)
            for i in range(n):
                for lane in range(lanes):
                    out[line, i, begin + lane] = forward[i + 4, lane] + backward[i + 4, lane]


@njit(cache=True)
def _advance(data: Doubles, forward: Doubles, backward: Doubles, coefficients: Doubles) -> None:
    """Filter all lanes forwards and backwards; numba compiles copies of whole rows four times as long."""
    ahead, behind, feedback = coefficients[0], coefficients[1], coefficients[2]
    before, after = coefficients[3], coefficients[4]
    n = len(data) - 8
    for i in range(4):
        for lane in range(LANES):
            data[i, lane] = forward[i, lane] = data[4, lane]
            data[n + 4 + i, lane] = backward[n + 4 + i, lane] = data[n + 3, lane]
    fed = np.zeros(4)
    for i in range(n):
        for k in range(4):
            fed[k] = feedback[k] if k < i else before[k]
        _step(forward, i + 4, data, i + 4, -1, ahead, fed)
    for i in range(n):
        for k in range(4):
            fed[k] = feedback[k] if k < i else after[k]
        _step(backward, n + 3 - i, data, n + 4 - i, 1, behind, fed)


@njit(cache=True)
def _step(out: Doubles, i: int, data: Doubles, first: int, way: int, weights: Doubles, fed: Doubles) -> None:
    """Weigh four rows of data, then take away four weighted rows of what came out."""
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    f0, f1, f2, f3 = fed[0], fed[1], fed[2], fed[3]
    row, d0, d1, d2, d3 = out[i], data[first], data[first + way], data[first + 2 * way], data[first + 3 * way]
    for lane in range(LANES):
        row[lane] = d0[lane] * w0 + d1[lane] * w1 + d2[lane] * w2 + d3[lane] * w3
    o0, o1, o2, o3 = out[i + way], out[i + 2 * way], out[i + 3 * way], out[i + 4 * way]
    for lane in range(LANES):
        row[lane] -= o0[lane] * f0 + o1[lane] * f1 + o2[lane] * f2 + o3[lane] * f3


def _bands(hu: Hu) -> Iterator[Named]:
    """Filter along x, y and z in turn, each image into low and high frequencies."""
    even = np.pad(hu.astype(float), [(0, side % 2) for side in hu.shape], "wrap")
    inside = tuple(slice(side) for side in hu.shape)
    lowest = even  # comes last, as in PyRadiomics
    for name_x, along_x in _split(even, 2):
        for name_y, along_y in _split(along_x, 1):
            for name_z, along_z in _split(along_y, 0):
                if name_x + name_y + name_z == "LLL":
                    lowest = along_z
                else:
                    yield f"wavelet-{name_x}{name_y}{name_z}", along_z[inside]
    yield "wavelet-LLL", lowest[inside]


def _split(volume: Doubles, axis: int) -> list[tuple[str, Doubles]]:
    wavelet = pywt.Wavelet("coif1")
    flat = volume.reshape(math.prod(volume.shape[:axis]), volume.shape[axis], -1)
    low, high = np.empty_like(flat), np.empty_like(flat)
    _convolve(flat, np.array(wavelet.dec_lo), np.array(wavelet.dec_hi), low, high)
    return [("L", low.reshape(volume.shape)), ("H", high.reshape(volume.shape))]


@njit(cache=True)
def _convolve(volume: Doubles, low: Doubles, high: Doubles, out_low: Doubles, out_high: Doubles) -> None:
    """Convolve along the middle axis with two filters of six, around the ends."""
    outer, n, inner = volume.shape
    for line in range(outer):
        for i in range(n):
            # The order in which PyWavelets adds: what wraps around the far end comes first, the other way round.
            wrapped = max(i + 3 - n + 1, 0)
            out_low[line, i] = 0.0
            out_high[line, i] = 0.0
            for j in range(6):
                k = wrapped - 1 - j if j < wrapped else j
                source = volume[line, (i + 3 - k) % n]
                for lane in range(inner):
                    out_low[line, i, lane] += low[k] * source[lane]
                for lane in range(inner):
                    out_high[line, i, lane] += high[k] * source[lane]
