"""Forward pass and greedy generation against transformers, on tiny random float32 checkpoints of every supported kind."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
import forward_models as toy  # noqa: E402
from inputs_images import opened  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
TOLERANCE = 2e-5  # of the largest magnitude of the tensor
NEW_TOKENS = 8

KINDS = {f"llava-{text}-{tower}": (toy.make_llava, text, tower)
         for text in ("llama", "mistral", "qwen2") for tower in ("clip", "siglip")}  # fmt: skip
KINDS["llava-pixtral"] = (toy.make_pixtral, "llava")
KINDS |= {f"llava_next-{text}": (toy.make_llava_next, text) for text in ("llama", "mistral", "qwen2")}
KINDS["llava_onevision"] = (toy.make_llava_onevision,)
KINDS |= {f"internvl-{norm}": (toy.make_internvl, norm) for norm in ("layer", "rms")}
KINDS["mistral3"] = (toy.make_pixtral, "mistral3")
KINDS["lighton_ocr"] = (toy.make_lighton_ocr,)
KINDS["qwen2_vl"] = (toy.make_qwen_vl, "2")
KINDS["qwen2_5_vl"] = (toy.make_qwen_vl, "2.5")
KINDS["qwen3_vl"] = (toy.make_qwen3_vl,)
KINDS["qwen3_vl_moe"] = (toy.make_qwen3_vl, True)
KINDS["gemma3"] = (toy.make_gemma3,)
KINDS |= {f"paligemma-{text}": (toy.make_paligemma, text) for text in ("gemma", "gemma2")}
KINDS["phi4_multimodal"] = (toy.make_phi4,)
KINDS |= {kind.lower(): (toy.make_smolvlm, kind) for kind in ("SmolVLM", "Idefics3")}
# Every kind in the hub's spelling, and one kind of each family in the others.
CASES = [(kind, "A") for kind in KINDS]
CASES += [(kind, spelling) for kind in ("llava-llama-clip", "llava_next-llama", "internvl-layer", "qwen2_5_vl", "gemma3")
          for spelling in "BCD"]  # fmt: skip
CASES += [("qwen3_vl_moe", "D")]


def rows_of(features):
    """@param features  [tiles, rows, channels], or a list of such: of several images"""
    if isinstance(features, (list, tuple)):
        return torch.cat([rows_of(part) for part in features])
    return features.flatten(0, -2)


def watch(model, seen):
    """Keeps what the tower gives to the projector, what the image features are, and what goes into the final norm."""
    inner = model.model
    if model.config.model_type == "phi4_multimodal":  # its image features have no place of their own
        last = inner.norm.register_forward_pre_hook(lambda _, args: seen.update(last=rows_of(args[0]).clone()))
        return last.remove
    get_image_features = inner.get_image_features
    text_model = inner.text_model if hasattr(inner, "text_model") else inner.language_model

    def keep_features(*args, **kwargs):
        output = get_image_features(*args, **kwargs)
        seen["features"] = rows_of(output.pooler_output).clone()
        return output

    def keep_last_hidden_state(_, __, output):
        seen["tower"] = rows_of(output.last_hidden_state[:, 1:]).clone()

    def keep(name):
        return lambda _, args: seen.update({name: rows_of(args[0]).clone()})

    inner.get_image_features = keep_features
    if model.config.model_type == "internvl":  # unshuffles before its projector
        tower = inner.vision_tower.register_forward_hook(keep_last_hidden_state)
    else:
        places = {"qwen": lambda: inner.visual.merger, "smol": lambda: inner.connector, "idef": lambda: inner.connector,
                  "ligh": lambda: inner.vision_projection}
        projector = places.get(model.config.model_type[:4], lambda: inner.multi_modal_projector)()
        tower = projector.register_forward_pre_hook(keep("tower"))
    last = text_model.norm.register_forward_pre_hook(keep("last"))

    def restore():
        del inner.get_image_features
        tower.remove()
        last.remove()

    return restore


@torch.no_grad()
def reference(model, inputs, index):
    seen = {}
    restore = watch(model, seen)
    output = model(**inputs, output_hidden_states=True)
    restore()
    # The last entry of hidden_states comes after the final norm.
    states = [state[0] for state in output.hidden_states[:-1]] + [seen.pop("last")]
    expected = {f"merged.{index}": states[0], f"logits.{index}": output.logits[0]}
    # Where features are added behind a layer (Qwen3-VL), the recorded state is the one before; what follows shows the sum.
    deepstack = len(getattr(model.config.vision_config, "deepstack_visual_indexes", []))
    expected |= {f"layer.{layer}.{index}": state for layer, state in enumerate(states[1:]) if layer >= deepstack}
    return expected | {f"{name}.{index}": tensor for name, tensor in seen.items()}


def with_pixels(conversation, folder):
    conversation = copy.deepcopy(conversation)
    for message in conversation:
        for part in message["content"]:
            if part["type"] == "image":
                part["image"] = opened(folder / part["image"])
    return conversation


def difference(computed, expected):
    """@return the largest, relative to the largest expected magnitude"""
    assert computed.shape == expected.shape
    assert expected.isfinite().all() and expected.abs().max() > 0 and computed.isfinite().all()
    return float((computed - expected).abs().max() / expected.abs().max())


def run_probe(program, folder, data, out, dtype, *options):
    """@return the tensors that it writes, and the lines that it prints"""
    command = [program, folder, data, out, dtype, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return load_file(out), result.stdout.splitlines()


def encode_text(processor, conversation, folder):
    """As processors want it whose templates read content as one text, with the image token in it (Phi-4)."""
    images, messages = [], []
    for message in with_pixels(conversation, folder):
        text = ""
        for part in message["content"]:
            if part["type"] == "image":
                images.append(part["image"])
            text += processor.image_token if part["type"] == "image" else part["text"]
        messages.append({"role": message["role"], "content": text})
    text = processor.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return processor(text=text, images=images or None, return_tensors="pt")


def encode_plain(processor, conversation, folder):
    """Without a chat template: images first, then the text (PaliGemma)."""
    parts = [part for message in with_pixels(conversation, folder) for part in message["content"]]
    images = [part["image"] for part in parts if part["type"] == "image"]
    text = "".join(part["text"] for part in parts if part["type"] == "text")
    return processor(text=processor.image_token * len(images) + text, images=[images], return_tensors="pt")


def encode(processor, conversation, folder):
    if type(processor).__name__ == "PaliGemmaProcessor":
        return encode_plain(processor, conversation, folder)
    if type(processor).__name__ == "Phi4MultimodalProcessor":
        return encode_text(processor, conversation, folder)
    return processor.apply_chat_template(
        [with_pixels(conversation, folder)], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip


@pytest.fixture(scope="module")
def made():
    models = {}

    def get(kind):
        if kind not in models:
            make, *arguments = KINDS[kind]
            models[kind] = make(*arguments)
        return models[kind]

    return get


@pytest.mark.parametrize("kind, spelling", CASES, ids=["-".join(case) for case in CASES])
def test_every_stage_equals_transformers(kind, spelling, made, samples, probe, tmp_path):
    data, conversations = samples
    model = made(kind)[0]
    folder = toy.save(tmp_path / "model", made(kind), spelling)
    out = tmp_path / "out.safetensors"
    computed, lines = run_probe(probe("forward"), folder, data, out, "fp32", "--generate", str(NEW_TOKENS))
    generated = [[int(token) for token in line.split()] for line in lines]

    processor = AutoProcessor.from_pretrained(folder)
    worst = {}
    for index, conversation in enumerate(conversations):
        if kind.startswith("paligemma") and index == 0:
            continue  # its processor refuses texts without an image
        inputs = encode(processor, conversation, data.parent)
        assert computed[f"ids.{index}"].tolist() == inputs["input_ids"][0].tolist()
        for name, tensor in reference(model, inputs, index).items():
            stage = name.rsplit(".", 1)[0]
            worst[stage] = max(worst.get(stage, 0.0), difference(computed[name], tensor))
        model.generation_config.eos_token_id = None
        answer = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        assert generated[index] == answer[0, inputs["input_ids"].shape[1] :].tolist()
    print({stage: f"{value:.1e}" for stage, value in worst.items()})
    assert max(worst.values()) <= TOLERANCE, worst


@pytest.mark.parametrize("kind", ["llava-llama-clip", "llava-pixtral", "llava_onevision", "internvl-rms", "qwen2_5_vl"])
def test_bfloat16_stays_close_to_transformers(kind, made, samples, probe, tmp_path):
    data, conversations = samples
    folder = toy.save(tmp_path / "model", made(kind), "A")
    computed, _ = run_probe(probe("forward"), folder, data, tmp_path / "out.safetensors", "bf16")
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16).eval()
    for index, conversation in enumerate(conversations):
        with torch.no_grad():
            expected = model(**encode(processor, conversation, data.parent)).logits[0].float()
        # Two ways of rounding differ by kernel noise, which no fixed tolerance describes.
        assert torch.cosine_similarity(computed[f"logits.{index}"], expected, dim=-1).min() >= 0.999
