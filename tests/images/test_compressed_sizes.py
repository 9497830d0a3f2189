"""Images whose compressed content announces or becomes far more than their headers say: refused without memory."""

import gzip
import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from sscct_lib.deep.weights import load_weights
from sscct_lib.images import dicom, dicom_pixels, nifti
from sscct_lib.images.dicom_masks import read_dicom_mask
from sscct_lib.images.dicom_pixels import refuse_other_size
from sscct_lib.study.folder import StudyError
from sscct_lib.study.results import ScanError
from sscct_lib.study.seals import checksum
from tests.conftest import _memory_mb
from tests.images.dicom_samples import compress, enhanced, hounsfield, read_series, save, series, why_unusable
from tests.images.test_dicom_masks import LEFT_CODE, Sample, both_sides, write_seg

pytestmark = pytest.mark.usefixtures("little_memory")

HUGE = 60_000


def compressed(syntax, folder):
    """Make one compressed slice of 24 rows and 32 columns."""
    item = series(hounsfield(1))[0]
    compress(item, syntax, folder)
    return item


def frame_of(item) -> bytes:
    return next(generate_frames(item.PixelData, number_of_frames=1))


def larger(frame: bytes, syntax) -> bytes:
    """Let a codestream announce HUGE rows and columns."""
    content = bytearray(frame)
    if syntax == JPEG2000Lossless:
        struct.pack_into(">LL", content, 8, HUGE, HUGE)
        struct.pack_into(">LL", content, 24, HUGE, HUGE)
    else:
        struct.pack_into(">HH", content, start_of_frame(frame) + 5, HUGE, HUGE)
    return bytes(content)


def start_of_frame(frame: bytes) -> int:
    """Find the marker of JPEG or JPEG-LS that bits and size stand behind."""
    return next(i for i in range(len(frame)) if frame[i] == 0xFF and frame[i + 1] in (0xC3, 0xF7))


@pytest.fixture
def no_decoder(monkeypatch):
    """Fail a test in which GDCM is asked."""
    monkeypatch.setattr(sitk, "ReadImage", lambda *a, **k: pytest.fail("the bomb reached the decoder"))


CODESTREAMS = pytest.mark.parametrize(
    "syntax", [JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1], ids=lambda syntax: syntax.name
)


class TestCodestreams:
    @pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1, RLELossless])
    def test_an_honest_one_passes(self, tmp_path, syntax):
        refuse_other_size(compressed(syntax, tmp_path))

    @CODESTREAMS
    @pytest.mark.parametrize("n_pieces", [1, 3])
    def test_more_than_the_header_says(self, tmp_path, syntax, n_pieces, no_decoder):
        item = compressed(syntax, tmp_path)
        item.PixelData = encapsulate([larger(frame_of(item), syntax)], fragments_per_frame=n_pieces)
        with pytest.raises(ValueError, match=r"announce \{\(60000, 60000, 1\)\}, the header \(24, 32, 1\)"):
            refuse_other_size(item)
        (path,) = save([item], tmp_path / "series").iterdir()
        assert dicom_pixels._decode(path) is None

    @CODESTREAMS
    def test_more_bits_than_a_pixel_has(self, tmp_path, syntax, no_decoder):
        """GDCM's decoder of JPEG ends the process with a segmentation fault (found by fuzzing)."""
        item = compressed(syntax, tmp_path)
        frame = bytearray(frame_of(item))
        if syntax == JPEG2000Lossless:
            frame[42] = 0x7F  # of the component, less one
        else:
            frame[start_of_frame(bytes(frame)) + 4] = 128
        item.PixelData = encapsulate([bytes(frame)])
        with pytest.raises(ValueError, match="announce 128 bits, the header 16"):
            refuse_other_size(item)
        (path,) = save([item], tmp_path / "series").iterdir()
        assert dicom_pixels._decode(path) is None

    def test_a_scan_with_bombs_is_refused_as_a_whole(self, tmp_path, no_decoder):
        slices = series(hounsfield(40))
        for item in slices:
            compress(item, JPEGLSLossless, tmp_path)
            item.PixelData = encapsulate([larger(frame_of(item), JPEGLSLossless)])
        (files,), _ = dicom.find_series(save(slices, tmp_path / "series"))
        found = dicom.read_headers(files)
        assert why_unusable(found) == ""  # the headers are those of a chest CT
        with pytest.raises(ScanError, match="none of the 40 slices can be decoded"):
            read_series(found)

    def test_one_frame_of_many(self, tmp_path):
        item = enhanced(hounsfield(24))
        item.compress(JPEGLSLossless, generate_instance_uid=False)
        refuse_other_size(item)
        frames = list(generate_frames(item.PixelData, number_of_frames=24))
        item.PixelData = encapsulate([*frames[:20], larger(frames[20], JPEGLSLossless), *frames[21:]])
        with pytest.raises(ValueError, match="60000"):
            refuse_other_size(item)
        item.PixelData = encapsulate(frames[:20])
        with pytest.raises(ValueError, match="frames"):
            refuse_other_size(item)

    def test_a_second_image_in_a_jpeg_2000_file(self, tmp_path):
        item = compressed(JPEG2000Lossless, tmp_path)
        frame, boxes = frame_of(item), b"\0\0\0\x0cjP  \r\n\x87\n"
        item.PixelData = encapsulate([boxes + frame])
        refuse_other_size(item)
        item.PixelData = encapsulate([boxes + frame + larger(frame, JPEG2000Lossless)])
        with pytest.raises(ValueError, match="60000"):
            refuse_other_size(item)

    def test_tiles_without_number(self, tmp_path):
        item = compressed(JPEG2000Lossless, tmp_path)
        content = bytearray(frame_of(item))
        struct.pack_into(">LL", content, 24, 1, 1)
        item.Rows = item.Columns = 100
        struct.pack_into(">LL", content, 8, 100, 100)
        item.PixelData = encapsulate([bytes(content)])
        with pytest.raises(ValueError, match="more tiles"):
            refuse_other_size(item)

    def test_a_size_that_jpeg_ls_gives_beside_its_frame_header(self, tmp_path):
        item = compressed(JPEGLSLossless, tmp_path)
        frame = frame_of(item)
        other = b"\xff\xf8" + struct.pack(">HBBHH", 8, 4, 2, HUGE, HUGE)
        item.PixelData = encapsulate([frame[:2] + other + frame[2:]])
        with pytest.raises(ValueError, match="without a size"):
            refuse_other_size(item)

    @CODESTREAMS
    @pytest.mark.parametrize(
        "content", [b"", b"\xff", b"\xff\xd8\xff", b"\xff\x4f\xff\x51\0", bytes(100), b"\xff" * 99]
    )
    def test_what_is_no_codestream(self, tmp_path, syntax, content):
        item = compressed(syntax, tmp_path)
        item.PixelData = encapsulate([content]) if content else item.PixelData[:8]
        with pytest.raises((ValueError, struct.error)):
            refuse_other_size(item)

    def test_run_lengths_that_cannot_hold_the_picture(self, tmp_path):
        item = compressed(RLELossless, tmp_path)
        item.Rows = item.Columns = 4096
        with pytest.raises(ValueError, match="cannot hold"):
            refuse_other_size(item)


class TestSeries:
    def test_a_series_larger_than_its_files_can_hold(self, tmp_path):
        slices = series(hounsfield(40), Rows=4096, Columns=2048)
        (files,), _ = dicom.find_series(save(slices, tmp_path))
        assert "pixels announced in" in why_unusable(dicom.read_headers(files))

    def test_deflated_a_thousandfold(self, tmp_path):
        item = series(hounsfield(1))[0]
        item.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        (path,) = save([item], tmp_path).iterdir()
        content = path.read_bytes()
        start = 132 + 12 + struct.unpack("<L", content[140:144])[0]
        pack = zlib.compressobj(9, zlib.DEFLATED, -15)
        bomb = b"".join(pack.compress(bytes(1 << 20)) for _ in range(300)) + pack.flush()
        path.write_bytes(content[:start] + bomb)
        assert path.stat().st_size < 400_000
        with pytest.raises(ValueError, match="larger than any scan"):
            dicom.refuse_bomb(path)
        assert dicom.find_series(tmp_path) == ([], 1)
        with pytest.raises(ScanError, match="the mask is damaged"):
            read_dicom_mask(path, sitk.Image(9, 9, 9, sitk.sitkInt16))

    def test_nrrd_that_grows(self, tmp_path):
        header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 16 16 16\nspacings: 1 1 1\nencoding: gzip\n\n"
        bomb = io.BytesIO()
        with gzip.open(bomb, "wb", 9) as file:
            for _ in range(300):
                file.write(bytes(1 << 20))
        path = tmp_path / "scan.nrrd"
        path.write_bytes(header.encode() + bomb.getvalue())
        with pytest.raises(ScanError, match=r"scan\.nrrd"):
            nifti.read_volume(path)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return Sample(tmp_path_factory.mktemp("masks"))


class TestMasks:
    def test_slices_that_lie_far_apart(self, sample, tmp_path):
        """Two slices 100 km apart, a voxel of 5 mm: what lies between would be 20 million slices."""
        path = write_seg(sample, tmp_path / "m.dcm", {"left lung": (LEFT_CODE, sample.truth == 2)})
        item = pydicom.dcmread(path)
        item.PerFrameFunctionalGroupsSequence[-1].PlanePositionSequence[0].ImagePositionPatient[2] = 1e8
        item.save_as(path)
        with pytest.raises(ScanError, match=r"reaches beyond the scan|uneven steps"):
            read_dicom_mask(path, sample.scan)

    def test_compressed_frames_of_another_size(self, sample, tmp_path):
        path = write_seg(sample, tmp_path / "m.dcm", both_sides(sample), "FRACTIONAL")
        item = pydicom.dcmread(path)
        item.compress(JPEGLSLossless, generate_instance_uid=False)
        frames = list(generate_frames(item.PixelData, number_of_frames=item.NumberOfFrames))
        item.PixelData = encapsulate([larger(frame, JPEGLSLossless) for frame in frames])
        item.save_as(path)
        with pytest.raises(ScanError, match="the mask is damaged"):
            read_dicom_mask(path, sample.scan)


class TestWeights:
    def test_an_archive_that_grows(self, tmp_path):
        encoder = torch.nn.Linear(3, 2)
        stored, path = io.BytesIO(), tmp_path / "w.pt"
        torch.save({**encoder.state_dict(), "more": torch.zeros(1 << 20)}, stored)
        with zipfile.ZipFile(stored) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for member in whole.infolist():
                packed.writestr(member.filename, whole.read(member))
        with pytest.raises(StudyError, match=r"w\.pt is an archive that grows"):
            load_weights(encoder, path, checksum(path))

    def test_a_few_numbers_spread_out_to_many(self, tmp_path):
        encoder = torch.nn.Conv3d(1, 2, 3, bias=False)
        path = tmp_path / "w.pt"
        torch.save({"weight": torch.zeros(1).expand(1 << 20, 1 << 10, 3, 3)}, path)
        with pytest.raises(StudyError, match=r"holds no named tensors"):
            load_weights(encoder, path, checksum(path))


def test_the_peak_is_measured():
    """The fixture itself: 200 MB that were given back are seen."""
    before = _memory_mb("VmHWM")
    np.ones(25 << 20)
    assert _memory_mb("VmHWM") - before > 150
    Path("/proc/self/clear_refs").write_text("5")
