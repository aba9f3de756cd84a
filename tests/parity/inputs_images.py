"""Image files of every kind that the decoder knows, written into a folder."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from transformers.image_transforms import convert_to_rgb

# Of the tests of whole families and processors: extreme ratios, a single pixel, large ones.
INPUT_SIZES = [(1, 1), (640, 480), (480, 640), (500, 375), (337, 336), (37, 61), (100, 1000), (1500, 70), (224, 224),
               (1920, 1080), (11, 340), (4000, 3000)]  # fmt: skip
SIZES = [(640, 480), (480, 640), (500, 375), (100, 1000), (224, 224), (337, 336), (37, 61), (3000, 2000), (1, 1)]


def picture(width: int, height: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Structure and noise, so that resizing meets both flat areas and edges. [height, width, channels]"""
    x, y, c = np.meshgrid(np.arange(width), np.arange(height), np.arange(channels))[:3]
    waves = (3 * x + 5 * y + 40 * c + ((x * y) >> 6)) % 256
    noise = np.random.default_rng(seed).integers(0, 256, waves.shape)
    return np.where((x // 16 + y // 16) % 3 == 0, noise, waves).astype(np.uint8)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, color: int, rows: list[bytes], chunks: bytes = b"") -> bytes:
    """Kinds of PNG that Pillow reads but does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + chunks + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def exif(orientation: int) -> bytes:
    out = Image.Exif()
    out[0x0112] = orientation
    return out.tobytes()


def without_adobe_marker(jpeg: bytes) -> bytes:
    start = jpeg.index(b"\xff\xee")
    (length,) = struct.unpack(">H", jpeg[start + 2 : start + 4])
    return jpeg[:start] + jpeg[start + 2 + length :]


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def write_all(folder: Path) -> list[Path]:
    rgb, rgba = Image.fromarray(picture(161, 117)), Image.fromarray(picture(161, 117, 4))
    grey = Image.fromarray(picture(161, 117, 1)[..., 0])
    palette = rgb.quantize(40)
    grey16 = np.random.default_rng(1).integers(0, 600, (9, 11)).astype(">u2")
    files = {f"size-{w}x{h}.png": encoded(Image.fromarray(picture(w, h)), "PNG", compress_level=1) for w, h in SIZES}
    for subsampling in (0, 1, 2):
        files[f"jpeg-{subsampling}.jpg"] = encoded(rgb, "JPEG", quality=70, subsampling=subsampling)
    files |= {
        "progressive.jpg": encoded(rgb, "JPEG", quality=85, progressive=True),
        "grey.jpg": encoded(grey, "JPEG", quality=90),
        "cmyk.jpg": encoded(rgb.convert("CMYK"), "JPEG", quality=95),
        "grey.png": encoded(grey, "PNG"),
        "bilevel.png": encoded(grey.convert("1"), "PNG"),
        "rgba.png": encoded(rgba, "PNG"),
        "grey-alpha.png": encoded(rgba.convert("LA"), "PNG"),
        "palette.png": encoded(palette, "PNG"),
        "palette-transparent-index.png": encoded(palette, "PNG", transparency=7),
        "palette-alpha.png": encoded(palette, "PNG", transparency=bytes(range(0, 240, 6))),
        "rgb-transparent.png": encoded(rgb, "PNG", transparency=tuple(picture(161, 117)[5, 5].tolist())),
        "grey-transparent.png": encoded(grey, "PNG", transparency=int(picture(161, 117, 1)[5, 5, 0])),
        "grey16.png": png(11, 9, 16, 0, [row.tobytes() for row in grey16]),
        "rgb16.png": png(3, 9, 16, 2, [row[:9].tobytes() for row in grey16]),
        "rgba16.png": png(2, 9, 16, 6, [(row[:8] * 100).tobytes() for row in grey16]),
        "grey4-transparent.png": png(4, 1, 4, 0, [b"\x12\xf5"], png_chunk(b"tRNS", b"\x00\x22")),
        "grey1-transparent.png": png(8, 1, 1, 0, [b"\x5a"], png_chunk(b"tRNS", b"\x00\x01")),
        "rgb16-transparent.png": png(1, 1, 16, 2, [b"\x04\x01\x05\x02\x06\x03"], png_chunk(b"tRNS", b"\0\x04\0\x05\0\x06")),
        "palette-beyond.png": png(3, 1, 8, 3, [b"\0\1\x09"], png_chunk(b"PLTE", b"\x0a\x14\x1e\x28\x32\x3c")),
        "lossy.webp": encoded(rgb, "WEBP", quality=60),
        "lossy-alpha.webp": encoded(rgba, "WEBP", quality=60),
        "lossless.webp": encoded(rgb, "WEBP", lossless=True),
        "lossless-alpha.webp": encoded(rgba, "WEBP", lossless=True),
        "rotated.webp": encoded(rgb, "WEBP", lossless=True, exif=exif(6)),
        "animated.webp": encoded(rgb, "WEBP", save_all=True, append_images=[grey.convert("RGB")], lossless=True),
        "rotated.png": encoded(rgb, "PNG", exif=exif(5)),
        "xmp.jpg": encoded(rgb, "JPEG", xmp=b'<x tiff:Orientation="3"/>'),
    }  # fmt: skip
    files |= {f"exif-{code}.jpg": encoded(rgb, "JPEG", exif=exif(code)) for code in range(1, 9)}
    files["cmyk-plain.jpg"] = without_adobe_marker(files["cmyk.jpg"])
    paths = []
    for name, data in files.items():
        (folder / name).write_bytes(data)
        paths.append(folder / name)
    return paths


def write_inputs(folder: Path) -> list[Path]:
    """INPUT_SIZES in RGB, and one picture in each of the other kinds."""
    rgb, rgba = Image.fromarray(picture(161, 117)), Image.fromarray(picture(161, 117, 4))
    files = {f"{w}x{h}.png": encoded(Image.fromarray(picture(w, h)), "PNG", compress_level=1) for w, h in INPUT_SIZES}
    files |= {
        "grey.png": encoded(rgb.convert("L"), "PNG"),
        "rgba.png": encoded(rgba, "PNG"),
        "palette.png": encoded(rgb.quantize(40), "PNG"),
        "cmyk.jpg": encoded(rgb.convert("CMYK"), "JPEG", quality=95),
        "rotated.jpg": encoded(rgb, "JPEG", exif=exif(6)),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


def opened(path: Path) -> Image.Image:
    """Upright and RGB: what the processors would make of a picture first."""
    with Image.open(path) as image:
        return convert_to_rgb(ImageOps.exif_transpose(image))
