"""Mllama against transformers, stage by stage. Apart from test_forward.py, because the model skips layers without images."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

sys.path.insert(0, str(Path(__file__).parent))
import forward_models as toy  # noqa: E402
import mllama_model  # noqa: E402
from hooked_stages import seen_by_hooks, smallest_cosine, worst_differences  # noqa: E402
from test_forward import TOLERANCE, encode  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def made():
    return mllama_model.make()


def stages(model, inputs):
    inner = model.model
    return seen_by_hooks(model, inputs, [inner.multi_modal_projector] * 2, inner.language_model)


def check_skipped_layers(inputs, expected):
    """Without images there is nothing that cross layers could read."""
    layers = {f"layer.{layer}" for layer in range(5)}
    assert layers - expected.keys() == (set() if "pixel_values" in inputs else {"layer.1", "layer.3"})


@pytest.mark.parametrize("spelling", "AC")
def test_every_stage_equals_transformers(spelling, made, samples, probe, tmp_path):
    folder = toy.save(tmp_path / "model", made, spelling)
    worst = worst_differences(made, folder, samples, probe("forward"), lambda inputs: stages(made[0], inputs), check_skipped_layers)
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


def test_bfloat16_stays_close_to_transformers(made, samples, probe, tmp_path):
    folder = toy.save(tmp_path / "model", made, "A")
    assert smallest_cosine(folder, samples, probe("forward"), AutoModelForImageTextToText) >= 0.999
