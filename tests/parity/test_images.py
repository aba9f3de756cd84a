"""Image processors that cut, pad and mask, in both profiles: equal bits to transformers, or to images_reference.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers.image_processing_utils import select_best_resolution
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas
from transformers.models.mllama.image_processing_mllama import get_all_supported_aspect_ratios

sys.path.insert(0, str(Path(__file__).parent))
import images_reference  # noqa: E402
from inputs_images import INPUT_SIZES as SIZES  # noqa: E402
from inputs_images import opened, write_inputs  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def pictures(images):
    return [opened(path) for path in images]


# --- what of a reference's answer stands in which field ---------------------------------------------------------------


def fixed(answer, image, reference):
    return {"pixels": answer["pixel_values"][0]}


def patches(answer, image, reference):
    return {"pixels": answer["pixel_values"], "grid": answer["image_grid_thw"][0].tolist()[1:]}


def own_size(answer, image, reference):
    pixels = answer["pixel_values"][0]
    assert list(answer["image_sizes"][0]) == list(pixels.shape[1:])
    return {"pixels": pixels}


def anyres(answer, image, reference):
    height, width = select_best_resolution((image.height, image.width), reference.image_grid_pinpoints)
    side = reference.crop_size["height"] if reference.crop_size else reference.size["height"]
    return {"pixels": answer["pixel_values"][0], "tiles": [-(-height // side), -(-width // side)]}


def one_of_several(answer, image, reference):
    return {"pixels": answer["pixel_values"][0], "tiles": [0, 0]}


def pan_and_scan(answer, image, reference):
    crops = int(answer["num_crops"][0])
    grid = [0, 0] if crops == 0 else [1, crops] if image.width >= image.height else [crops, 1]
    return {"pixels": answer["pixel_values"], "tiles": grid}


def tiles_then_thumbnail(answer, image, reference):
    side = reference.size["height"]
    columns, rows = get_optimal_tiled_canvas((image.height, image.width), (side, side), 1, reference.max_patches)
    return {"pixels": answer["pixel_values"], "tiles": [rows, columns]}


def single_tile(answer, image, reference):
    return {"pixels": answer["pixel_values"], "tiles": [0, 0]}


def split(answer, image, reference):
    return {"pixels": answer["pixel_values"][0], "tiles": [answer["rows"][0][0], answer["cols"][0][0]]}


def canvas(answer, image, reference):
    rows, columns = get_all_supported_aspect_ratios(4)[int(answer["aspect_ratio_ids"][0][0]) - 1]
    assert not answer["pixel_values"][0][0][rows * columns :].any()
    return {"pixels": answer["pixel_values"][0][0][: rows * columns], "tiles": [rows, columns]}


def chunks(answer, image, reference):
    assert answer["pixel_values"].dtype == torch.bfloat16
    grid = answer["aspect_ratios"][0].tolist()
    return {"pixels": answer["pixel_values"].float(), "tiles": [0, 0] if grid == [1, 1] else grid}


def high_definition(answer, image, reference):
    rows, columns = (side // reference.size["height"] for side in answer["image_sizes"][0].tolist())
    mask = answer["image_attention_mask"][0].bool()
    return {"pixels": answer["image_pixel_values"][0], "tiles": [rows, columns], "mask": mask}


# --- the processors ---------------------------------------------------------------------------------------------------


# Small tiles keep this fast: the published sizes have their checksums in tests/unit/inputs/image_kinds_test.cpp.


def square(side):
    return {"height": side, "width": side}


HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CLIP_336 = {"size": {"shortest_edge": 336}, "crop_size": square(336)}
NEXT = {
    "size": {"shortest_edge": 112},
    "crop_size": square(112),
    "image_grid_pinpoints": [[112, 224], [224, 112], [224, 224], [336, 112], [112, 336]],
}
ONEVISION = {
    "size": square(96),
    "image_grid_pinpoints": [[96 * k, 96 * n] for k in range(1, 7) for n in range(1, 7)],
    **HALF,
}
INTERNVL = {"size": square(112), **IMAGENET}

PROCESSORS = {
    "clip": ("CLIPImageProcessor", CLIP_336, fixed),
    "clip-bilinear-int": ("CLIPImageProcessor", {"size": 60, "crop_size": 71, "resample": 2}, fixed),
    "clip-crop-only": ("CLIPImageProcessor", {"do_resize": False, "crop_size": 301}, fixed),
    "clip-rescale-only": ("CLIPImageProcessor", {"do_normalize": False, "rescale_factor": 0.01}, fixed),
    "clip-normalize-only": ("CLIPImageProcessor", {"do_rescale": False}, fixed),
    "paligemma": ("SiglipImageProcessor", {"size": square(224), "do_convert_rgb": True}, fixed),
    "llava-pad": ("LlavaImageProcessor", {"do_pad": True, **CLIP_336}, fixed),
    "llava-next": ("LlavaNextImageProcessor", NEXT, anyres),
    "llava-next-defaults": ("LlavaNextImageProcessor", {}, anyres),
    "onevision": ("LlavaOnevisionImageProcessor", ONEVISION, anyres),
    "onevision-several": ("LlavaOnevisionImageProcessor", ONEVISION, one_of_several),
    "qwen2-vl": ("Qwen2VLImageProcessor", {"min_pixels": 3136, "max_pixels": 501760}, patches),
    "qwen3-vl": (
        "Qwen2VLImageProcessor",
        {"patch_size": 16, "size": {"shortest_edge": 65536, "longest_edge": 167772}, **HALF},
        patches,
    ),
    "gemma3": ("Gemma3ImageProcessor", {"size": square(320)}, fixed),
    "gemma3-pan-and-scan": (
        "Gemma3ImageProcessor",
        {"size": 224, "do_pan_and_scan": True, "pan_and_scan_min_crop_size": 60, "pan_and_scan_max_num_crops": 4,
         "pan_and_scan_min_ratio_to_activate": 1.2},
        pan_and_scan,
    ),
    "internvl": ("GotOcr2ImageProcessor", {"crop_to_patches": True, **INTERNVL}, tiles_then_thumbnail),
    "internvl-whole": ("GotOcr2ImageProcessor", INTERNVL, single_tile),
    "idefics3": ("Idefics3ImageProcessor", {"size": {"longest_edge": 410}, "max_image_size": {"longest_edge": 92},
                                            "return_row_col_info": True}, split),
    "smolvlm": (
        "SmolVLMImageProcessor",
        {"size": {"longest_edge": 512}, "max_image_size": {"longest_edge": 128}, "return_row_col_info": True},
        split,
    ),
    "idefics3-whole": ("Idefics3ImageProcessor", {"do_image_splitting": False, "size": {"longest_edge": 300},
                                                  "return_row_col_info": True}, split),
    "idefics3-beyond-4k": ("Idefics3ImageProcessor", {"size": {"longest_edge": 5000}, "max_image_size": {"longest_edge": 1000},
                                                      "return_row_col_info": True}, split),
    "pixtral": ("PixtralImageProcessor", {"size": {"longest_edge": 512}}, own_size),
    "mistral3": ("PixtralImageProcessor", {"size": {"longest_edge": 420}, "patch_size": 28}, own_size),
    "mllama": ("MllamaImageProcessor", {"size": square(140)}, canvas),
    "phi4": ("Phi4MultimodalImageProcessor", {"size": square(112)}, high_definition),
    "llama4": ("Llama4ImageProcessor", {"size": square(112)}, chunks),
    "llama4-largest": ("Llama4ImageProcessor", {"size": square(98), "resize_to_max_canvas": True, "max_patches": 7}, chunks),
}  # fmt: skip
TV_ONLY = {"Phi4MultimodalImageProcessor", "Llama4ImageProcessor"}
ON_THE_LARGEST = {"clip", "qwen2-vl", "smolvlm", "phi4", "internvl", "llama4"}  # the others skip the last two sizes
CASES = [
    (name, profile)
    for name in PROCESSORS
    for profile in ("tv", "pil")
    if profile == "tv" or PROCESSORS[name][0] not in TV_ONLY
]


def images_for(name, paths):
    if name == "idefics3-beyond-4k":  # one strip: 5 tiles of 1000x1000 instead of 25
        return [SIZES.index((1500, 70))]
    if name == "llava-next-defaults":
        return range(6)
    large = [SIZES.index((1920, 1080)), SIZES.index((4000, 3000))]
    return [i for i in range(len(paths)) if name in ON_THE_LARGEST or i not in large]


def reference_of(name, profile):
    kind, config, _ = PROCESSORS[name]
    processor = getattr(transformers, kind + ("Pil" if profile == "pil" else ""))(**config)
    assert processor.backend == ("pil" if profile == "pil" else "torchvision")
    return processor


def process(probe, folder, profile, count, paths):
    """→ for each image what visq made of it; None where it refused"""
    arguments = ["pixels", folder, profile, count, folder / "out.safetensors", *paths]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run([probe("inputs"), *map(str, arguments)], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    out = load_file(folder / "out.safetensors")
    return [
        {"pixels": out[str(i)], "shape": out[f"{i}.shape"].tolist(), "mask": out.get(f"{i}.mask")}
        if str(i) in out
        else None
        for i in range(len(paths))
    ]


def assert_equal(ours, expected, image, label):
    assert ours is not None, label
    grid, tiles, size = ours["shape"][:2], ours["shape"][2:4], ours["shape"][4:]
    assert size == [image.height, image.width], label
    assert tiles == expected.get("tiles", [0, 0]), label
    if "grid" in expected:
        assert grid == expected["grid"], label
    assert ours["pixels"].shape == expected["pixels"].shape, label
    assert ours["pixels"].dtype == torch.float32
    assert torch.equal(ours["pixels"], expected["pixels"]), label
    assert (ours["mask"] is None) == ("mask" not in expected)
    assert ours["mask"] is None or torch.equal(ours["mask"], expected["mask"]), label


@pytest.mark.parametrize(("name", "profile"), CASES, ids=["-".join(case) for case in CASES])
def test_pixels_equal_the_reference(name, profile, images, pictures, probe, tmp_path):
    kind, config, read = PROCESSORS[name]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": kind, **config}))
    reference = reference_of(name, profile)
    several = read is one_of_several
    chosen = images_for(name, images)
    ours = process(probe, tmp_path, profile, 2 if several else 1, [images[i] for i in chosen])
    refused = 0
    for result, i in zip(ours, chosen, strict=True):
        image, label = pictures[i], images[i].name
        try:
            answer = reference(images=[[image, image]] if several else [image], return_tensors="pt")
        except (ValueError, RuntimeError, ZeroDivisionError):
            assert result is None, label
            refused += 1
            continue
        assert_equal(result, read(answer, image, reference), image, label)
    assert refused <= 6


def test_mistral3_takes_its_patch_from_the_processor(images, pictures, probe, tmp_path):
    config = {"image_processor_type": "PixtralImageProcessor", "size": {"longest_edge": 700}, "patch_size": 16}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    (tmp_path / "processor_config.json").write_text(json.dumps({"patch_size": 14, "spatial_merge_size": 2}))
    ours = process(probe, tmp_path, "tv", 1, images[1:4])
    reference = transformers.PixtralImageProcessor(size={"longest_edge": 700})
    for result, image in zip(ours, pictures[1:4], strict=True):
        expected = own_size(reference(images=[image], patch_size=28, return_tensors="pt"), image, reference)
        expected["grid"] = [side // 14 for side in expected["pixels"].shape[1:]]
        assert_equal(result, expected, image, str(image.size))


@pytest.mark.parametrize("crops", [4, 16])
def test_phi3_vision_equals_its_description(crops, images, pictures, probe, tmp_path):
    config = {"image_processor_type": "Phi3VImageProcessor", "num_crops": crops}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    chosen = range(4 if crops == 16 else 11)
    ours = process(probe, tmp_path, "tv", 1, [images[i] for i in chosen])
    for result, i in zip(ours, chosen, strict=True):
        pixels, tiles = images_reference.phi3(pictures[i], crops)
        assert_equal(result, {"pixels": pixels, "tiles": list(tiles)}, pictures[i], images[i].name)


@pytest.mark.parametrize("most", [12, 5])
def test_nemotron_equals_its_description(most, images, pictures, probe, tmp_path):
    config = {"image_processor_type": "LlamaNemotronNanoVLImageProcessor", "image_size": 112, "max_num_tiles": most, "do_rescale": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    chosen = [i for i, picture in enumerate(pictures) if picture.width * picture.height < 12_000_000]  # they are doubled
    assert len(chosen) >= 10
    for result, i in zip(process(probe, tmp_path, "tv", 1, [images[i] for i in chosen]), chosen, strict=True):
        pixels, tiles = images_reference.nemotron(pictures[i], 112, most)
        assert_equal(result, {"pixels": pixels, "tiles": list(tiles)}, pictures[i], images[i].name)


VILA = [("resize", 1), ("pad", 1), ("dynamic", 1), ("dynamic", 2), ("dynamic_s2", 1), ("dynamic_s2", 3), (None, 1)]


@pytest.mark.parametrize(("mode", "count"), VILA)
def test_vila_equals_its_description(mode, count, images, pictures, probe, tmp_path):
    root = {"image_aspect_ratio": mode, "min_tiles": 1, "max_tiles": 12, "s2_scales": "112,224,336"}
    tower = {"image_processor_type": "SiglipImageProcessor", "size": square(112), "resample": 3, **HALF}
    (tmp_path / "config.json").write_text(json.dumps(root))
    (tmp_path / "vision_tower").mkdir()
    (tmp_path / "vision_tower" / "preprocessor_config.json").write_text(json.dumps(tower))
    for result, image, path in zip(process(probe, tmp_path, "tv", count, images), pictures, images, strict=True):
        pixels, tiles = images_reference.vila(image, mode, 112, scales=(112, 224, 336), one=count == 1)
        assert_equal(result, {"pixels": pixels, "tiles": list(tiles)}, image, path.name)
