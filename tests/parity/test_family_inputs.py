"""What each family makes of images of every size and kind: ids and pixels as those of AutoProcessor on the same folder."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent))
import forward_models as toy  # noqa: E402
import images_reference  # noqa: E402
import llama4_model  # noqa: E402
import mllama_model  # noqa: E402
from inputs_images import write_inputs  # noqa: E402
from llava_original_models import OriginalLlava  # noqa: E402
from phi4mm_model import Phi4MM  # noqa: E402
from test_forward import KINDS as FORWARD_KINDS  # noqa: E402
from test_forward import encode, run_probe, with_pixels  # noqa: E402
from test_llava_original import IMAGE as LLAVA_IMAGE  # noqa: E402
from test_llava_original import PROMPTS as LLAVA_PROMPTS  # noqa: E402
from test_llava_original import pixels_of as llava_pixels  # noqa: E402
from test_phi3_vision import CROPS  # noqa: E402
from test_phi3_vision import IMAGE as PHI3_IMAGE  # noqa: E402
from test_phi3_vision import make as make_phi3_vision  # noqa: E402
from nemotron_model import SIDE, TILES, NemotronVL  # noqa: E402
from test_vila import expected_ids  # noqa: E402
from vila_models import Vila  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

# One kind of each family, and those whose images are processed in another way.
PROCESSED = ("llava-llama-clip", "llava-qwen2-siglip", "llava-pixtral", "llava_next-mistral", "llava_onevision", "qwen2_vl",
             "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "internvl-layer", "mistral3", "lighton_ocr", "gemma3", "paligemma-gemma2", "idefics3",
             "smolvlm", "phi4_multimodal")  # fmt: skip
KINDS = {kind: FORWARD_KINDS[kind] for kind in PROCESSED} | {"llama4": (llama4_model.make,), "mllama": (mllama_model.make,)}
ORIGINAL = ("llava-llama", "llava-mistral", "llava_next-qwen2", "llava_onevision")
VILA = ("vila1.5", "vila1.5-pad", "vila1.5-s2", "vila1.5-intern", "vila1.5-intern-s2", "nvila", "nvila-lite")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files of all sizes and kinds, and a conversation about each."""
    folder = tmp_path_factory.mktemp("pictures")
    conversations = [
        [{"role": "user", "content": [{"type": "image", "image": path.name}, {"type": "text", "text": "What is this?"}]}]
        for path in write_inputs(folder)
    ]
    return folder, conversations


def ask(probe, folder, pictures, chosen, out):
    """@return the probe's tensors for the chosen conversations"""
    data = pictures[0] / f"{out.parent.name}.jsonl"
    data.write_text("".join(json.dumps({"messages": pictures[1][index]}) + "\n" for index in chosen))
    return run_probe(probe("forward"), folder, data, out, "fp32")[0]


def refuses(probe, folder, pictures, index, out):
    data = pictures[0] / f"{out.parent.name}.jsonl"
    data.write_text(json.dumps({"messages": pictures[1][index]}) + "\n")
    return subprocess.run([probe("forward"), folder, data, out, "fp32"], capture_output=True).returncode == 2


def pixels_of(inputs):
    """The pixels of a sample's only image, however the processor packs them."""
    pixels = inputs.get("pixel_values", inputs.get("image_pixel_values"))
    if "aspect_ratio_ids" in inputs:  # Mllama: as many tiles as the image has, and empty ones
        return pixels[0, 0][: int(inputs["aspect_ratio_mask"][0, 0].sum())]
    return pixels


def assert_same_pixels(ours, expected, label):
    assert ours.numel() == expected.numel() and torch.equal(ours.flatten(), expected.flatten()), label


def compare(probe, folder, pictures, tmp_path, reference):
    """@param reference  a conversation → ids, or None, and pixels; throws for an image that it refuses"""
    expected, refused = {}, []
    for index, conversation in enumerate(pictures[1]):
        try:
            expected[index] = reference(conversation)
        except (ValueError, RuntimeError, ZeroDivisionError):
            refused.append(index)
    assert len(refused) <= 4
    out = tmp_path / "out.safetensors"
    computed = ask(probe, folder, pictures, expected, out)
    for place, (index, (ids, pixels)) in enumerate(expected.items()):
        label = pictures[1][index][0]["content"][0]["image"]
        if ids is not None:
            assert computed[f"ids.{place}"].tolist() == ids, label
        assert_same_pixels(computed[f"pixels.{place}.0"], pixels, label)
        assert f"pixels.{place}.1" not in computed
    for index in refused:
        assert refuses(probe, folder, pictures, index, out), pictures[1][index]


@pytest.mark.parametrize("kind", [*KINDS, "phi4mm"])
def test_ids_and_pixels_equal_the_processor(kind, pictures, probe, tmp_path):
    hub = kind == "phi4mm"
    make, *arguments = KINDS["phi4_multimodal" if hub else kind]
    native = toy.save(tmp_path / "native", make(*arguments), "A")
    folder = Phi4MM().save(tmp_path / "hub") if hub else native
    processor = AutoProcessor.from_pretrained(native)

    def reference(conversation):
        inputs = encode(processor, conversation, pictures[0])
        return inputs["input_ids"][0].tolist(), pixels_of(inputs)

    compare(probe, folder, pictures, tmp_path, reference)


@pytest.mark.parametrize("kind", ORIGINAL)
def test_ids_and_pixels_of_the_authors_layout_equal_the_converted_checkpoints(kind, pictures, probe, tmp_path):
    toys = OriginalLlava(kind)
    folder = toys.save(tmp_path / "model")
    (tmp_path / "tokenizer").mkdir()  # away from a config.json that AutoTokenizer would take for its own
    for file in folder.glob("*token*.json"):
        (tmp_path / "tokenizer" / file.name).write_bytes(file.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    prompt = LLAVA_PROMPTS[toys.text_type].replace("What is in this picture?", "What is this?")
    before, after = (tokenizer(piece).input_ids for piece in prompt.split("<image>"))
    after = after if toys.text_type == "qwen2" else after[1:]  # only the first piece has a BOS
    config = dict(toys.files["preprocessor_config.json"])
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    processor = AutoImageProcessor.from_pretrained(tmp_path)

    def reference(conversation):
        image = with_pixels(conversation, pictures[0])[0]["content"][0]["image"]
        inputs = llava_pixels(processor, [image], toys.kind)
        with torch.no_grad():
            features = toys.model.model.get_image_features(**inputs).pooler_output
        count = sum(part.flatten(0, -2).shape[0] for part in features)
        return before + [LLAVA_IMAGE] * count + after, inputs["pixel_values"]

    compare(probe, folder, pictures, tmp_path, reference)


@pytest.mark.parametrize("kind", VILA)
def test_ids_and_pixels_of_vila_equal_the_description(kind, pictures, probe, tmp_path):
    vila = Vila(kind)
    root = vila.root
    scales = tuple(int(scale) for scale in root.get("s2_scales", "1").split(","))
    folder = vila.save(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "llm")

    def reference(conversation):
        image = with_pixels(conversation, pictures[0])[0]["content"][0]["image"]
        normalized = images_reference.intern_normalized if vila.intern else images_reference.vila_normalized
        s2, most = root.get("s2", False), root.get("max_tiles", 12)
        pixels, grid = images_reference.vila(image, root["image_aspect_ratio"], vila.side, most=most, scales=scales, s2=s2, normalized=normalized)
        return expected_ids(vila, tokenizer, conversation, [grid]), pixels

    compare(probe, folder, pictures, tmp_path, reference)


def test_pixels_of_nemotron_vl_equal_the_description(pictures, probe, tmp_path):
    def reference(conversation):
        image = with_pixels(conversation, pictures[0])[0]["content"][0]["image"]
        return None, images_reference.nemotron(image, SIDE, TILES)[0]

    compare(probe, NemotronVL().save(tmp_path / "model"), pictures, tmp_path, reference)


def test_ids_and_pixels_of_phi3_vision_equal_the_description(pictures, probe, tmp_path):
    *_, tokenizer = make_phi3_vision(tmp_path / "model")

    def reference(conversation):
        picture, text = with_pixels(conversation, pictures[0])[0]["content"]
        pixels, (rows, columns) = images_reference.phi3(picture["image"], CROPS)
        # Mosaic and whole image are squares of 12 × 12, each line with a row of its own, and one row between the two.
        count = 12 * rows * (12 * columns + 1) + 1 + 12 * (12 + 1)
        before, after = (tokenizer.encode(piece).ids for piece in ("<|user|>\n", text["text"] + "<|end|>\n<|assistant|>\n"))
        return before + [PHI3_IMAGE] * count + after, pixels

    compare(probe, tmp_path / "model", pictures, tmp_path, reference)


def test_every_family_is_here(probe):
    visq = probe("inputs").parent / "visq"
    families = json.loads(subprocess.run([visq, "families", "--json"], capture_output=True, check=True).stdout)
    kinds = [*KINDS, "phi4mm", *(f"llava_original-{kind}" for kind in ORIGINAL), *VILA, "phi3_v", "nemotron_vl"]
    assert not [entry["family"] for entry in families if not any(kind.startswith(entry["family"]) for kind in kinds)]
