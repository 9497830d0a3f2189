"""What SECURITY.md promises: no pickle, no path out of the study, no shell, nothing huge, nothing that a page runs."""

import ast
import gzip
import logging
import os
import stat
import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import yaml
from typer.testing import CliRunner

from sscct_lib.book.reference import _fenced
from sscct_lib.cli.app import app
from sscct_lib.cohort.manifest import read_manifest
from sscct_lib.images import dicom, nifti, prepare
from sscct_lib.study import results
from sscct_lib.study.folder import StudyError, load_study, parse_yaml
from sscct_lib.study.results import ScanError
from sscct_lib.study.stages import PROJECT
from sscct_lib.study.tables import write_csv
from tests.images.dicom_samples import hounsfield, save, series, why_unusable

FORBIDDEN_CALLS = {
    "pickle.load", "pickle.loads", "pickle.dump", "pickle.dumps", "pickle.Unpickler", "joblib.load", "joblib.dump",
    "dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads", "cloudpickle.dump", "cloudpickle.dumps",
    "pd.read_pickle", "pandas.read_pickle", "torch.save", "shelve.open", "marshal.loads", "marshal.load", "os.system",
    "os.popen", "subprocess.getoutput", "eval", "exec", "yaml.unsafe_load", "yaml.full_load", "np.fromfile",
}  # fmt: skip
SOURCES = sorted(path for folder in ("sscct_lib", "notebooks", "workflow") for path in (PROJECT / folder).rglob("*.py"))


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [(ast.unparse(node.func), node) for node in nodes]


def keyword(call: ast.Call, name: str) -> str:
    return next((ast.unparse(one.value) for one in call.keywords if one.arg == name), "")


class TestCode:
    def test_there_is_code_to_look_at(self):
        assert len(SOURCES) > 100

    @pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
    def test_nothing_unpickles_runs_a_shell_or_evaluates_text(self, path):
        for name, call in calls(path):
            where = f"{path.name}:{call.lineno}: {name}"
            assert name not in FORBIDDEN_CALLS, where
            assert keyword(call, "shell") in ("", "False"), where
            assert keyword(call, "allow_pickle") in ("", "False"), where
            if name == "torch.load":
                assert keyword(call, "weights_only") == "True", where
            if name == "yaml.load":
                assert keyword(call, "Loader") == "_PlainLoader", where
            if name in ("skops.io.load", "skops.io.loads"):
                assert keyword(call, "trusted") == "TRUSTED_TYPES", where
            if name.endswith((".extractall", ".unpack_archive")):
                assert keyword(call, "filter") == "'data'", where

    def test_snakemake_runs_our_commands_alone(self):
        source = (PROJECT / "workflow" / "Snakefile").read_text()
        for word in ("script:", "notebook:", "run:", "os.system", "eval("):
            assert f"    {word}" not in source


class TestPlainYaml:
    @pytest.mark.parametrize(
        "text",
        ["!!python/object/apply:os.system [ls]", "!!binary aGk=", "a: &x [1]\nb: *x", "[" * 5000, "a: [", "? [a]\n: b"],
    )
    def test_tags_aliases_and_depth_are_refused(self, text):
        with pytest.raises(ValueError, match=r"."):
            parse_yaml(text)

    def test_values_are_plain(self):
        text = "{n: 3, x: 1.5, day: 2020-02-30, none: null, list: [true, a]}"
        assert parse_yaml(text) == {"n": 3, "x": 1.5, "day": "2020-02-30", "none": None, "list": [True, "a"]}

    def test_a_growing_text_does_not_grow(self, tmp_path):
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
        (tmp_path / "study.yaml").write_text("\n".join(lines))
        with pytest.raises(StudyError, match="anchors and aliases are not read"):
            load_study(tmp_path)


class TestPaths:
    @pytest.mark.parametrize(
        "image", ["../../etc/passwd", "/etc/passwd", "scans/../../x.nii.gz", "link/x.nii.gz", "loop"]
    )
    def test_an_image_outside_the_study_is_refused(self, study_of, manifest_frame, tmp_path, image):
        manifest_frame.loc[0, "image"] = image
        study = study_of(manifest_frame)
        outside = tmp_path.parent / "outside"
        outside.mkdir(exist_ok=True)
        (tmp_path / "link").symlink_to(outside)
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        with pytest.raises(StudyError, match=r"row 2, column image: .* expected a path inside the study folder"):
            read_manifest(study)

    def test_a_link_inside_the_study_is_followed(self, study_of, manifest_frame, tmp_path):
        (tmp_path / "disk").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "disk")
        manifest_frame["image"] = [f"link/{name}.nii.gz" for name in manifest_frame["scan_id"]]
        assert len(read_manifest(study_of(manifest_frame))) == 4

    @pytest.mark.parametrize("column", ["scan_id", "patient_id"])
    @pytest.mark.parametrize(
        "text", ["; rm -rf $HOME", "../../x", "a/b", "$(id)", "`id`", "-x", ".", "<b>", "a\nb", "="]
    )
    def test_ids_that_a_shell_or_a_folder_would_take_otherwise_are_refused(
        self, study_of, manifest_frame, column, text
    ):
        manifest_frame.loc[3, column] = text
        with pytest.raises(StudyError, match=f"row 5, column {column}"):
            read_manifest(study_of(manifest_frame))

    @pytest.mark.parametrize("run", ["; rm -rf $HOME", "../x", "a b", "-n", "", "$(id)", "a\n"])
    def test_names_of_runs_are_names_of_folders(self, study_of, manifest_frame, run):
        with pytest.raises(StudyError):
            load_study(study_of(manifest_frame).folder, run)

    def test_a_nrrd_header_cannot_name_another_file(self, tmp_path):
        (tmp_path / "secret.raw").write_bytes(bytes(2 * 16**3))
        header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 16 16 16\nencoding: raw\nendian: little\n"
        for line in ("data file: secret.raw", "DataFile: ../secret.raw", "datafile: LIST"):
            path = tmp_path / "scan.nrrd"
            path.write_text(f"{header}{line}\n\n")
            with pytest.raises(ScanError, match="refers to another file"):
                nifti.read_volume(path)

    @pytest.mark.parametrize("name", ["scan.mhd", "scan.img", "scan.hdr", "scan.png", "scan.vtk", "scan", "scan.nhdr"])
    def test_other_formats_are_not_opened(self, tmp_path, name):
        (tmp_path / name).write_text("ObjectType = Image\nElementDataFile = /etc/passwd\n")
        with pytest.raises(ScanError, match="is no NIfTI or NRRD image"):
            nifti.read_volume(tmp_path / name)


NOWHERE = {
    "two axes, and no place (ITK never ends)": [[0, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 2, np.nan]],
    "one axis twice": [[1.5, 1.5, 0, 0], [0, 0, 0, 0], [0, 0, 2, 0]],
    "an axis that is no number": [[np.nan, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 2, 0]],
    "an axis without end": [[1e38, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 2, 0]],
    "no axis": [[0, 0, 0, 0]] * 3,
}
WHERE = {
    "from the feet": np.diag([1.5, 1.5, 2, 1]),
    "mirrored and turned": np.array([[0, 1.5, 0, 9], [-1.5, 0, 0, 9], [0, 0, -2, 9], [0, 0, 0, 1.0]]),
    "oblique": nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(0.1, 0.2, 0.3) @ np.diag([1.5, 1.5, 2])),
}


@pytest.mark.parametrize("endianness", ["<", ">"])
class TestPlaceOfNifti:
    def written(self, folder, endianness, affine):
        header = nibabel.Nifti1Header(endianness=endianness)
        image = nibabel.Nifti1Image(np.zeros((8, 9, 10), np.int16), affine, header)
        image.set_qform(affine, 1)
        nibabel.save(image, folder / "scan.nii")
        return folder / "scan.nii"

    def refused(self, folder, endianness, changed):
        path = self.written(folder, endianness, np.diag([1.5, 1.5, 2, 1]))
        header = nibabel.Nifti1Header.from_fileobj(path.open("rb"))
        for name, value in changed.items():
            header[name] = value
        path.write_bytes(header.binaryblock + path.read_bytes()[len(header.binaryblock) :])
        with pytest.raises(ScanError, match=r"scan\.nii (lies at no finite place|lies in a plane|has voxels of)"):
            nifti.read_volume(path)

    @pytest.mark.parametrize("affine", WHERE.values(), ids=WHERE.keys())
    def test_what_lies_somewhere_is_read(self, tmp_path, endianness, affine):
        image = nifti.read_volume(self.written(tmp_path, endianness, affine))
        ras = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing() * [[-1], [-1], [1]]
        np.testing.assert_allclose(ras, affine[:3, :3], atol=1e-4)

    @pytest.mark.parametrize("rows", NOWHERE.values(), ids=NOWHERE.keys())
    def test_what_lies_nowhere_is_refused_at_once(self, tmp_path, endianness, rows):
        self.refused(tmp_path, endianness, dict(zip(("srow_x", "srow_y", "srow_z"), rows, strict=True)))

    def test_a_quaternion_that_is_no_number_is_refused(self, tmp_path, endianness):
        self.refused(tmp_path, endianness, {"quatern_b": np.nan})


def test_nifti_2_is_named(tmp_path):
    nibabel.save(nibabel.Nifti2Image(np.zeros((8, 9, 10), np.int16), np.eye(4)), tmp_path / "scan.nii.gz")
    with pytest.raises(ScanError, match=r"scan\.nii\.gz is NIfTI-2, expected NIfTI-1"):
        nifti.read_volume(tmp_path / "scan.nii.gz")


def test_a_nrrd_in_a_plane_is_refused(tmp_path):
    header = "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 9 9 9\n"
    text = (
        f"{header}space directions: (2,0,0) (2,0,0) (0,0,2)\nspace origin: (0,0,0)\nencoding: raw\nendian: little\n\n"
    )
    (tmp_path / "scan.nrrd").write_bytes(text.encode() + bytes(2 * 9**3))
    with pytest.raises(ScanError, match=r"scan\.nrrd lies in a plane, or at no finite place"):
        nifti.read_volume(tmp_path / "scan.nrrd")


def announcing(path: Path, size: tuple[int, int, int], content: bytes = b"") -> Path:
    """Write a NIfTI file whose header announces a size, with other content."""
    kind = nibabel.Nifti2Image if max(size) > 32767 else nibabel.Nifti1Image
    header = kind(np.zeros((8, 8, 8), np.int16), np.eye(4)).header.copy()
    header["dim"][1:4] = size
    header["vox_offset"] = len(header.binaryblock) + 4
    raw = header.binaryblock + b"\0\0\0\0" + content
    path.write_bytes(gzip.compress(raw, 9) if path.name.endswith(".gz") else raw)
    return path


@pytest.mark.usefixtures("little_memory")
class TestBombs:
    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    @pytest.mark.parametrize("size", [(10**6, 10**6, 10**6), (4096, 4096, 4096), (2**62, 2, 2), (-5, 9, 9)])
    def test_absurd_sizes(self, tmp_path, suffix, size):
        with pytest.raises(ScanError, match=r"scan\.nii"):
            prepare.read_scan(announcing(tmp_path / f"scan{suffix}", size))

    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    def test_a_possible_size_that_the_file_cannot_hold(self, tmp_path, suffix):
        with pytest.raises(ScanError, match="more than any compression can hold"):
            prepare.read_scan(announcing(tmp_path / f"scan{suffix}", (1024, 1024, 1000), bytes(1000)))

    def test_a_header_of_nrrd(self, tmp_path):
        for sizes in ("1000000 1000000 1000000", "1024 1024 1000"):
            text = f"NRRD0004\ntype: short\ndimension: 3\nsizes: {sizes}\nspacings: 1 1 1\nencoding: gzip\n\n"
            (tmp_path / "scan.nrrd").write_bytes(text.encode() + gzip.compress(bytes(10)))
            with pytest.raises(ScanError, match=r"scan\.nrrd"):
                prepare.read_scan(tmp_path / "scan.nrrd")

    def test_gzip_that_grows(self, tmp_path):
        path = announcing(tmp_path / "scan.nii", (16, 16, 16), bytes(2 * 16**3))
        bomb = tmp_path / "bomb.nii.gz"
        with gzip.open(bomb, "wb", 9) as file:
            file.write(path.read_bytes())
            for _ in range(400):
                file.write(bytes(1 << 20))
        assert bomb.stat().st_size < 1e6
        with pytest.raises(ScanError, match=r"holds more than the 8,544 bytes that its header announces"):
            prepare.read_scan(bomb)

    def test_deflated_dicom_that_grows(self, tmp_path, monkeypatch):
        monkeypatch.setattr(dicom, "MOST_INFLATED_BYTES", 1 << 24)
        import pydicom
        from pydicom.uid import DeflatedExplicitVRLittleEndian

        folder = save(series(hounsfield(20)), tmp_path)
        path = sorted(folder.rglob("*.dcm"))[0]
        item = pydicom.dcmread(path)
        item.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        item.save_as(path)
        dicom.refuse_bomb(path)
        content = path.read_bytes()
        start = 132 + 12 + struct.unpack("<L", content[140:144])[0]
        pack = zlib.compressobj(9, zlib.DEFLATED, -15)
        path.write_bytes(content[:start] + pack.compress(bytes(1 << 25)) + pack.flush())
        with pytest.raises(ValueError, match="larger than any scan"):
            dicom.refuse_bomb(path)
        groups, n_other = dicom.find_series(folder)
        assert (len(groups[0]), n_other) == (19, 1)

    def test_dicom_headers_that_announce_too_much(self, tmp_path):
        slices = series(hounsfield(20), Rows=65535, Columns=65535)
        (group,), _ = dicom.find_series(save(slices, tmp_path))
        assert "pixels a side" in why_unusable(dicom.read_headers(group))

    def test_a_coarse_scan_that_resampling_would_blow_up(self):
        image = sitk.Image(100, 100, 100, sitk.sitkInt16)
        image.SetSpacing((20.0, 20.0, 20.0))
        with pytest.raises(ScanError, match="8000 x 8000 x 8000 voxels"):
            prepare.resample(image, 0.25)


class TestText:
    def test_formulas_are_text_in_a_csv(self, tmp_path):
        cells = ["=1+1", "+1", "-1", "@x", "\tx", "plain", "a=b", None]
        write_csv(pd.DataFrame({"text": cells, "number": range(-4, 4)}), tmp_path / "t.csv")
        back = pd.read_csv(tmp_path / "t.csv", keep_default_na=False, dtype=str)
        assert back["text"].tolist() == ["'=1+1", "'+1", "'-1", "'@x", "'\tx", "plain", "a=b", ""]
        assert back["number"].tolist() == [str(number) for number in range(-4, 4)]

    def test_styled_tables_of_notebooks_escape_their_cells(self, monkeypatch):
        logger = logging.getLogger("sscct_lib")
        for name in ("handlers", "propagate", "level"):
            monkeypatch.setattr(logger, name, getattr(logger, name))
        frame = pd.DataFrame({"reason": ["<script>alert(1)</script>"]})
        with pd.option_context("styler.format.escape", None):
            results.show()
            assert "<script>" not in frame.style.hide(axis="index").to_html()
        assert "<script>" not in frame._repr_html_()

    def test_a_dollar_sign_is_no_formula(self):
        from sscct_lib.study import plots

        @plots.styled
        def draw():
            figure, axes = plots.new_figure(2.0)
            axes[0, 0].set_title("$x^$ \\foo $")
            figure.canvas.draw()

        draw()

    @pytest.mark.parametrize("title", ["<script>alert(1)</script>", "a\nb", "{raw}`x`", "[x](java:x)", "", "x" * 201])
    def test_a_title_is_one_line_of_words(self, tmp_path, title):
        (tmp_path / "study.yaml").write_text(yaml.safe_dump({"title": title}))
        with pytest.raises(StudyError, match="title: String should match pattern"):
            load_study(tmp_path)

    def test_no_text_ends_the_block_of_settings(self):
        text = "path: |\n  ```\n  ````\n  <script>alert(1)</script>\n"
        assert _fenced(text) == f"`````yaml\n{text}`````"


class TestFiles:
    def test_what_a_command_writes_is_its_users_alone(self, tmp_path):
        (tmp_path / "study").mkdir()
        (tmp_path / "study" / "study.yaml").write_text("demo: {n_patients: 1, n_scans: 1, spacing_mm: 8.0}")
        before = os.umask(0o022)
        try:
            made = CliRunner().invoke(app, ["demo", str(tmp_path / "study"), "--jobs", "1"])
            assert made.exit_code == 0, made.output
        finally:
            os.umask(before)
        written = [path for path in (tmp_path / "study").rglob("*") if path.name != "study.yaml"]
        assert len(written) > 5
        for path in written:
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path

    @pytest.mark.parametrize(("options", "expected"), [(["--group"], "0o27 1"), ([], "0o77 0")])
    def test_a_group_may_read_when_asked(self, tmp_path, monkeypatch, options, expected):
        monkeypatch.setenv("SSCCT_GROUP", "")  # so that it is as before in the end
        monkeypatch.delenv("SSCCT_GROUP")
        before = os.umask(0o022)
        try:
            CliRunner().invoke(app, [*options, "check", str(tmp_path)])
        finally:
            made = os.umask(before)
        assert f"{oct(made)} {os.environ['SSCCT_GROUP']}" == expected


WRITING = {
    "write_text", "write_bytes", "to_csv", "to_parquet", "to_excel", "save", "savez", "savefig", "save_file", "dump",
    "WriteImage", "copyfile", "copy2", "copytree", "move", "symlink_to", "link",
}  # fmt: skip
WHOLE = {"atomic", "write_if_changed", "write_keyed", "write_secret", "put"}
"""What lets a file appear whole, with the user's seal where it is a result."""
OTHERWISE = {
    "book/chapters.py _forget": "a notebook beside the log, before it is put in its place",
    "book/editions.py copy_browser_files": "pages, which are sealed together",
    "book/pdf.py print_book": "a page that is removed when it was printed",
    "images/encoded.py encoded": "a temporary folder",
    "deep/weights.py _download": "the partial file that its caller made",
    "images/nifti.py unnamed": "a temporary folder",
    "intake/report.py write_for_excel": "the partial file that its caller made",
    "report/predict.py _study_for_one": "a temporary folder",
    "study/code.py _keep": "the user's cache",
    "study/files.py _copy": "pages, which are sealed together",
    "study/plots.py draw": "memory",
    "study/recovery.py alone": "a lock, which nobody reads",
    "study/seals.py write_secret": "a key",
    "study/seals.py _opened": "the seals",
}


def called(node: ast.AST) -> set[str]:
    """The names of all that is called below a node; `open w` for a file that is opened to be written."""
    calls = [one for one in ast.walk(node) if isinstance(one, ast.Call)]
    names = {getattr(one.func, "attr", getattr(one.func, "id", "")) for one in calls}
    modes = [
        value.value
        for one in calls
        if getattr(one.func, "attr", getattr(one.func, "id", "")) == "open"
        for value in (*one.args, *(keyword.value for keyword in one.keywords))
        if isinstance(value, ast.Constant) and isinstance(value.value, str) and len(value.value) < 4
    ]
    return names | ({"open w"} if any(set(mode) & set("wax") for mode in modes) else set())


def test_there_is_one_way_to_write_a_file_and_the_others_are_known():
    package = PROJECT / "sscct_lib"
    functions = {
        f"{path.relative_to(package)} {function.name}": called(function)
        for path in sorted(package.rglob("*.py"))
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef)
    }
    raw = {name for name, calls in functions.items() if calls & (WRITING | {"open w"}) and not calls & WHOLE}
    assert raw == set(OTHERWISE)
