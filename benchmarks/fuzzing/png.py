"""PNG files."""

import struct
import zlib
from random import Random

import numpy as np

from fuzzing.case import NUMBERS, Wrong, damaged, odd_text
from fuzzing.pictures import GOOD_MODES, OTHER_MODES, Pictures, saved, values_of
from hpa_ray.ingest.decode import MAX_SIDE_PX
from hpa_ray.ingest.decode.png import ADAM7, PNG_SIGNATURE


class Png(Pictures):
    is_strict = True

    modes = GOOD_MODES * 4 + OTHER_MODES[:4]

    def readable(self, content: bytes) -> bytes:
        return strict_png(content) if content.startswith(PNG_SIGNATURE) else content

    def picture(self, rng: Random, mode: str, stain: str) -> bytes:
        image = values_of(rng, mode, stain)
        if rng.random() < 0.25 and mode in ("L", "I;16", "RGB", "gray"):
            return by_hand(np.asarray(image), interlaced=rng.random() < 0.7)
        return saved(image, "PNG", compress_level=rng.choice((0, 1, 9)))

    def surgery(self, rng: Random, content: bytes) -> bytes:
        chunks = chunks_of(content)
        if not chunks:
            return damaged(rng, content)
        for _ in range(rng.choice((1, 1, 2))):
            at = rng.randrange(len(chunks))
            kind, data = chunks[at]
            action = rng.randrange(12)
            if action == 0 and len(chunks) > 1:
                del chunks[at]
            elif action == 1:
                chunks.insert(rng.randrange(len(chunks) + 1), chunks[at])
            elif action == 2:
                names = (
                    b"tEXt",
                    b"zTXt",
                    b"iTXt",
                    b"iCCP",
                    b"tRNS",
                    b"PLTE",
                    b"acTL",
                    b"fcTL",
                    b"fdAT",
                    b"eXIf",
                    b"XXXX",
                )
                text = rng.choice((b"k\0\0" + zlib.compress(bytes(9999)), odd_text(rng).encode(errors="replace"), b""))
                chunks.insert(rng.randrange(len(chunks) + 1), (rng.choice(names), text[:5000]))
            elif action == 3 and kind == b"IDAT" and len(data) > 1:
                middle = rng.randrange(len(data))
                chunks[at : at + 1] = [(kind, data[:middle]), (b"IDAT", data[middle:])]
            elif action in (4, 5):
                chunks[at] = (kind, damaged(rng, data))
            elif action == 6:
                chunks[at] = (bytes([*kind[:3], kind[3] ^ 32]) if rng.random() < 0.5 else rng.randbytes(4), data)
            elif action == 7 and kind == b"IDAT":
                try:
                    lines = zlib.decompress(data)
                except zlib.error:
                    continue
                cut = lines[: rng.randrange(len(lines) + 1)]
                lines = rng.choice((damaged(rng, lines), cut, lines + b"more", lines * 9))
                chunks[at] = (kind, zlib.compress(lines))
            elif action == 8 and kind == b"IDAT":
                chunks[at] = (kind, rng.choice((data[:-4], data + b"more", data[:-1] + b"\0", b"", data[:-5])))
            elif len(chunks[0][1]) == 13:
                header = bytearray(chunks[0][1])
                field = rng.choice(((0, 4), (4, 4), (8, 1), (9, 1), (10, 1), (11, 1), (12, 1)))
                number = rng.choice(
                    (*range(20), *NUMBERS, MAX_SIDE_PX, MAX_SIDE_PX + 1) if field[1] == 4 else range(20)
                )
                if rng.random() < 0.03 or not 1000 < number <= MAX_SIDE_PX:  # a huge black picture takes half a second
                    header[field[0] : sum(field)] = (number % 256 ** field[1]).to_bytes(field[1], "big")
                chunks[0] = (chunks[0][0], bytes(header))
        return png_of(chunks)


def strict_png(content: bytes) -> bytes:
    """Without what is no part of the pixels. Raises Wrong for a checksum that is not right, or missing pixels."""
    position, kept, stream = 8, [], b""
    header = b""
    while True:
        length, kind = struct.unpack_from(">I4s", content, position)
        data, crc = content[position + 8 : position + 8 + length], content[position + 8 + length :][:4]
        if zlib.crc32(kind + data).to_bytes(4, "big") != crc:
            raise Wrong(f"the checksum of {kind!r} at byte {position} is wrong")
        if position == 8:
            header = data
        if kind == b"IDAT":
            stream += data
        if kind in (b"IHDR", b"IDAT", b"IEND"):
            kept.append((kind, data))
        position += 12 + length
        if kind == b"IEND":
            break
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * {0: 1, 2: 3}[colour]
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    sides = [((width - x + dx - 1) // dx, (height - y + dy - 1) // dy) for x, y, dx, dy in passes]
    needed = sum(rows * (1 + columns * bits // 8) for columns, rows in sides if columns > 0 and rows > 0)
    inflated = zlib.decompressobj().decompress(stream, needed)
    if len(inflated) < needed:
        raise Wrong(f"{len(inflated)} of {needed} bytes of pixels are there")
    return png_of([kept[0], (b"IDAT", stream), (b"IEND", b"")])


def chunks_of(content: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and data of each chunk, as far as they can be told apart."""
    chunks, position = [], 8
    while position + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        if position + 12 + length > len(content):
            break
        chunks.append((kind, content[position + 8 : position + 8 + length]))
        position += 12 + length
    return chunks


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [PNG_SIGNATURE]
    for kind, data in chunks:
        parts += [len(data).to_bytes(4, "big"), kind, data, zlib.crc32(kind + data).to_bytes(4, "big")]
    return b"".join(parts)


def by_hand(values: np.ndarray, *, interlaced: bool) -> bytes:
    """A PNG without filters, which Pillow does not write interlaced."""
    values = values.reshape(*values.shape[:2], -1)
    height, width, samples = values.shape
    stored = np.ascontiguousarray(values.astype(values.dtype.newbyteorder(">"))).view(np.uint8)
    stored = stored.reshape(height, width, -1)
    passes = [stored[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [stored]
    lines = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)
    colour = 2 if samples == 3 else 0
    header = struct.pack(">IIBBBBB", width, height, values.dtype.itemsize * 8, colour, 0, 0, int(interlaced))
    return png_of([(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")])
