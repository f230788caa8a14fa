"""JPEG files, of one scan and progressive."""

import struct
from random import Random
from typing import Any

from fuzzing.case import BYTES, damaged, odd_text
from fuzzing.pictures import Pictures, saved, values_of
from hpa_ray.ingest.decode import MAX_SIDE_PX


class Jpeg(Pictures):
    modes = ("L",) * 6 + ("RGB",) * 5 + ("gray", "CMYK")

    def picture(self, rng: Random, mode: str, stain: str) -> bytes:
        image = values_of(rng, mode, stain)
        options: dict[str, Any] = {"quality": rng.choice((1, 30, 75, 95, 100))}
        if rng.random() < 0.3:
            options["progressive"] = True
        if rng.random() < 0.3:
            options["optimize"] = True
        if rng.random() < 0.3:
            options["restart_marker_blocks"] = rng.choice((1, 2, 7))
        if rng.random() < 0.3:
            options["subsampling"] = rng.choice((0, 1, 2))
        if rng.random() < 0.2:
            options["comment"] = odd_text(rng).encode(errors="replace")[:300]
        return saved(image, "JPEG", **options)

    def surgery(self, rng: Random, content: bytes) -> bytes:
        parts = segments_of(content)
        if not parts:
            return damaged(rng, content)
        for _ in range(rng.choice((1, 1, 2))):
            at = rng.randrange(len(parts))
            action = rng.randrange(8)
            if action == 0:
                del parts[at]
            elif action == 1:
                parts.insert(rng.randrange(len(parts) + 1), parts[at])
            elif action == 2:
                parts[at] = parts[at][:4] + damaged(rng, parts[at][4:])
            elif action == 3 and len(parts[at]) > 4:
                body = damaged(rng, parts[at][4:])[:65000]
                parts[at] = parts[at][:2] + (len(body) + 2).to_bytes(2, "big") + body
            elif action == 4:
                marker = rng.choice((0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCC, 0xD0, 0xD8, 0xD9, 0xDC, 0xE1, 0xEE, 0xFE))
                body = odd_text(rng).encode(errors="replace")[:300]
                extra = bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body
                parts.insert(rng.randrange(len(parts) + 1), extra)
            elif action == 5:
                parts[at] = parts[at][: rng.randrange(len(parts[at]) + 1)]
            elif action == 6:
                parts[at] = parts[at][:1] + bytes([rng.choice((*range(0xC0, 0xF0), *BYTES))]) + parts[at][2:]
            else:
                frames = [
                    k for k, part in enumerate(parts) if part[1:2] in (b"\xc0", b"\xc1", b"\xc2") and len(part) > 9
                ]
                if frames:
                    frame = bytearray(parts[frames[0]])
                    sides = [rng.choice((0, 1, 8, 9, 40, 65535, MAX_SIDE_PX + 1)) for _ in range(2)]
                    frame[5:9] = struct.pack(">HH", *sides)
                    parts[frames[0]] = bytes(frame)
            if not parts:
                break
        return content[:2] + b"".join(parts)


def segments_of(content: bytes) -> list[bytes]:
    """The segments after the first marker; the data of a scan is part of the segment before it."""
    starts = [k for k in range(2, len(content) - 1) if content[k] == 0xFF and content[k + 1] not in (0, 0xFF)]
    found, position = [], 2
    while position < len(content):
        is_end = content[position + 1 : position + 2] == b"\xd9"
        length = 0 if is_end else int.from_bytes(content[position + 2 : position + 4], "big")
        after = max(position + 2 + length, position + 2)
        end = next((k for k in starts if k >= after and not 0xD0 <= content[k + 1] <= 0xD7), len(content))
        found.append(content[position:end])
        position = end
    return found
