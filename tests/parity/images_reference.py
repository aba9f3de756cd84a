"""Image processing of the families that transformers has no class for, written from spec/inputs.md with PIL and torch."""

import math

import numpy as np
import torch
from PIL import Image

CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


def closest_grid(width, height, side, least, most):
    """(columns, rows) of §7.10: the closest aspect; on a tie the later one while the image fills half of it."""
    grids = [(c, r) for c in range(1, most + 1) for r in range(1, most + 1) if least <= c * r <= most]
    best, distance = (1, 1), math.inf
    for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        current = abs(width / height - columns / rows)
        if current < distance or (current == distance and width * height > 0.5 * side * side * columns * rows):
            best, distance = (columns, rows), current
    return best


def cut(image, columns, rows, side):
    image = image.resize((columns * side, rows * side))
    boxes = [(c * side, r * side, (c + 1) * side, (r + 1) * side) for r in range(rows) for c in range(columns)]
    return [image.crop(box) for box in boxes]


def vila_normalized(images):
    """SiglipImageProcessor without torchvision: the product in double, the rest in single precision."""
    out = [(np.asarray(image).astype(np.float64) * (1 / 255)).astype(np.float32) for image in images]
    half = np.float32(0.5)
    return torch.stack([torch.from_numpy((x - half) / half).permute(2, 0, 1) for x in out])


def intern_normalized(images):
    """InternViT's processor in VILA's code: ToTensor, then Normalize with ImageNet's colours."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    return torch.stack([(torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 - mean) / std for image in images])


def cut_scales(pixels, scales, side):
    """s2: the image resized to each scale, and cut into squares, row by row."""
    tiles = []
    for scale in scales:
        sized = torch.nn.functional.interpolate(pixels[None], size=(scale, scale), mode="bicubic")[0]
        tiles += [sized[:, y : y + side, x : x + side] for y in range(0, scale, side) for x in range(0, scale, side)]
    return torch.stack(tiles)


def vila(image, mode, side=448, least=1, most=12, scales=(448, 896, 1344), one=True, s2=False, normalized=vila_normalized):
    """§7.11 → (pixels, (rows, columns)); one: the only image of its sample; s2: in tiles of `side` pixels"""
    if s2:
        pixels, _ = vila(image, mode, max(scales), normalized=normalized)
        return cut_scales(pixels, sorted(scales), side), (max(scales) // side,) * 2
    if mode == "dynamic" and one:
        columns, rows = closest_grid(*image.size, side, least, most)
        tiles = cut(image, columns, rows, side)
        if len(tiles) > 1:
            tiles.append(image.resize((side, side)))
        return normalized(tiles), (rows, columns)
    if mode == "dynamic_s2" and one:
        tiles = []
        for scale in scales[:-1]:
            tiles += cut(image, scale // scales[0], scale // scales[0], side)
        columns, rows = closest_grid(*image.size, side, (scales[-1] // scales[0]) ** 2, most)
        return normalized(tiles + cut(image, columns, rows, side)), (rows, columns)
    if mode == "pad":
        square = Image.new("RGB", (max(image.size),) * 2, (127, 127, 127))
        square.paste(image, ((square.width - image.width) // 2, (square.height - image.height) // 2))
        image = square
    return normalized([image.resize((side, side), Image.Resampling.BICUBIC)])[0], (0, 0)


def phi3(image, crops=16):
    """§7.6 → (pixels, (rows, columns))"""
    portrait = image.width < image.height
    if portrait:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    ratio = image.width / image.height
    scale = max(s for s in range(1, crops + 1) if s * math.ceil(s / ratio) <= crops)
    image = image.resize((336 * scale, int(336 * scale / ratio)), Image.Resampling.BILINEAR)
    padded = Image.new("RGB", (image.width, math.ceil(image.height / 336) * 336), (255, 255, 255))
    padded.paste(image, (0, int((padded.height - image.height) / 2)))
    if portrait:
        padded = padded.transpose(Image.Transpose.TRANSPOSE)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in CLIP)
    pixels = (torch.from_numpy(np.array(padded)).permute(2, 0, 1).contiguous().float() / 255 - mean) / std
    whole = torch.nn.functional.interpolate(pixels[None], size=(336, 336), mode="bicubic")
    rows, columns = padded.height // 336, padded.width // 336
    tiles = [pixels[:, r * 336 : r * 336 + 336, c * 336 : c * 336 + 336] for r in range(rows) for c in range(columns)]
    return torch.cat([whole, torch.stack(tiles)]), (rows, columns)


def fullest_grid(width, height, side, most):
    """(columns, rows) of Nemotron-VL: closeness of the aspect times the share of the pixels, of which 0.6 is enough."""
    grids = {(c, r) for n in range(1, most + 1) for c in range(1, n + 1) for r in range(1, n + 1) if c * r <= most}
    best, value = (1, 1), -math.inf
    for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        own, wanted = columns / rows, width / height
        current = min((columns * rows * side * side) / (width * height), 0.6) * min(own / wanted, wanted / own)
        if current > value:
            best, value = (columns, rows), current
    return best


def nemotron(image, side=512, most=12, thumbnail=True):
    """models-phi-gemma.md §5.6 → (pixels, (rows, columns)): PIL doubles the image, torchvision resizes it."""
    from torchvision.transforms.v2 import functional as tv

    image = image.resize((image.width * 2, image.height * 2), Image.Resampling.BILINEAR)
    columns, rows = fullest_grid(*image.size, side, most)
    bytes = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    sized = tv.resize(bytes, [rows * side, columns * side], interpolation=tv.InterpolationMode.BILINEAR, antialias=True)
    tiles = [sized[:, r * side : r * side + side, c * side : c * side + side] for r in range(rows) for c in range(columns)]
    if thumbnail and len(tiles) > 1:
        tiles.append(tv.resize(bytes, [side, side], interpolation=tv.InterpolationMode.BILINEAR, antialias=True))
    return torch.stack(tiles) * (1 / 255), (rows, columns)
