"""Tokenizers and image processors against transformers, tokenizers, torchvision and Pillow: equal ids, equal bits."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from PIL import Image, ImageOps  # noqa: E402
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, processors  # noqa: E402
from transformers import AutoImageProcessor, AutoTokenizer  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
import inputs_images  # noqa: E402
import inputs_tokenizers as toy  # noqa: E402

REPOSITORY = Path(__file__).parents[2]


def run(program, *arguments):
    result = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


# --- tokenizers -------------------------------------------------------------------------------------------------------


def llava(folder, config=None, tokenizer=None):
    tokenizer = tokenizer or toy.llama_tokenizer()
    return toy.write_checkpoint(folder, tokenizer, "llava", {"tokenizer_class": "LlamaTokenizer", **(config or {})})


def llava_with_every_flag(folder):
    tokenizer = toy.llama_tokenizer()
    tokenizer.add_tokens(toy.LLAMA_TOKENS)
    return llava(folder, tokenizer=tokenizer)


def llava_without_byte_fallback(folder):
    return llava(folder, tokenizer=toy.llama_tokenizer(byte_fallback=False))


def llava_with_flags_in_its_config(folder):
    decoder = {"content": "<image>", "lstrip": True, "rstrip": True, "single_word": False, "normalized": False}
    config = {
        "added_tokens_decoder": {"700": {**decoder, "special": False}},
        "add_bos_token": False,
        "bos_token": "<s>",
        "unk_token": {"__type": "AddedToken", "content": "<unk>", "normalized": True, "special": True},
        "image_token": "<image>",
        "boi_token": "<boi>",
        "pad_token": "<new pad>",
        "extra_special_tokens": ["<extra>", "quick"],
    }
    return llava(folder, config)


def llava_with_older_files(folder):
    llava(folder, {"bos_token": "<s>"})
    special = {"content": "<late>", "lstrip": False, "normalized": False, "rstrip": True, "single_word": False}
    special_map = {"eos_token": special, "additional_special_tokens": ["<more>"], "sep_token": "<sep>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special_map))
    (folder / "added_tokens.json").write_text(json.dumps({"<more>": 703, "<plain>": 702}))
    return folder


def llava_with_a_byte_level_backbone(folder):
    """Llama-3 style: ignore_merges, digits in threes."""
    split = pre_tokenizers.Split(Regex(toy.GPT2_STYLE), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = toy.byte_level_tokenizer(pre_tokenizers.Sequence([split, byte_level]), ignore_merges=True)
    tokenizer.add_tokens([toy.special("<image>"), toy.special("<bos>")])
    template = processors.TemplateProcessing(
        single="<bos> $A <image>", special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("<bos>", "<image>")]
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return llava(folder, tokenizer=tokenizer)


def llava_with_a_gpt2_backbone(folder):
    tokenizer = toy.byte_level_tokenizer(pre_tokenizers.ByteLevel(add_prefix_space=True))
    tokenizer.add_tokens([toy.special("<image>")])
    return llava(folder, tokenizer=tokenizer)


def llava_with_metaspace(folder):
    tokenizer = toy.llama_tokenizer()
    tokenizer.normalizer = normalizers.Replace(Regex(r"[\r\n]+"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    tokenizer.add_tokens(toy.LLAMA_TOKENS)
    return llava(folder, tokenizer=tokenizer)


def llava_without_post_processor(folder):
    state = json.loads(toy.llama_tokenizer().to_str())
    state["post_processor"] = None
    tokenizer = toy.Tokenizer.from_str(json.dumps(state))
    return llava(folder, {"bos_token": "<s>", "add_bos_token": True}, tokenizer)


def llava_that_splits_specials(folder):
    return llava(folder, {"split_special_tokens": True})


def qwen(folder, config=None, tokenizer=None):
    tokenizer = tokenizer or toy.qwen_tokenizer()
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "bos_token": None, **(config or {})}
    return toy.write_checkpoint(folder, tokenizer, "qwen2_5_vl", config)


def qwen_with_decoder_in_its_config(folder):
    tokenizer = toy.qwen_tokenizer()
    decoder = {
        str(id): {"content": t.content, "lstrip": t.lstrip, "rstrip": t.rstrip, "single_word": t.single_word,
                  "normalized": t.normalized, "special": t.special}
        for id, t in tokenizer.get_added_tokens_decoder().items()
    }  # fmt: skip
    config = {"added_tokens_decoder": decoder, "additional_special_tokens": ["<|im_start|>", "<tool_call>"]}
    return qwen(folder, {**config, "add_prefix_space": False}, tokenizer)


def qwen_whose_file_says_otherwise(folder):
    """Only vocabulary and merges count: the class fixes the rest."""
    tokenizer = toy.qwen_tokenizer()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return qwen(folder, tokenizer=tokenizer)


def qwen_declared_generic(folder):
    tokenizer = toy.qwen_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return qwen(folder, {"tokenizer_class": "PreTrainedTokenizerFast"}, tokenizer)


CHECKPOINTS = [
    llava, llava_with_every_flag, llava_without_byte_fallback, llava_with_flags_in_its_config, llava_with_older_files,
    llava_with_a_byte_level_backbone, llava_with_a_gpt2_backbone, llava_with_metaspace, llava_without_post_processor,
    llava_that_splits_specials, qwen, qwen_with_decoder_in_its_config, qwen_whose_file_says_otherwise,
    qwen_declared_generic,
]  # fmt: skip


@pytest.mark.parametrize("make", CHECKPOINTS, ids=lambda make: make.__name__)
def test_ids_equal_the_reference(make, probe, tmp_path):
    folder = make(tmp_path / "checkpoint")
    reference = AutoTokenizer.from_pretrained(folder)
    texts = toy.texts(sorted(reference.get_added_vocab()))
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    run(probe("inputs"), "tokenize", folder, tmp_path / "texts.json", tmp_path / "out.json")
    out = json.loads((tmp_path / "out.json").read_text())

    assert out["size"] == max(reference.get_vocab().values()) + 1
    for text, ours in zip(texts, out["texts"], strict=True):
        ids = reference(text, add_special_tokens=False)["input_ids"]
        assert ours["ids"] == ids, (text, reference.convert_ids_to_tokens(ids))
        assert ours["ids_with_special"] == reference(text)["input_ids"], text
        assert ours["decoded"] == reference.decode(ids), text
        assert ours["decoded_without_special"] == reference.decode(ids, skip_special_tokens=True), text


def test_every_code_point_is_split_like_the_reference(probe, tmp_path):
    """Each character of Unicode alone between letters, joined into long texts."""
    folder = qwen(tmp_path / "checkpoint")
    reference = AutoTokenizer.from_pretrained(folder)
    points = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF and not 0x30000 <= c < 0xE0000 and c < 0xF0000]
    texts = ["".join(f"a{chr(c)}b {chr(c)}" for c in points[i : i + 4096]) for i in range(0, len(points), 4096)]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    run(probe("inputs"), "tokenize", folder, tmp_path / "texts.json", tmp_path / "out.json")
    out = json.loads((tmp_path / "out.json").read_text())
    for i, (text, ours) in enumerate(zip(texts, out["texts"], strict=True)):
        assert ours["ids"] == reference(text, add_special_tokens=False)["input_ids"], f"block {i}"


def test_the_committed_tables_are_those_of_the_package(tmp_path):
    script = REPOSITORY / "scripts" / "make_unicode_tables.py"
    subprocess.run([sys.executable, script, tmp_path / "tables.inc"], check=True)
    committed = (REPOSITORY / "visq" / "inputs" / "unicode_tables.inc").read_text()
    without_version = [text.split("\n", 1)[1] for text in (committed, (tmp_path / "tables.inc").read_text())]
    assert without_version[0] == without_version[1]


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    return inputs_images.write_all(tmp_path_factory.mktemp("images"))


def upright(path):
    image = Image.open(path)
    image.load()
    return ImageOps.exif_transpose(image)


def to_rgb(image):
    """What the reference processors do with a picture object."""
    from transformers.image_transforms import convert_to_rgb

    return torch.from_numpy(convert_to_rgb(image, return_numpy=True).copy()).permute(2, 0, 1)


def test_decoded_pixels_equal_pillow(images, probe, tmp_path):
    run(probe("inputs"), "decode", tmp_path / "out.safetensors", *images)
    out = load_file(tmp_path / "out.safetensors")
    for i, path in enumerate(images):
        assert torch.equal(out[str(i)], to_rgb(upright(path))), path.name


CLIP_336 = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
PROCESSORS = {
    "clip": {"image_processor_type": "CLIPImageProcessor", **CLIP_336},
    "clip-defaults": {"image_processor_type": "CLIPImageProcessorFast"},
    "clip-bilinear-int": {"image_processor_type": "CLIPImageProcessor", "size": 60, "crop_size": 70, "resample": 2},
    "clip-crop-only": {"image_processor_type": "CLIPImageProcessor", "do_resize": False, "crop_size": 301},
    "clip-rescale-only": {"image_processor_type": "CLIPImageProcessor", "do_normalize": False, "rescale_factor": 0.01},
    "clip-normalize-only": {"image_processor_type": "CLIPImageProcessor", "do_rescale": False},
    "siglip": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 384, "width": 300}},
    "llava-pad": {"image_processor_type": "LlavaImageProcessor", "do_pad": True, **CLIP_336},
    "llava-defaults": {"image_processor_type": "LlavaImageProcessorFast"},
    "qwen2-vl": {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 1003520},
    "qwen2-vl-size": {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "size": {"shortest_edge": 50000, "longest_edge": 90000},
        "merge_size": 1,
        "patch_size": 16,
        "temporal_patch_size": 3,
        "image_mean": [0.5, 0.4, 0.3],
    },
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_processed_pixels_equal_the_reference(name, images, probe, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSORS[name]))
    reference = AutoImageProcessor.from_pretrained(tmp_path)
    assert reference.backend == "torchvision"
    run(probe("inputs"), "pixels", tmp_path, "tv", 1, tmp_path / "out.safetensors", *images)
    out = load_file(tmp_path / "out.safetensors")
    for i, path in enumerate(images):
        expected = reference(images=[upright(path)], return_tensors="pt")
        pixels = expected["pixel_values"]
        if "image_grid_thw" in expected:
            assert expected["image_grid_thw"].tolist() == [[1, *out[f"{i}.shape"].tolist()[:2]]], path.name
        else:
            pixels = pixels[0]
        assert out[str(i)].shape == pixels.shape, path.name
        assert torch.equal(out[str(i)], pixels), path.name
