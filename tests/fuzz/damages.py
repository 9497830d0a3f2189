"""Ways to damage a file: byte by byte, or one thing that has a meaning in its format, so that it is read further."""

import gzip
import io
import json
import random
import re
import struct
import zipfile
import zlib

WORDS = [
    b"", b",", b"\n", b"\"", b"'", b"\0", b"\xff", b"../", b"=1+1", b"nan", b"inf", b"-1", b"1e400",
    b"2020-13-45", b"99999999999999999999", b"0001-01-01", b"9999-12-31", b"!!python/object:os.system", b"&a",
    b"*a", b"[", b"{", b"? ", b": ", b"null", b"~", b"0x1p3", b"\xef\xbb\xbf", b"\r", b"\t", b"1:2:3", b"<<: ",
    b"\xed\xa0\x80", b"\x80", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", b"<b>", b"%s", b"{x}",
    b"a" * 70,
]  # fmt: skip
LIKELY = [b"0", b"1", b"2", b"3", b"5", b"-7", b"0.5", b"80", b"2016-02-29", b"2017-05-05", b"", b"male", b"a", b"true"]


def by_bytes(content: bytes, rng: random.Random) -> bytes:
    """Change bytes: flip, cut, repeat, drop, or write a word that has meaning to some reader."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
        place = rng.randrange(len(data) + 1)
        # Headers are where decisions are made.
        place = place if rng.random() < 0.5 else min(place, rng.randrange(600))
        action = rng.randrange(6)
        if action == 0 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif action == 1 and place < len(data):
            data[place] = rng.randrange(256)
        elif action == 2:
            del data[place : place + rng.choice([1, 2, 4, 16, 1 << 20])]
        elif action == 3:
            data[place:place] = data[place : place + rng.choice([1, 4, 32])]
        elif action == 4:
            word = rng.choice(WORDS)
            data[place : place + len(word)] = word
        else:
            data[place:place] = rng.choice(WORDS)
    return bytes(data)


def by_cells(content: bytes, rng: random.Random) -> bytes:
    """Change cells, rows or columns of a comma-separated table."""
    if rng.random() < 0.3:
        return by_bytes(content, rng)
    rows = [line.split(b",") for line in content.splitlines()]
    for _ in range(rng.choice([1, 1, 2])):
        row = rng.choice(rows[1:] or rows) if rng.random() < 0.9 else rows[0]
        column = rng.randrange(len(row))
        action = rng.randrange(8)
        if action < 5:
            others = [other[column] for other in rows[1:] if column < len(other)]
            row[column] = rng.choice([*WORDS, *LIKELY * 3, *others * 8])
        elif action == 5:
            rows.insert(1 + rng.randrange(len(rows)), list(row))
        elif action == 6 and len(rows) > 2:
            rows.remove(row)
        else:
            for other in rows:
                if column < len(other):
                    del other[column]
        rows = [row or [b""] for row in rows]
    return b"\n".join(b",".join(row) for row in rows) + b"\n"


def by_scalars(content: bytes, rng: random.Random) -> bytes:
    """Change values of YAML or of `name=value` texts."""
    if rng.random() < 0.3:
        return by_bytes(content, rng)
    values = list(re.finditer(rb"(?<=[:=\[,]) ?[^:=\[\]{},\n]+", content))
    found = rng.choice(values)
    value = rng.choice([*WORDS, *LIKELY * 4, rng.choice(values).group(), str(rng.uniform(-2, 10)).encode()])
    return content[: found.start()] + b" " * found.group().startswith(b" ") + value + content[found.end() :]


def by_volume(content: bytes, rng: random.Random) -> bytes:
    """Change a volume below its compression, mostly in the header."""
    if rng.random() < 0.2:
        return by_bytes(content, rng)
    packed = content.startswith(b"\x1f\x8b")
    data = bytearray(gzip.decompress(content) if packed else content)
    for _ in range(rng.choice([1, 1, 2, 4])):
        place = rng.randrange(352) if rng.random() < 0.8 else rng.randrange(len(data))
        value = rng.choice([b"\0", b"\xff", b"\1", rng.randbytes(1), rng.randbytes(2)])
        value = rng.choice([value, struct.pack("<h", rng.choice([-1, 0, 1, 7, 8, 9, 16, 4097, 32767]))])
        value = rng.choice([value, struct.pack("<f", rng.choice([0, -1, 0.5, 3, 1e9, 1e-9, float("nan")]))])
        data[place : place + len(value)] = value
    return gzip.compress(data, 1) if packed else bytes(data)


def by_members(content: bytes, rng: random.Random) -> bytes:
    """Change a member of a zip archive, which gets its right checksum again; or the header of safetensors."""
    if rng.random() < 0.2:
        return by_bytes(content, rng)
    if not content.startswith(b"PK"):
        return _by_header(content, rng)
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as whole, zipfile.ZipFile(changed, "w") as target:
        members = whole.infolist()
        one = rng.choice([member for member in members if rng.random() < 0.3 or member.filename.endswith("data.pkl")])
        for member in members:
            data = whole.read(member)
            target.writestr(member.filename, by_bytes(data, rng) if member is one else data)
    return changed.getvalue()


def _by_header(content: bytes, rng: random.Random) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    tensor = header[rng.choice(sorted(header))]
    odd = rng.choice([None, -1, 0, 1, 5, 1 << 40, "F16", "I64", [], {}, [2, 3], [0, 24], [1 << 62, 4], 1.5])
    action = rng.randrange(4)
    if action == 0 or not isinstance(tensor, dict):
        header[rng.choice(["a", *header])] = rng.choice([odd, tensor])
    elif action == 1:
        tensor[rng.choice(sorted(tensor))] = odd
    elif action == 2:
        numbers = rng.choice([value for value in tensor.values() if isinstance(value, list)])
        numbers.insert(rng.randrange(len(numbers) + 1), rng.choice([0, 1, 2, 3, 4, 24, 32, -1]))
    else:
        return content[:8] + by_bytes(content[8:], rng)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


LONG = {b"OB", b"OW", b"OF", b"OD", b"OL", b"SQ", b"UC", b"UN", b"UR", b"UT"}
UNDEFINED = 0xFFFFFFFF
ITEM_GROUP = 0xFFFE
NUMBERS = [
    "0",
    "1",
    "2",
    "-1",
    "0.5",
    "3",
    "24",
    "100",
    "-1024",
    "1e308",
    "1e-300",
    "nan",
    "inf",
    "",
    "x",
    "1\\2",
    "7 ",
]
TEXTS = ["", "CT", "AXIAL", "LOCALIZER", "YES", "063Y", "F", "20150304", "00000000", "1.2.3.4", "\xff", "A\\B", "B70f"]
SHORTS = [0, 1, 2, 7, 8, 9, 12, 15, 16, 24, 32, 255, 4097, 65535]


def elements(content: bytes) -> list[tuple[int, int, int, bytes]]:
    """List the elements of a DICOM file in explicit little endian, nested ones too: start, value, end, and VR."""
    found, place = [], 132
    while place + 8 <= len(content):
        group, _, vr = struct.unpack_from("<HH2s", content, place)
        if group == ITEM_GROUP:  # the items of a sequence are walked through
            place += 8
            continue
        value = place + (12 if vr in LONG else 8)
        (length,) = struct.unpack_from("<L" if vr in LONG else "<H", content, value - (4 if vr in LONG else 2))
        is_open = vr == b"SQ" or length == UNDEFINED
        end = len(content) if length == UNDEFINED and vr != b"SQ" else value if is_open else value + length
        found.append((place, value, end, vr))
        place = end
    return found


def by_elements(content: bytes, rng: random.Random) -> bytes:
    """Change elements of a DICOM file: values in their own representation, or the elements themselves."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if rng.random() < 0.1:
            content = by_bytes(content, rng)
            continue
        try:
            start, value, end, vr = rng.choice(elements(content))
        except (struct.error, IndexError):
            return content
        old = content[value:end]
        if rng.random() < 0.75 and vr != b"SQ":
            new = content[start:value] + _other_value(old, vr, rng)
            is_open = vr in LONG and content[value - 4 : value] == b"\xff\xff\xff\xff"
            new = new if is_open or len(new) == end - start else _with_length(new, value - start, vr)
        else:
            whole = content[start:end]
            new = rng.choice([b"", whole * 2, _retagged(whole, rng), _retagged(whole, rng), _other_type(whole, rng)])
        content = content[:start] + new + content[end:]
    return content


def _other_value(old: bytes, vr: bytes, rng: random.Random) -> bytes:
    if vr in (b"OB", b"OW", b"UN"):
        return by_bytes(old, rng) if rng.random() < 0.5 else _flipped(old, rng)
    if vr in (b"US", b"SS"):
        return struct.pack("<H", rng.choice(SHORTS))
    if vr in (b"UL", b"SL", b"FL"):
        return rng.randbytes(4)
    if vr == b"FD":
        return struct.pack("<d", rng.choice([0.0, 1.0, -1.0, 1e300, float("nan"), rng.uniform(-500, 500)]))
    parts = old.split(b"\\")
    near = str(round(rng.uniform(-200, 300), 3)) if vr in (b"DS", b"IS") else rng.choice(TEXTS)
    one = rng.choice([near, near, rng.choice(NUMBERS if vr in (b"DS", b"IS") else TEXTS)])
    parts[rng.randrange(len(parts))] = one.encode("latin-1")
    if rng.random() < 0.1:
        parts.append(parts[0])
    text = b"\\".join(parts)
    return text + b" " * (len(text) % 2)


def _flipped(old: bytes, rng: random.Random) -> bytes:
    data = bytearray(old)
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _with_length(element: bytes, head: int, vr: bytes) -> bytes:
    """Put the right length before a value."""
    size = len(element) - head
    if vr in LONG:
        return element[: head - 4] + struct.pack("<L", size) + element[head:]
    return element[: head - 2] + struct.pack("<H", size & 0xFFFF) + element[head:]


def _retagged(element: bytes, rng: random.Random) -> bytes:
    return element[:2] + struct.pack("<H", rng.randrange(1 << 16)) + element[4:]


def _other_type(element: bytes, rng: random.Random) -> bytes:
    return element[:4] + rng.choice([b"DS", b"IS", b"UI", b"CS", b"US", b"UN", b"SQ", b"FD", b"??"]) + element[6:]


def deflated(content: bytes) -> bytes:
    """Write a DICOM file in explicit little endian in the deflated transfer syntax, if its beginning is sound."""
    plain, packed = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"
    place = content.find(plain, 132, 500)
    if place < 0:
        return content
    (length,) = struct.unpack_from("<L", content, 140)  # of the group that stays as it is
    longer, end = len(packed) - len(plain), 144 + length
    head = content[:140] + struct.pack("<L", (length + longer) & UNDEFINED) + content[144 : place - 2]
    head += struct.pack("<H", len(packed)) + packed + content[place + len(plain) : end]
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return head + packer.compress(content[end:]) + packer.flush()
