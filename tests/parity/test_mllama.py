"""Mllama against transformers, stage by stage. Apart from test_forward.py, because the model skips layers without images."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

sys.path.insert(0, str(Path(__file__).parent))
import forward_models as toy  # noqa: E402
import mllama_model  # noqa: E402
from test_forward import NEW_TOKENS, TOLERANCE, encode, rows_of, run_probe  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def made():
    return mllama_model.make()


@torch.no_grad()
def reference(model, inputs):
    """What the layers that ran gave, by stage."""
    seen, hooks = {}, []

    def keep(module, name):
        hooks.append(module.register_forward_hook(lambda _, __, output: seen.update({name: rows_of(output).clone()})))

    inner = model.model
    projector = inner.multi_modal_projector
    hooks.append(projector.register_forward_pre_hook(lambda _, args: seen.update(tower=rows_of(args[0]).clone())))
    keep(projector, "features")
    keep(inner.language_model.embed_tokens, "merged")
    for index, layer in enumerate(inner.language_model.layers):
        keep(layer, f"layer.{index}")
    seen["logits"] = model(**inputs).logits[0]
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("spelling", "AC")
def test_every_stage_equals_transformers(spelling, made, samples, probe, tmp_path):
    data, conversations = samples
    model = made[0]
    folder = toy.save(tmp_path / "model", made, spelling)
    out = tmp_path / "out.safetensors"
    computed, lines = run_probe(probe("forward"), folder, data, out, "fp32", "--generate", str(NEW_TOKENS))
    generated = [[int(token) for token in line.split()] for line in lines]

    processor = AutoProcessor.from_pretrained(folder)
    model.generation_config.eos_token_id = None
    worst = {}
    for index, conversation in enumerate(conversations):
        inputs = encode(processor, conversation, data.parent)
        assert computed[f"ids.{index}"].tolist() == inputs["input_ids"][0].tolist()
        expected = reference(model, inputs)
        layers = {f"layer.{layer}" for layer in range(5)}
        assert layers - expected.keys() == (set() if "pixel_values" in inputs else {"layer.1", "layer.3"})
        for stage, tensor in expected.items():
            here = computed[f"{stage}.{index}"]
            assert here.shape == tensor.shape, stage
            worst[stage] = max(worst.get(stage, 0.0), float((here - tensor).abs().max() / tensor.abs().max()))
        answer = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        assert generated[index] == answer[0, inputs["input_ids"].shape[1] :].tolist()
    print({stage: f"{value:.1e}" for stage, value in worst.items()})
    assert max(worst.values()) <= TOLERANCE, worst


def test_the_images_show_in_the_logits(made, samples, probe, tmp_path):
    """So that the comparison above is one of cross-attention."""
    data, conversations = samples
    folder = toy.save(tmp_path / "model", made, "A")
    inputs = encode(AutoProcessor.from_pretrained(folder), conversations[1], data.parent)
    with torch.no_grad():
        whole = made[0](**inputs).logits
        alone = made[0](input_ids=inputs["input_ids"]).logits
    assert (whole - alone).abs().max() > 0.1 * whole.abs().max()


@torch.no_grad()
def test_bfloat16_stays_close_to_transformers(made, samples, probe, tmp_path):
    data, conversations = samples
    folder = toy.save(tmp_path / "model", made, "A")
    computed, _ = run_probe(probe("forward"), folder, data, tmp_path / "out.safetensors", "bf16")
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16).eval()
    for index, conversation in enumerate(conversations):
        expected = model(**encode(processor, conversation, data.parent)).logits[0].float()
        assert torch.cosine_similarity(computed[f"logits.{index}"], expected, dim=-1).min() >= 0.999
