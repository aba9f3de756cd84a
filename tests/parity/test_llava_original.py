"""LLaVA in its authors' format: the same weights, saved so, give what the class of transformers computes."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent))
import forward_models as toy  # noqa: E402
from llava_original_models import KINDS, OriginalLlava  # noqa: E402
from test_forward import TOLERANCE, difference, run_probe, with_pixels  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGE = -200
LLAVA_V1 = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
    "answers to the human's questions. USER: <image>\nWhat is in this picture? ASSISTANT:"
)
PROMPTS = {
    "llama": LLAVA_V1,
    "mistral": "[INST] <image>\nWhat is in this picture? [/INST]",
    "qwen2": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>\nWhat is in this picture?"
    "<|im_end|>\n<|im_start|>assistant\n",
}


def pixels_of(processor, pictures, kind):
    if not pictures:
        return {}
    nested = kind == "llava_onevision"  # which asks how many images a sample has
    return dict(processor(images=[pictures] if nested else pictures, return_tensors="pt"))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_logits_are_those_of_the_converted_checkpoint(kind, probe, tmp_path):
    toys = OriginalLlava(kind)
    folder = toys.save(tmp_path / "model")
    data, conversations = toy.write_samples(tmp_path)
    computed, _ = run_probe(probe("forward"), folder, data, tmp_path / "out.safetensors", "fp32")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(toys.files["preprocessor_config.json"]))
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    for index, conversation in enumerate(conversations):
        pictures = [part["image"] for message in with_pixels(conversation, tmp_path) for part in message["content"] if part["type"] == "image"]
        ids = computed[f"ids.{index}"].long()
        ids = torch.where(ids == IMAGE, toys.model.config.image_token_id, ids)
        expected = toys.model(input_ids=ids[None], **pixels_of(processor, pictures, kind)).logits[0]
        logits = computed[f"logits.{index}"]
        assert logits.shape == expected.shape
        assert difference(logits, expected) <= TOLERANCE


@pytest.mark.parametrize("kind", ["llava-llama", "llava_next-mistral", "llava_onevision"])
def test_the_prompt_is_tokenized_around_the_images(kind, probe, tmp_path):
    toys = OriginalLlava(kind)
    folder = toys.save(tmp_path / "model")
    data, _ = toy.write_samples(tmp_path)
    computed, _ = run_probe(probe("forward"), folder, data, tmp_path / "out.safetensors", "fp32")
    (folder / "config.json").unlink()  # which AutoTokenizer would take for its own
    tokenizer = AutoTokenizer.from_pretrained(folder)
    before, after = (tokenizer(piece).input_ids for piece in PROMPTS[toys.text_type].split("<image>"))
    bos = [] if toys.text_type == "qwen2" else [1]
    ids = computed["ids.1"].tolist()
    assert ids[: len(before)] == before and before[: len(bos)] == bos
    rows = ids.count(IMAGE)
    assert rows > 0 and ids[len(before) : len(before) + rows] == [IMAGE] * rows
    assert ids[len(before) + rows :] == after[len(bos) :]
