"""Llama 4 against transformers, stage by stage."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

sys.path.insert(0, str(Path(__file__).parent))
import forward_models as toy  # noqa: E402
import llama4_model  # noqa: E402
from hooked_stages import seen_by_hooks, smallest_cosine, worst_differences  # noqa: E402
from test_forward import TOLERANCE  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def stages(model, inputs):
    projector = [model.vision_model.vision_adapter, model.multi_modal_projector]
    return seen_by_hooks(model, inputs, projector, model.language_model.model)


@pytest.mark.parametrize("qk_norm", [True, False], ids=["qk-norm", "plain"])
def test_every_stage_equals_transformers(qk_norm, samples, probe, tmp_path):
    made = llama4_model.make(qk_norm)
    folder = toy.save(tmp_path / "model", made, "A")

    def expected(inputs):
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(torch.float32)
        assert inputs["input_ids"].shape[1] > 2 * made[0].config.text_config.attention_chunk_size
        return stages(made[0], inputs)

    worst = worst_differences(made, folder, samples, probe("forward"), expected)
    assert max(worst.values()) <= TOLERANCE, worst


def test_bfloat16_stays_close_to_transformers(samples, probe, tmp_path):
    folder = toy.save(tmp_path / "model", llama4_model.make(), "A")
    assert smallest_cosine(folder, samples, probe("forward"), AutoModelForImageTextToText) >= 0.999
