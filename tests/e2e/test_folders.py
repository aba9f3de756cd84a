"""Checkpoints of three folders: VILA's."""
import json
import shutil

import pytest

import test_families  # (its imports prepare the way to the toy models)
from vila_models import Vila


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_families.toy, "WIDE", True)
        return Vila("nvila").save(tmp_path_factory.mktemp("vila") / "model")


def refused(visq, *arguments):
    result = visq(*arguments, check=False)
    assert result.returncode == 2, result.stderr
    return result.stderr


def test_the_exclude_list_is_in_the_names_of_the_text_models_folder(visq, model, tmp_path):
    out = tmp_path / "out"
    visq("quantize", model, "-f", "int4_awq_lite", "--calib", "none", "--kv-cache", "none", "--layout", "modelopt", "-o", out,
         "--skip", "llm.model.layers.0.mlp.down_proj", "--max-shard-size", 300_000)  # fmt: skip
    assert visq.json("check", out, "--source", model)["passed"]
    config = json.loads((out / "llm" / "config.json").read_text())["quantization_config"]
    assert config["ignore"] == ["lm_head", "lm_head.*", "model.layers.0.mlp.down_proj", "layers.0.mlp.down_proj"]
    assert (out / "llm" / "hf_quant_config.json").exists()
    index = json.loads((out / "llm" / "model.safetensors.index.json").read_text())
    assert "model.layers.0.mlp.down_proj.weight" in index["weight_map"]
    assert "quantization_config" not in json.loads((out / "config.json").read_text())


def test_a_quantized_checkpoint_answers(visq, model, tmp_path):
    test_families.write_data(tmp_path)
    out = tmp_path / "out"
    visq("quantize", model, "-f", "int4_awq_lite", "--calib", "none", "--kv-cache", "none", "-o", out)
    question = ("What is this?", "--image", tmp_path / "0.png", "--max-new-tokens", 4)
    assert visq("generate", out, *question).stdout
    assert "is quantized already" in refused(visq, "quantize", out, "-f", "fp8", "-o", tmp_path / "again")


@pytest.mark.parametrize("folder", ["llm", "vision_tower", "mm_projector"])
def test_a_missing_folder_is_named(visq, model, folder, tmp_path):
    copy = shutil.copytree(model, tmp_path / "model")
    shutil.rmtree(copy / folder)
    assert f"{copy / folder}: no such directory, though config.json is that of a VILA checkpoint" in refused(visq, "inspect", copy)


@pytest.mark.parametrize(
    "change, reason",
    [({"ps3": True}, "'ps3' is true"), ({"s2": True}, "'s2' and 'dynamic_s2' are both true"), ({"s2_scales": "a"}, "'s2_scales' is 'a'"),
     ({"s2_resize_output_to_scale_idx": 9}, "there are 3 scales"), ({"image_encoder": 3}, "only a BasicImageEncoder")],
)  # fmt: skip
def test_a_root_that_cannot_be_run_is_refused(visq, model, change, reason, tmp_path):
    copy = shutil.copytree(model, tmp_path / "model")
    root = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**root, **change}))
    error = refused(visq, "inspect", copy)
    assert "config.json" in error and reason in error


def test_a_configuration_that_contradicts_the_tensors_names_both_shapes(visq, model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "model")
    config = json.loads((copy / "llm" / "config.json").read_text())
    (copy / "llm" / "config.json").write_text(json.dumps({**config, "intermediate_size": 128}))
    error = refused(visq, "quantize", copy, "-f", "int4_awq_lite", "--calib", "none", "--kv-cache", "none", "-o", tmp_path / "out")
    assert "tensor 'llm.model.layers.0.mlp.gate_proj.weight' has shape [256, 128], but config.json says [128, 128]" in error
