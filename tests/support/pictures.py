"""Image files that Pillow cannot write: 16-bit PNGs and TIFFs of any number type."""

import struct
import zlib


def png16(values):
    """A PNG with 16 bits per value: gray [H, W], or gray and alpha, RGB or RGBA [H, W, 2..4]."""
    values = values.reshape(*values.shape[:2], -1)
    height, width, channels = values.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
              for kind, data in parts)  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(values, *, photometric=None, compressed=False):
    """A TIFF of the array's own type [H, W] or [H, W, C]; `photometric` 0 means that white is 0."""
    height, width, *channels = values.shape
    channels = channels[0] if channels else 1
    big = values.dtype.byteorder == ">"
    order, data = ">" if big else "<", values.tobytes()
    data = zlib.compress(data) if compressed else data
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    photometric = photometric if photometric is not None else 1 if channels == 1 else 2
    bits = [8 * values.dtype.itemsize] * channels
    tags = {256: [width], 257: [height], 258: bits, 259: [8 if compressed else 1], 262: [photometric], 273: None,
            277: [channels], 278: [height], 279: len(data), 339: [kind] * channels}  # fmt: skip
    start = 8 + 2 + 12 * len(tags) + 4
    lists, entries = b"", b""
    after = start + sum(2 * len(value) for value in tags.values() if isinstance(value, list) and len(value) > 2)
    for tag, value in tags.items():
        if not isinstance(value, list):
            entries += struct.pack(order + "HHII", tag, 4, 1, after if value is None else value)
            continue
        packed = struct.pack(f"{order}{len(value)}H", *value)
        if len(value) > 2:
            packed, lists = struct.pack(order + "I", start + len(lists)), lists + packed
        entries += struct.pack(order + "HHI", tag, 3, len(value)) + packed.ljust(4, b"\0")
    head = (b"MM" if big else b"II") + struct.pack(order + "HI", 42, 8)
    return head + struct.pack(order + "H", len(tags)) + entries + bytes(4) + lists + data
