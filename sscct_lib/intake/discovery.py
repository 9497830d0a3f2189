"""What lies below the folder of an export, in one pass: files that may be DICOM, volumes, and the rest by its kind.

Links to folders are followed, and a folder is read once, however many ways lead to it.
"""

import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from sscct_lib.images.nifti import DETACHED, MAGIC_HDR, is_volume, without_suffix
from sscct_lib.images.reasons import Told, told
from sscct_lib.study.folder import SETTINGS_FILE

PREAMBLE_BYTES = 128

OF_THE_SYSTEM = {".ds_store", "thumbs.db", "desktop.ini", "ehthumbs.db", ".localized", "icon\r"}
SYSTEM_FOLDERS = {"__macosx", "$recycle.bin", "system volume information"}
KINDS = {
    "archive": (".zip", ".tar", ".tgz", ".tbz2", ".gz", ".bz2", ".xz", ".7z", ".rar", ".zst", ".iso", ".dmg"),
    "image of another format": (
        ".raw", ".zraw", ".img", ".mgz", ".mgh", ".mnc", ".vtk", ".vti", ".npy", ".npz", ".h5", ".hdf5", ".mat", ".hdr",
        ".bin", ".nia", ".gipl", ".pic", ".am", ".b2nd",
    ),
    "picture": (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".mp4", ".avi", ".mov", ".webp"),
}  # fmt: skip
REASON_OF_KIND = {
    "archive": "archives",
    "image of another format": "other_formats",
    "picture": "pictures",
    "mask": "masks_beside",
    "second channel": "second_channels",
    "system file": "system_files",
    "other file": "other_files",
}

KIND_OF_COUNT = {"no_series": "DICOM", "closed": "folder or file", "read_once": "link", "broken_links": "link"}

MASK = r"(seg|segs|segmentations?|masks?|lungmask|lobes|labels?|labelmap|rois?|dseg)"
MASK_FOLDERS = re.compile(
    r"(labels?(tr|ts|val)?|segmentations?|segs?|(lung_?)?masks?|annotations?|derivatives|ground_?truth|gt|rois?)", re.I
)
MASK_NAMES = re.compile(rf"{MASK}[-_]?\d*|.*[-_. ]{MASK}\d*([-_. ].*)?", re.IGNORECASE)
CHANNEL = re.compile(r"_(\d{4})$")


@dataclass
class Tree:
    """What lies below a folder."""

    dicom: list[Path] = field(default_factory=list)  # files that begin as DICOM does
    volumes: list[Path] = field(default_factory=list)  # NIfTI, NRRD and MetaImage; of two files, the header
    others: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))  # by kind, see `REASON_OF_KIND`
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # of links and folders, by reason

    def told(self) -> list[tuple[str, list[Path], Told]]:
        """Say what was passed over, and where links led: kind, files, words."""
        said = [
            (kind, files, told(code, n=len(files), suffixes=_suffixes(kind, files)))
            for kind, code in REASON_OF_KIND.items()
            if (files := self.others.get(kind))
        ]
        return said + [(KIND_OF_COUNT.get(code, "folder"), [], told(code, n=n)) for code, n in self.counts.items()]


def look(source: Path) -> Tree:
    """Walk over a folder once, links included, and sort its files.

    Where several ways lead to a folder or file, one without links is taken. Hidden folders, those of the system, and
    studies of this project are not searched. What may not be read is counted; nothing raises.
    """
    walk = _Walk(source)
    while walk.waiting or walk.links:
        is_link = not walk.waiting
        walk.folder(walk.links.pop(0) if is_link else walk.waiting.pop(), is_link)
    walk.linked_files()
    walk.tree.dicom.sort()
    walk.tree.volumes.sort()
    _set_masks_aside(source, walk.tree)
    return walk.tree


@dataclass
class _Walk:
    """A walk that is under way."""

    source: Path
    tree: Tree = field(default_factory=Tree)
    waiting: list[Path] = field(default_factory=list)  # folders
    links: list[Path] = field(default_factory=list)  # to folders, read when all that is there without them is
    to_files: list[Path] = field(default_factory=list)
    seen: set[tuple[int, int]] = field(default_factory=set)  # device and number of folders and files

    def __post_init__(self) -> None:
        self.waiting.append(self.source)

    def folder(self, folder: Path, is_link: bool) -> None:
        """Sort what lies in a folder."""
        try:
            state = os.stat(folder)
            with os.scandir(folder) as content:
                entries = sorted(content, key=lambda entry: entry.name)
        except OSError:
            self.tree.counts["closed"] += 1
            return
        if not self._is_new(state):
            self.tree.counts["read_once"] += 1
            return
        names = {entry.name for entry in entries}
        if folder != self.source and SETTINGS_FILE in names:
            self.tree.counts["studies_inside"] += 1
            return
        if is_link:
            self.tree.counts["linked_folders"] += 1
        for entry in entries:
            if entry.is_symlink():
                self._link(folder / entry.name)
            elif entry.is_dir(follow_symlinks=False):
                self._wait(folder / entry.name, self.waiting)
            elif entry.is_file(follow_symlinks=False):
                self.seen.add((state.st_dev, entry.inode()))
                _sort_file(folder / entry.name, names, self.tree)

    def linked_files(self) -> None:
        """Sort the files behind links, but for those that were met where they lie."""
        for path in self.to_files:
            if self._is_new(path.stat()):
                _sort_file(path, set(os.listdir(path.parent)), self.tree)
            else:
                self.tree.counts["read_once"] += 1

    def _is_new(self, state: os.stat_result) -> bool:
        key = state.st_dev, state.st_ino
        is_new = key not in self.seen
        self.seen.add(key)
        return is_new

    def _link(self, path: Path) -> None:
        if os.path.isdir(path):  # of a link to itself pathlib makes an error
            self._wait(path, self.links)
        elif os.path.isfile(path):
            self.to_files.append(path)
        else:
            self.tree.counts["broken_links"] += 1

    def _wait(self, folder: Path, line: list[Path]) -> None:
        if folder.name.startswith("."):
            self.tree.counts["hidden_folders"] += 1
        elif folder.name.lower() not in SYSTEM_FOLDERS:
            line.append(folder)


def _sort_file(path: Path, beside: set[str], tree: Tree) -> None:
    name = path.name
    if name.startswith("._") or name.lower() in OF_THE_SYSTEM:
        tree.others["system file"].append(path)
    elif name.startswith("."):
        tree.others["other file"].append(path)
    elif is_volume(path) and _is_header(path):
        tree.volumes.append(path)
    elif not _belongs_to_a_header(name, beside):
        _sort_by_content(path, tree)


def _is_header(path: Path) -> bool:
    """Tell an image's `.hdr` from other files that end so."""
    if not path.name.lower().endswith(".hdr"):
        return True
    try:
        with path.open("rb") as file:
            return file.read(4) in MAGIC_HDR
    except OSError:
        return True  # reading it tells why it cannot be read


def _belongs_to_a_header(name: str, beside: set[str]) -> bool:
    """Tell whether a file holds the voxels of a header beside it, with which it is counted."""
    suffix = next((one for one in (".raw.gz", ".img.gz", ".raw", ".zraw", ".img") if name.lower().endswith(one)), None)
    bare = name[: -len(suffix)] if suffix else ""
    return suffix is not None and any({bare + one, bare + one.upper()} & beside for one in DETACHED)


def _sort_by_content(path: Path, tree: Tree) -> None:
    """Tell DICOM by its first bytes, also where there is no preamble, and the rest by the end of its name."""
    try:
        with path.open("rb") as file:
            begin = file.read(PREAMBLE_BYTES + 4)
    except OSError:
        tree.counts["closed"] += 1
        return
    if begin[PREAMBLE_BYTES:] == b"DICM" or begin[:2] == b"\x08\x00":
        tree.dicom.append(path)
        return
    suffix = path.suffix.lower()
    tree.others[next((kind for kind, ends in KINDS.items() if suffix in ends), "other file")].append(path)


def _suffixes(kind: str, files: list[Path]) -> str:
    """Name the endings of files, only those that are known: another may be part of a name."""
    known = sorted({path.suffix.lower() for path in files} & set(KINDS.get(kind, ())))
    return f" ({', '.join(known)})" if known else ""


def _set_masks_aside(source: Path, tree: Tree) -> None:
    """Take masks of other tools, and further channels of nnU-Net, off the list of volumes."""
    kept, stems = [], {(path.parent, without_suffix(path.name)) for path in tree.volumes}
    for path in tree.volumes:
        stem, above = without_suffix(path.name), path.relative_to(source).parts[:-1]
        channel = CHANNEL.search(stem)
        if any(MASK_FOLDERS.fullmatch(part) for part in above) or MASK_NAMES.fullmatch(stem):
            tree.others["mask"].append(path)
        elif channel and channel[1] != "0000" and (path.parent, f"{stem[: channel.start()]}_0000") in stems:
            tree.others["second channel"].append(path)
        else:
            kept.append(path)
    tree.volumes = kept
