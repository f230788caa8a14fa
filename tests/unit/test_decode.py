"""One image file -> one stain's 8-bit gray plane: exact, or refused with a reason; no bytes bring it down."""

import io
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hpa_ray.channels import STAINS
from hpa_ray.ingest.decode import MAX_SIDE_PX, DecodeError, Plane, decode_plane
from hpa_ray.ingest.decode.plane import PLANES_OF_STAIN, load_picture, scale_to_8_bit
from hpa_ray.ingest.decode.png import ADAM7, PNG_SIGNATURE

# H, W sides of a plane in px


def decode(content: bytes, stain: str = "green") -> np.ndarray:
    return decode_plane(content, stain).pixels


def saved(values: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


def by_pillow(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def cells(side: int = 64, seed: int = 0) -> np.ndarray:
    """(side, side) uint8: bright spots on black, a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    spots = [np.exp(-((y - a) ** 2 + (x - b) ** 2) / (side / 2)) for a, b in rng.integers(0, side, (12, 2))]
    return np.clip(np.sum(spots, axis=0) * 160 + rng.integers(0, 8, (side, side)), 0, 255).astype(np.uint8)


def drawn(plane: np.ndarray, stain: str) -> np.ndarray:
    """(H, W, 3) uint8: the picture of a stain in its colour."""
    return np.stack([plane if k in PLANES_OF_STAIN[stain] else plane * 0 for k in range(3)], axis=-1)


def tiff_bytes(
    values: np.ndarray,
    *,
    order: str = "<",
    rows: int | None = None,
    tile: tuple[int, int] | None = None,
    compression: int = 1,
    predictor: int = 1,
    tags: dict[int, list[int]] | None = None,
    following: int = 0,
) -> bytes:
    """A TIFF of (H, W) or (H, W, C) in strips of `rows` or in tiles of (height, width); `tags` replace its own."""
    values = values.reshape(*values.shape[:2], -1)
    height, width, samples = values.shape
    if tile:
        padded = np.pad(values, ((0, -height % tile[0]), (0, -width % tile[1]), (0, 0)), mode="edge")
        corners = [(y, x) for y in range(0, height, tile[0]) for x in range(0, width, tile[1])]
        pieces = [padded[y : y + tile[0], x : x + tile[1]] for y, x in corners]
    else:
        pieces = [values[y : y + (rows or height)] for y in range(0, height, rows or height)]
    if predictor == 2:
        pieces = [np.diff(piece, axis=1, prepend=np.zeros_like(piece[:, :1])) for piece in pieces]
    pack: Callable[[bytes], bytes] = {1: bytes, 5: lzw_bytes, 8: zlib.compress}.get(compression, bytes)
    blobs = [pack(piece.astype(piece.dtype.newbyteorder(order)).tobytes()) for piece in pieces]
    *offsets, start = np.cumsum([8, *map(len, blobs)]).tolist()
    sizes = [len(blob) for blob in blobs]
    lists = {322: [tile[1]], 323: [tile[0]], 324: offsets, 325: sizes} if tile else {273: offsets, 279: sizes}
    entries = {256: [width], 257: [height], 258: [values.dtype.itemsize * 8] * samples, 259: [compression]}
    entries |= {262: [2 if samples == 3 else 1], 277: [samples], 317: [predictor], **lists}
    entries |= ({} if tile else {278: [rows or height]}) | (tags or {})
    directory, behind = struct.pack(f"{order}H", len(entries)), b""
    for tag, numbers in sorted(entries.items()):
        field = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            position = start + 6 + 12 * len(entries) + len(behind)
            behind, field = behind + field, struct.pack(f"{order}I", position)
        directory += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + field
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return b"".join([header, *blobs, directory, struct.pack(f"{order}I", following), behind])


def lzw_bytes(content: bytes) -> bytes:
    """LZW without compression: codes of 9 bits, the table emptied (256) before it needs 10, then the end (257)."""
    codes = [code for k in range(0, len(content), 200) for code in (256, *content[k : k + 200])] + [257]
    bits = "".join(f"{code:09b}" for code in codes)
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_bytes(
    scanlines: bytes,
    width: int,
    height: int,
    *,
    depth: int = 8,
    colour: int = 0,
    interlace: int = 0,
    before: bytes = b"",
    after: bytes = b"",
    idat_bytes: int = 2**30,
) -> bytes:
    """A PNG of filtered scanlines; `before` and `after` are chunks around the pixels, cut into chunks of idat_bytes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
    stream = zlib.compress(scanlines)
    pixels = b"".join(chunk(b"IDAT", stream[k : k + idat_bytes]) for k in range(0, len(stream), idat_bytes))
    return PNG_SIGNATURE + header + before + pixels + after + chunk(b"IEND", b"")


def filtered(plane: np.ndarray, filters: Sequence[int]) -> bytes:
    """Scanlines of a plane under the given filter type (PNG 9.2: none, sub, up, average, Paeth) of each row."""
    above = np.zeros(plane.shape[1], int)
    lines = []
    for kind, row in zip(filters, plane.astype(int), strict=True):
        left, corner = np.append(0, row[:-1]), np.append(0, above[:-1])
        away = np.abs([above - corner, left - corner, left + above - 2 * corner])  # of left, above, corner
        paeth = np.select([away[0] <= away[1:].min(axis=0), away[1] <= away[2]], [left, above], corner)
        guess = [0, left, above, (left + above) // 2, paeth][kind]
        lines.append(bytes([kind]) + ((row - guess) % 256).astype(np.uint8).tobytes())
        above = row
    return b"".join(lines)


@st.composite
def planes(draw: st.DrawFn, max_side: int = 24) -> np.ndarray:
    """Noise, few values, ramps or zeros, in odd sizes."""
    height, width = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    noise = rng.integers(0, 256, (height, width)).astype(np.uint8)
    kind = draw(st.sampled_from(["noise", "few", "ramp", "zeros", "dark end"]))
    ramp = (np.arange(height)[:, None] * 3 + np.arange(width) * 2) % 256
    dark = np.where(np.arange(height)[:, None] < height // 2, noise, 0)
    return {"noise": noise, "few": noise & 128, "ramp": ramp, "zeros": noise * 0, "dark end": dark}[kind].astype(
        np.uint8
    )


# PNG


@settings(deadline=None, max_examples=150)
@given(plane=planes(), data=st.data(), idat_bytes=st.integers(1, 200))
def test_every_filter_is_undone(plane: np.ndarray, data: st.DataObject, idat_bytes: int) -> None:
    height, width = plane.shape
    filters = data.draw(st.lists(st.integers(0, 4), min_size=height, max_size=height))
    content = png_bytes(filtered(plane, filters), width, height, idat_bytes=idat_bytes)
    decoded = decode(content)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, plane)
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(decoded, np.asarray(image))


@settings(deadline=None, max_examples=60)
@given(plane=planes(), share=st.floats(0, 1, exclude_max=True))
def test_interlaced_images_are_read_whole(plane: np.ndarray, share: float) -> None:
    height, width = plane.shape
    passes = [plane[y::dy, x::dx] for x, y, dx, dy in ADAM7]
    scanlines = b"".join(filtered(part, [2] * part.shape[0]) for part in passes if part.size)
    assert np.array_equal(decode(png_bytes(scanlines, width, height, interlace=1)), plane)
    with pytest.raises(DecodeError):
        decode(png_bytes(scanlines[: int(share * len(scanlines))], width, height, interlace=1))


@settings(deadline=None, max_examples=100)
@given(plane=planes(), share=st.floats(0, 1, exclude_max=True))
def test_missing_rows_are_not_taken_for_black(plane: np.ndarray, share: float) -> None:
    """Every checksum of such a file is right; Pillow alone gives an image with a black end."""
    height, width = plane.shape
    scanlines = filtered(plane, [0] * height)
    with pytest.raises(DecodeError, match="truncated"):
        decode(png_bytes(scanlines[: int(share * len(scanlines))], width, height))


def test_a_file_that_pillow_wrote(gray_png: Callable[..., bytes]) -> None:
    for side in (1, 7, 64, 511):
        content = gray_png(side)
        with Image.open(io.BytesIO(content)) as image:
            assert np.array_equal(decode(content), np.asarray(image))


def small_png() -> tuple[np.ndarray, bytes]:
    plane = np.random.default_rng(5).integers(0, 256, (5, 6)).astype(np.uint8)
    text = chunk(b"tEXt", b"Comment\0made by hand")
    return plane, png_bytes(filtered(plane, [0, 1, 2, 3, 4]), 6, 5, before=text, after=text, idat_bytes=20)


def test_a_changed_byte_is_refused_or_makes_no_difference() -> None:
    plane, content = small_png()
    accepted = 0
    for position in range(len(content)):
        for change in (1, 16, 32, 128, 255):  # 32 turns the case of a letter: a required chunk into a private one
            damaged = bytearray(content)
            damaged[position] ^= change
            try:
                decoded = decode(bytes(damaged))
            except DecodeError:
                continue
            accepted += 1
            assert np.array_equal(decoded, plane), (position, change)
    assert accepted == 0  # not even a comment may change


def test_a_cut_file_is_refused() -> None:
    plane, content = small_png()
    for length in range(len(content)):
        with pytest.raises(DecodeError):
            decode(content[:length])
    assert np.array_equal(decode(content + b"more"), plane)


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from([b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"gAMA", b"cHRM", b"pHYs", b"tRNS", b"acTL", b"fcTL"])
    | st.from_regex(rb"\A[a-z][A-Za-z]{3}\Z"),
    content=st.binary(max_size=40),
)
def test_other_chunks_change_nothing(kind: bytes, content: bytes) -> None:
    plane = np.arange(12, dtype=np.uint8).reshape(3, 4)
    extra = chunk(kind, content)
    decoded = decode(png_bytes(filtered(plane, [1, 1, 1]), 4, 3, before=extra, after=extra))
    assert np.array_equal(decoded, plane)


@settings(deadline=None, max_examples=150)
@given(
    header=st.binary(min_size=0, max_size=20)
    | st.tuples(*[st.integers(0, 9)] * 7).map(lambda v: struct.pack(">IIBBBBB", *v)),
    stream=st.binary(max_size=40),
    deflate=st.booleans(),
)
def test_made_up_content_with_right_checksums_is_refused_or_decoded(
    header: bytes, stream: bytes, deflate: bool
) -> None:
    data = zlib.compress(stream) if deflate else stream
    content = PNG_SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    reason = ""
    try:
        decoded = decode(content)
        assert (decoded.shape[1], decoded.shape[0]) == struct.unpack_from(">II", header)
    except DecodeError as error:
        reason = str(error)
    assert " at 0x" not in reason  # reasons are stored: no addresses in memory


@pytest.mark.parametrize(
    ("depth", "colour", "reason"),
    [
        (1, 0, "1-bit gray PNG, expected 8 or 16"),
        (2, 0, "2-bit"),
        (4, 0, "4-bit"),
        (16, 2, "RGB PNG of 16 bits"),
        (8, 3, "palette"),
        (8, 4, "alpha"),
        (8, 6, "RGBA PNG - if the four planes are the four stains that is another layout"),
        (8, 7, "expected"),
    ],
)
def test_other_kinds_of_png_are_refused(depth: int, colour: int, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(png_bytes(bytes(9 * 64), 8, 8, depth=depth, colour=colour))


@settings(deadline=None, max_examples=60)
@given(plane=planes(), colour=st.booleans(), interlace=st.booleans(), share=st.floats(0, 1))
def test_wide_png_pixels_are_read_whole(plane: np.ndarray, colour: bool, interlace: bool, share: float) -> None:
    """16-bit gray and RGB have 2 and 3 bytes per pixel; the number of bytes is verified with them."""
    height, width = plane.shape
    wide = drawn(plane, "green") if colour else (plane * np.uint16(256) + plane[::-1]).astype(">u2")
    flat = np.frombuffer(wide.tobytes(), np.uint8).reshape(height, width, -1)
    passes = [flat[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlace else [flat]
    lines = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)
    kind = {"depth": 8, "colour": 2} if colour else {"depth": 16, "colour": 0}
    found = decode_plane(png_bytes(lines, width, height, interlace=int(interlace), **kind), "green")
    assert np.array_equal(found.pixels, plane if colour else scale_to_8_bit(wide.astype(np.uint16), 65535))
    assert found.peak == (plane if colour else wide).max()
    if share < 1:
        with pytest.raises(DecodeError, match="truncated"):
            decode(png_bytes(lines[: int(share * len(lines))], width, height, interlace=int(interlace), **kind))


# 16 bits


@given(white_level=st.sampled_from([1, 2, 255, 4095, 16383, 65534, 65535]) | st.integers(1, 65535))
@settings(deadline=None, max_examples=30)
def test_16_bits_are_scaled_to_the_nearest_level(white_level: int) -> None:
    values = np.arange(65536).reshape(256, 256)
    error = values * 255 - scale_to_8_bit(values.astype(np.uint16), white_level).astype(int) * white_level
    white = values >= white_level
    assert np.array_equal(error[white], (values * 255 - 255 * white_level)[white])
    assert (2 * error[~white] < white_level).all()  # half is rounded up
    assert (2 * error[~white] >= -white_level).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_the_white_level_and_the_highest_value_are_told(kind: str) -> None:
    values = np.array([[0, 1000], [4000, 4095]], np.uint16)
    content = saved(values, kind)
    camera = decode_plane(content, "red", white_level=4095)
    assert camera.pixels.tolist() == [[0, 62], [249, 255]]
    assert camera[1:] == (f"16-bit gray {kind}, 4095 -> 255", 4095)
    whole = decode_plane(content, "red")
    assert whole.pixels.tolist() == [[0, 4], [16, 16]]
    assert whole[1:] == (f"16-bit gray {kind}, 65535 -> 255", 4095)
    eight = decode_plane(saved((values // 17).astype(np.uint8), kind), "red", white_level=100)
    assert eight.pixels.tolist() == [[0, 58], [235, 240]]
    assert eight[1:] == (f"8-bit gray {kind}", 240)


# colour


@pytest.mark.parametrize("options", [{"kind": "PNG"}, {"kind": "TIFF"}, {"kind": "JPEG", "quality": 50}])
@pytest.mark.parametrize("stain", STAINS)
def test_a_picture_is_taken_for_its_own_stain_only(stain: str, options: dict[str, Any]) -> None:
    plane = cells()
    content = saved(drawn(plane, stain), **options)
    planes_of = {"red": "plane R", "green": "plane G", "blue": "plane B", "yellow": "mean of planes R and G"}
    found = decode_plane(content, stain)
    assert found.rule == f"RGB {options['kind']}, {planes_of[stain]}"
    if options["kind"] == "JPEG":
        assert np.corrcoef(found.pixels.ravel(), plane.ravel())[0, 1] > 0.97
        assert found.peak == by_pillow(content)[:, :, PLANES_OF_STAIN[stain]].max()
    else:
        assert np.array_equal(found.pixels, plane)
        assert found.peak == plane.max()
    for other in set(STAINS) - {stain}:
        with pytest.raises(DecodeError, match=rf"looks like another stain's picture.*{other} has its signal"):
            decode_plane(content, other)


@pytest.mark.parametrize("stain", STAINS)
def test_a_merged_picture_is_of_no_stain(stain: str) -> None:
    merged = np.stack([cells(seed=k) for k in range(3)], axis=-1)
    for options in ({"kind": "PNG"}, {"kind": "JPEG", "quality": 50}):
        with pytest.raises(DecodeError, match="or a merged one"):
            decode_plane(saved(merged, **options), stain)


@pytest.mark.parametrize("stain", STAINS)
@pytest.mark.parametrize("quality", [30, 60, 90])
def test_an_almost_black_picture_is_not_judged_by_its_noise(stain: str, quality: int) -> None:
    """An RMS of 1 to 5: colours that small are lost in a JPEG, all three planes can be the same."""
    for divisor in (8, 16, 64):
        plane = cells() // divisor
        pixels = decode_plane(saved(drawn(plane, stain), "JPEG", quality=quality, subsampling=2), stain).pixels
        assert np.abs(pixels.astype(int) - plane).max() < 40


@pytest.mark.parametrize(("share", "level", "accepted"), [(0.49, 200, True), (0.51, 200, False), (1, 7, True)])
def test_how_much_may_lie_in_other_planes(share: float, level: int, accepted: bool) -> None:
    foreign = np.full((8, 8, 3), [level, 0, round(share * level)], np.uint8)
    uneven = np.full((8, 8, 3), [level, round((1 - share) * level), 0], np.uint8)
    for stain, picture in (("red", foreign), ("yellow", uneven)):
        content = saved(picture, "PNG")
        if accepted:
            assert decode_plane(content, stain).peak == level
        else:
            with pytest.raises(DecodeError, match="looks like"):
                decode_plane(content, stain)


def test_yellow_is_the_mean_of_red_and_green_half_up() -> None:
    red, green = np.mgrid[:256, :256].astype(np.uint8)
    pixels = decode(saved(np.stack([red, green, red * 0], axis=-1), "PNG"), "yellow")
    assert np.array_equal(pixels, (red.astype(int) + green + 1) // 2)


@pytest.mark.parametrize("stain", STAINS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_gray_stored_as_colour_is_gray(kind: str, stain: str) -> None:
    plane = cells()
    content = saved(np.stack([plane] * 3, axis=-1), kind)
    found = decode_plane(content, stain)
    assert np.array_equal(found.pixels, by_pillow(content)[:, :, 0])
    assert found[1:] == (f"gray stored as RGB {kind}", found.pixels.max())


def test_all_pixels_decide_whether_colour_is_gray() -> None:
    """The brightness is measured on every second pixel of a picture of this size."""
    values = np.full((1024, 1024, 3), 100, np.uint8)
    assert decode_plane(saved(values, "TIFF"), "red").rule == "gray stored as RGB TIFF"
    values[501, 501, 2] = 101
    with pytest.raises(DecodeError, match="looks like"):
        decode_plane(saved(values, "TIFF"), "red")


# TIFF


@settings(deadline=None, max_examples=150)
@given(
    plane=planes(max_side=50),
    kind=st.sampled_from(["8-bit", "16-bit", "RGB"]),
    order=st.sampled_from("<>"),
    compression=st.sampled_from([1, 5, 8]),
    difference=st.booleans(),
    rows=st.integers(1, 60),
    tile=st.none() | st.tuples(st.sampled_from([16, 32, 64]), st.sampled_from([16, 48])),
)
def test_every_layout_of_a_tiff(
    plane: np.ndarray,
    kind: str,
    order: str,
    compression: int,
    difference: bool,
    rows: int,
    tile: tuple[int, int] | None,
) -> None:
    values = {"8-bit": plane, "16-bit": plane * np.uint16(257), "RGB": drawn(plane, "green")}[kind]
    predictor = 2 if difference and compression != 1 else 1
    layout: dict[str, Any] = {"order": order, "compression": compression, "predictor": predictor}
    content = tiff_bytes(values, rows=rows, tile=tile, **layout)
    assert np.array_equal(decode(content), plane)
    assert np.array_equal(by_pillow(content), values)


@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("compression", [1, 5, 8])
@pytest.mark.parametrize("missing", [1, 2, 3, 20, 100])
def test_a_strip_or_tile_cut_short_is_refused(compression: int, missing: int, tile: tuple[int, int] | None) -> None:
    plane = cells(16)
    size = len({1: bytes, 5: lzw_bytes, 8: zlib.compress}[compression](plane.tobytes()))
    missing += compression == 5  # the last byte holds nothing but the end mark
    for sizes in ([size - missing], [size, size], [0]):
        content = tiff_bytes(plane, tile=tile, compression=compression, tags={325 if tile else 279: sizes})
        with pytest.raises(DecodeError, match="TIFF"):
            decode(content)


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}])
@pytest.mark.parametrize("rows", [3, 50])
def test_a_tiff_that_libtiff_wrote(options: dict[str, str], rows: int) -> None:
    for predictor in (1, 2) if options else (1,):
        for values in (cells(50), cells(50).astype(np.uint16) * 99, drawn(cells(50), "green")):
            content = saved(values, "TIFF", tiffinfo={278: rows, 317: predictor}, **options)
            expected = scale_to_8_bit(values, 65535) if values.dtype == np.uint16 else values.reshape(50, 50, -1).max(2)
            assert np.array_equal(decode(content), expected)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tags": {339: [2]}}, "8-bit signed numbers"),
        ({"tags": {339: [3], 258: [32]}}, "32-bit floating-point"),
        ({"tags": {258: [32]}}, "32-bit gray"),
        ({"tags": {258: [12]}}, "12-bit gray"),
        ({"tags": {258: [1]}}, "1-bit gray"),
        ({"tags": {262: [0]}}, "white is 0"),
        ({"tags": {262: [3]}}, "palette"),
        ({"tags": {277: [4]}}, "four stains that is another layout"),
        ({"tags": {277: [2]}}, "2 planes"),
        ({"tags": {277: [3], 258: [8, 8, 8], 262: [6]}}, "colour TIFF"),
        ({"tags": {277: [3], 258: [16, 16, 16], 262: [2]}}, "16-bit colour TIFF"),
        ({"tags": {277: [3], 258: [8, 8, 8], 262: [2], 284: [2]}}, "separate planes"),
        ({"tags": {258: [8, 16]}}, "damaged"),
        ({"tags": {266: [2]}}, "mirrored bits"),
        ({"predictor": 3}, "predictor 3"),
        ({"compression": 7}, "JPEG"),
        ({"compression": 32773}, "PackBits"),
        ({"compression": 4}, "compression 4"),
        ({"following": 8}, "several pictures"),
        ({"tags": {256: [MAX_SIDE_PX + 1]}}, f"more than {MAX_SIDE_PX}"),
        ({"tags": {257: [0]}}, "x 0 px"),
        ({"tags": {257: [9]}}, "lists 1 strips"),
        ({"tags": {278: [0]}}, "without rows"),
        ({"tags": {279: [63]}}, "63 of 64"),
        ({"tags": {279: [2**31]}}, "truncated"),
        ({"tags": {273: [2**32 - 64]}}, "truncated"),
        ({"tile": (16, 16), "tags": {322: [0]}}, "tiles of 0 x 16"),
    ],
)
def test_other_kinds_of_tiff_are_refused(changes: dict[str, Any], reason: str) -> None:
    content = tiff_bytes(cells(8), **changes)
    with pytest.raises(DecodeError, match=reason):
        decode(content)


def test_a_pillow_file_of_several_pages_is_refused() -> None:
    pages = [Image.fromarray(cells(8, seed)) for seed in (0, 1)]
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(DecodeError, match="several pictures"):
        decode(buffer.getvalue())
    with pytest.raises(DecodeError, match="BigTIFF"):
        decode(saved(cells(8), "TIFF", big_tiff=True))


def test_a_deflated_strip_of_too_much_is_refused() -> None:
    for more in (1, 2, 9):
        with pytest.raises(DecodeError, match="too much"):
            decode(tiff_bytes(cells(10)[:, :1], compression=8, tags={257: [10 - more]}))


def test_a_deflated_strip_that_grows_without_end_is_refused() -> None:
    plane = cells(8)
    content = tiff_bytes(plane, compression=8)
    bomb = zlib.compress(bytes(200 * 2**20))
    large = content + bomb
    start = struct.unpack_from("<I", content, 4)[0]
    entries = [list(struct.unpack_from("<HHII", content, start + 2 + 12 * k)) for k in range(9)]
    for k, (tag, *_) in enumerate(entries):
        value = {273: len(content), 279: len(bomb)}.get(tag)
        if value is not None:
            large = large[: start + 10 + 12 * k] + struct.pack("<I", value) + large[start + 14 + 12 * k :]
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match="too much"):
            decode(large)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


# JPEG


@settings(deadline=None, max_examples=120)
@given(
    side=st.integers(1, 70),
    quality=st.integers(1, 100),
    colour=st.booleans(),
    seed=st.integers(0, 99),
    options=st.fixed_dictionaries(
        {},
        optional={
            "progressive": st.just(True),
            "optimize": st.just(True),
            "restart_marker_blocks": st.integers(1, 5),
            "subsampling": st.integers(0, 2),
            "comment": st.just(b"\xff\xd9 is no end here"),
        },
    ),
)
def test_every_whole_jpeg_is_what_pillow_makes_of_it(
    side: int, quality: int, colour: bool, seed: int, options: dict[str, Any]
) -> None:
    plane = (
        np.random.default_rng(seed).integers(0, 256, (side, side)).astype(np.uint8) if seed % 2 else cells(side, seed)
    )
    content = saved(np.stack([plane] * 3, axis=-1) if colour else plane, "JPEG", quality=quality, **options)
    found = decode_plane(content + b"more", "red")
    assert found.rule == ("gray stored as RGB JPEG" if colour else "8-bit gray JPEG")
    expected = by_pillow(content)
    assert np.array_equal(found.pixels, expected[:, :, 0] if colour else expected)


@pytest.mark.parametrize("stain", ["green", None])
@pytest.mark.parametrize("side", [64, 96])
def test_libjpeg_invents_no_lines(stain: str | None, side: int) -> None:
    """Cut short and ended properly, Pillow alone gives gray lines and no error. Two blocks at most can be wrong."""
    plane = cells(side)
    content = saved(drawn(plane, stain) if stain else plane, "JPEG", quality=90)
    whole = decode(content).astype(int)
    accepted = 0
    for missing in range(1, len(content) - 2):
        cut = content[: -2 - missing]
        with pytest.raises(DecodeError):
            decode(cut)
        try:
            pixels = decode(cut + b"\xff\xd9")
        except DecodeError:
            continue
        accepted += 1
        wrong = np.argwhere(pixels != whole)
        assert len(wrong) <= (17**2 if stain else 2 * 8**2), (
            missing
        )  # one of 16 px with a smoothed edge, or two of 8 px
    assert accepted < 50
    assert by_pillow(content[: len(content) // 2] + b"\xff\xd9").shape == by_pillow(content).shape


def test_a_progressive_jpeg_without_its_last_scans_is_refused() -> None:
    content = saved(cells(), "JPEG", progressive=True)
    scans = [k for k in range(len(content)) if content[k : k + 2] == b"\xff\xda"]
    assert len(scans) > 3
    for start in scans:
        with pytest.raises(DecodeError, match=r"more are needed|holds no pixels|no segment|damaged"):
            decode(content[:start] + b"\xff\xd9")


def segments(content: bytes) -> int:
    """Where the frame header of a JPEG starts."""
    return next(k for k in range(len(content)) if content[k] == 0xFF and content[k + 1] in (0xC0, 0xC1, 0xC2))


def test_other_kinds_of_jpeg_are_refused() -> None:
    content = saved(cells(16), "JPEG")
    frame = segments(content)

    def changed(at: int, new: bytes) -> bytes:
        return content[: frame + at] + new + content[frame + at + len(new) :]

    buffer = io.BytesIO()
    Image.fromarray(cells(16)).convert("CMYK").save(buffer, "JPEG")
    for other, reason in [
        (buffer.getvalue(), "CMYK"),
        (changed(4, b"\x0c"), "12-bit"),
        (changed(1, b"\xc9"), "arithmetic"),
        (changed(1, b"\xc3"), "lossless"),
        (changed(5, b"\0\0"), "16 x 0 px"),
        (changed(5, b"\xff\xff\xff\xff"), f"65535 x 65535 px, more than {MAX_SIDE_PX}"),
        (changed(9, b"\2"), "its header"),
        (content[:2] + b"\xff\xd9", "no pixels"),
        (content[:frame] + content[-2:], "no pixels"),
        (content[:-2] + content[content.index(b"\xff\xda") :], "a scan too many"),
        (content[:20] + b"\xff\xdc\0\4\0\1" + content[20:], "segment 0xdc"),
    ]:
        with pytest.raises(DecodeError, match=reason):
            decode(other)


def test_orientation_and_profiles_change_nothing() -> None:
    plane = cells(16)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    for kind in ("PNG", "JPEG", "TIFF"):
        plain = decode(saved(plane, kind))
        assert np.array_equal(decode(saved(plane, kind, exif=exif, icc_profile=b"\xff\xd9 no profile")), plain)
    content = saved(plane, "JPEG")
    for marker in (0xE1, 0xE2, 0xED, 0xFE):  # damaged EXIF, MPO, Photoshop; Pillow would warn or stop
        for body in (b"Exif\0\0nonsense", b"MPF\0nonsense", b"Photoshop 3.0\0nonsense", b"ICC_PROFILE\0\1"):
            extra = struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
            assert np.array_equal(decode(content[:2] + b"\xff\xff" + extra + content[2:]), decode(content))


# any bytes


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\x89PNG", "not an image file"),
        (b"GIF89a", "not an image file"),
        (b"Id,Target\n", "not an image file"),
        (b"<!DOCTYPE html>", "expected a PNG, TIFF or JPEG"),
        (b"II*\0", "truncated TIFF"),
        (b"\xff\xd8\xff\xe0", "truncated JPEG"),
    ],
)
def test_other_files_are_refused(content: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(content)


def test_pillow_has_no_choice_of_format() -> None:
    with pytest.raises(DecodeError, match="damaged JPEG"):
        load_picture(saved(cells(8), "PNG"), "JPEG")


@pytest.mark.parametrize("sides", [(MAX_SIDE_PX + 1, 1), (1, MAX_SIDE_PX + 1), (60_000, 60_000), (2**32 - 1,) * 2])
def test_a_size_bomb_is_refused_before_anything_is_allocated(sides: tuple[int, int]) -> None:
    contents = [png_bytes(bytes(10**6), *sides), tiff_bytes(cells(8), tags={256: [sides[0]], 257: [sides[1]]})]
    if max(sides) < 65536:
        jpeg = saved(cells(8), "JPEG")
        frame = segments(jpeg)
        contents.append(jpeg[: frame + 5] + struct.pack(">HH", sides[1], sides[0]) + jpeg[frame + 9 :])
    for content in contents:
        tracemalloc.start()
        try:
            with pytest.raises(DecodeError, match=f"more than {MAX_SIDE_PX}"):
                decode(content)
            assert tracemalloc.get_traced_memory()[1] < 100_000
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("options", [{"kind": "PNG", "compress_level": 1}, {"kind": "TIFF"}, {"kind": "JPEG"}])
def test_the_largest_image_passes_without_a_warning(options: dict[str, Any]) -> None:
    plane = np.zeros((MAX_SIDE_PX, MAX_SIDE_PX), np.uint8)
    plane[:, -8:] = 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = decode(saved(plane, **options))
    assert pixels.shape == (MAX_SIDE_PX, MAX_SIDE_PX)
    assert pixels[:, -1].all()


def test_no_text_can_fill_the_memory() -> None:
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200 * 2**20)))
    plane = np.eye(4, dtype=np.uint8)
    tracemalloc.start()
    try:
        assert np.array_equal(decode(png_bytes(filtered(plane, [0] * 4), 4, 4, before=bomb)), plane)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


GRAY, DEEP, GREEN = cells(32), cells(32).astype(np.uint16) * 250, drawn(cells(32), "green")
FILES = {
    "16-bit PNG": saved(DEEP, "PNG"),
    "RGB PNG": saved(GREEN, "PNG"),
    "gray JPEG": saved(GRAY, "JPEG"),
    "RGB JPEG": saved(GREEN, "JPEG"),
    "progressive JPEG": saved(GREEN, "JPEG", progressive=True),
    "JPEG with restarts": saved(GRAY, "JPEG", restart_marker_blocks=2),
    "plain TIFF": tiff_bytes(GREEN, rows=5),
    "tiled TIFF": tiff_bytes(DEEP, order=">", tile=(16, 16)),
    "deflate TIFF": tiff_bytes(DEEP, rows=7, compression=8, predictor=2),
    "LZW TIFF": tiff_bytes(GRAY, order=">", rows=5, compression=5),
    "LZW TIFF by Pillow": saved(DEEP, "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("name", FILES)
def test_any_change_gives_a_plane_or_a_reason(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    content = FILES[name]
    decode(content)
    rng = np.random.default_rng(0)
    reasons = []
    for trial in range(600):
        damaged = bytearray(content if trial % 3 else content[: rng.integers(len(content))])
        for _ in range(min(len(damaged), rng.choice([1, 1, 2, 8])) if trial % 3 else 0):
            at = rng.integers(min(len(damaged), 10**9 if trial % 2 else 200))
            damaged[at] = rng.choice([0, 1, 255, damaged[at] ^ 1 << rng.integers(8)])
        try:
            found = decode_plane(bytes(damaged), "green", white_level=int(rng.integers(1, 65536)))
        except DecodeError as error:
            reasons.append(str(error))
        else:
            assert isinstance(found, Plane)
            assert (found.pixels.dtype, found.pixels.ndim) == (np.dtype(np.uint8), 2)
    assert len(reasons) >= 200  # every cut file
    assert not [reason for reason in reasons if " at 0x" in reason]  # they are stored: no addresses in memory
    assert not capfd.readouterr().err or name.startswith("LZW")  # libtiff tells of damaged codes


# real files


def test_every_real_file(real_data: Path) -> None:
    rules = {
        "images": {"8-bit gray PNG"},
        "images_other/PRBioimages_DULoc": {"8-bit gray JPEG"},
        "images_other/PRBioimages_Singlecell/gray": {"8-bit gray PNG"},
        "images_other/PRBioimages_Singlecell/incomplete": {"8-bit gray PNG", "16-bit gray PNG, 65535 -> 255"},
    }
    for folder, expected in rules.items():
        files = [path for path in (real_data / folder).rglob("*_*.*") if path.suffix in (".png", ".jpg")]
        assert {decode_plane(path.read_bytes(), "green").rule for path in files} == expected


def test_the_same_field_in_gray_and_in_colour(real_data: Path) -> None:
    """The coloured files are named .png and are JPEGs of quality 50."""
    folder = real_data / "images_other/PRBioimages_Singlecell"
    for stain in STAINS:
        content = (folder / f"rgb/57_F11_1_{stain}.png").read_bytes()
        gray = decode((folder / f"gray/57_F11_1_{stain}.png").read_bytes())
        colour = decode_plane(content, stain)
        assert colour.rule.startswith("RGB JPEG, ")
        assert np.corrcoef(gray.ravel(), colour.pixels.ravel())[0, 1] > 0.999
        assert abs(gray.mean() - colour.pixels.mean()) < 0.5
        for other in set(STAINS) - {stain}:
            with pytest.raises(DecodeError, match="looks like another stain's picture"):
                decode_plane(content, other)


def test_a_real_16_bit_file_and_its_8_bit_twin(real_data: Path) -> None:
    folder = real_data / "images_other/PRBioimages_Singlecell/incomplete"
    deep = (folder / "383_D2_1_blue_16bit.png").read_bytes()
    twin = decode((folder / "383_D2_1_blue.png").read_bytes(), "blue").astype(int)
    found = decode_plane(deep, "blue")
    assert found.peak == 65535
    assert np.array_equal(-(-by_pillow(deep).astype(int) // 257), twin)  # the atlas rounds up
    assert set(np.unique(twin - found.pixels)) == {0, 1}
    assert (twin == found.pixels).mean() > 0.92
