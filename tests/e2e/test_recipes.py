"""Recipes: YAML files with rules, presets among them, and checkpoints whose linears have unlike schemes."""
import json

import pytest

from test_quantize import digest, tensors

MIXED = """
about: attention in FP8, the rest in NVFP4, the last layer as it is
extends: nvfp4_gptq
kv_cache: fp8
rules:
  - {sites: "*.self_attn.*", scheme: fp8}
  - {sites: "*.layers.4.*", scheme: none}
"""
SMOOTHED = """
rules:
  - {scheme: int4_awq, rounding: gptq}
  - {sites: "*.mlp.down_proj", scheme: int8_wo}
"""


@pytest.fixture(scope="module")
def mixed(visq, demo, tmp_path_factory):
    out = tmp_path_factory.mktemp("mixed")
    (out / "fp8_nvfp4.yaml").write_text(MIXED)
    (out / "smoothed.yaml").write_text(SMOOTHED)
    visq("quantize", demo / "model", "-f", f"{out}/fp8_nvfp4.yaml,{out}/smoothed.yaml", "--calib", demo / "calibration.jsonl",
         "--samples", 64, "-o", out)
    return out


def test_each_linear_gets_its_scheme(demo, mixed):
    config = json.loads((mixed / "fp8_nvfp4" / "config.json").read_text())["quantization_config"]
    nested = json.loads((mixed / "fp8_nvfp4" / "hf_quant_config.json").read_text())["quantization"]
    assert config["quant_algo"] == nested["quant_algo"] == "MIXED_PRECISION"
    assert config["quantized_layers"] == nested["quantized_layers"]
    source, output = tensors(demo / "model"), tensors(mixed / "fp8_nvfp4")
    for name in source:
        if not (name.endswith("_proj.weight") and "layers." in name and "vision" not in name):
            continue
        module = name.removesuffix(".weight")
        if ".layers.4." in name:
            assert output[name] == source[name] and module not in config["quantized_layers"]
        elif "self_attn" in name:
            assert config["quantized_layers"][module] == {"quant_algo": "FP8"}
            assert output[name][0] == "F8_E4M3"
        else:
            assert config["quantized_layers"][module] == {"quant_algo": "NVFP4", "group_size": 16}
            assert module + ".weight_scale_2" in output
    targets = [group["targets"] for group in config["config_groups"].values()]
    named = sorted(sum(targets, []))
    assert named == sorted(module for module in config["quantized_layers"] if module + ".weight" in output)
    # And once more under the names that TensorRT-LLM has for the text model.
    assert sorted(config["quantized_layers"]) == sorted(named + [module.removeprefix("language_model.") for module in named])


@pytest.mark.parametrize("name, engines", [("fp8_nvfp4", ["vllm"]), ("smoothed", [])])
def test_every_rule_of_the_engines_holds(visq, demo, mixed, name, engines):
    for options in (["--source", demo / "model"], []):
        report = visq.json("check", mixed / name, *options)
        assert report["passed"], [rule for rule in report["rules"] if rule["violations"]]
        assert report["engines"] == engines
    quantization = visq.json("inspect", mixed / name)["quantization"]
    assert quantization["format"] == name and len(quantization["schemes"]) == 2
    assert f"{name} in the modelopt layout" in visq("inspect", mixed / name).stdout


def test_what_is_mixed_lies_between_its_parts(visq, demo, mixed, tmp_path):
    visq("quantize", demo / "model", "-f", "fp8,nvfp4_gptq,w4a16", "--calib", demo / "calibration.jsonl", "--samples", 64, "-o",
         tmp_path)
    rows = visq.json("eval", mixed / "fp8_nvfp4", mixed / "smoothed", *(tmp_path / f for f in ("fp8", "nvfp4_gptq", "w4a16")),
                     "--against", demo / "model", "--data", demo / "questions.jsonl", "--samples", 60)  # fmt: skip
    kl = {row["format"]: row["mean_kl"] for row in rows if "mean_kl" in row}
    assert kl["fp8"] < kl["fp8_nvfp4"] < kl["nvfp4_gptq"], kl
    assert kl["smoothed"] < 0.1 * kl["w4a16"], kl


def test_a_saved_recipe_does_the_same_again(visq, demo, mixed, tmp_path):
    options = ["--calib", demo / "calibration.jsonl", "--samples", 64]
    visq("quantize", demo / "model", "-f", mixed / "fp8_nvfp4.yaml", *options, "-o", tmp_path / "first", "--skip",
         "*.layers.3.mlp.*", "--save-recipe", tmp_path / "saved.yaml")
    visq("quantize", demo / "model", "-f", tmp_path / "saved.yaml", *options, "-o", tmp_path / "again", "--threads", 1)
    assert digest(tmp_path / "first") == digest(tmp_path / "again")
    assert digest(tmp_path / "first") != digest(mixed / "fp8_nvfp4")


def test_presets_are_printed_as_recipes(visq, demo, tmp_path):
    for format in ("fp8", visq.json("formats")[-1]["format"]):  # tests/unit/quant/recipe_file_test.cpp reads them all
        text = visq("formats", "--show", format).stdout
        assert f"name: {format}\n" in text and "rules:" in text
    text = visq("formats", "--show", "w4a16").stdout
    (tmp_path / "mine.yaml").write_text(text)
    for name, format in (("preset", "w4a16"), ("file", tmp_path / "mine.yaml")):
        visq("quantize", demo / "model", "-f", format, "-o", tmp_path / name)
    assert digest(tmp_path / "preset") == digest(tmp_path / "file")


@pytest.mark.parametrize("format, left_out", [("nvfp4_mlp_only", "self_attn"), ("nvfp4_omlp_only", "q_proj")])
def test_presets_for_parts_of_the_model(visq, demo, tmp_path, format, left_out):
    visq("quantize", demo / "model", "-f", format, "--calib", demo / "calibration.jsonl", "--samples", 16, "-o", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["quant_algo"] == "NVFP4"
    assert any(left_out in entry for entry in config["ignore"])
    assert visq.json("check", tmp_path / "out", "--source", demo / "model")["passed"]
    assert visq.json("inspect", tmp_path / "out")["quantization"]["format"] == format


def test_a_preset_for_experts_wants_experts(visq, demo, tmp_path):
    result = visq("quantize", demo / "model", "-f", "nvfp4_experts_only", "--calib", demo / "calibration.jsonl", "-o",
                  tmp_path / "out", check=False)
    assert result.returncode == 2 and "the recipe matches no linear" in result.stderr


BAD = {
    "unknown key": ("rules:\n  - {scheme: fp8, blok: 3}\n", "bad.yaml:2: unknown key 'blok'"),
    "unknown value": ("rules:\n  - {weight: fp7}\n", "bad.yaml:2: weight: 'fp7' is not one of fp8,"),
    "matches nothing": ("extends: fp8\nrules:\n  - {sites: '*.qkv', scheme: none}\n",
                        "bad.yaml:3: the rule for '*.qkv' matches no linear of this model; they are named like '"),
    "not YAML": ("rules: [a\n", "not YAML"),
    "no such preset": ("extends: fp7\n", "bad.yaml:1: no preset is called 'fp7'"),
    "width": ("rules: [{weight: int4, block: 1024}]\n", "not a multiple of the block of 1024"),
    "no layout": ("rules: [{weight: mxfp6, input: fp8_tokens}]\n", "no layout has a place for weights MXFP6"),
    "splits what is fused": ("extends: fp8\nrules: [{sites: '*.q_proj', scheme: int8_wo}]\n", "engines fuse q/k/v"),
    "no layout for the mix": ("extends: fp8_pb_wo\nrules: [{sites: '*.mlp.*', weight: nf4}]\n",
                              "no layout has a place for"),
    "a list": ("- 1\n", "bad.yaml:1: a recipe is a mapping"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_recipes_get_one_line(visq, demo, tmp_path, case):
    text, expected = BAD[case]
    (tmp_path / "bad.yaml").write_text(text)
    result = visq("quantize", demo / "model", "-f", tmp_path / "bad.yaml", "--calib", demo / "calibration.jsonl", "-o",
                  tmp_path / "out", check=False)
    assert result.returncode == 2 and expected in result.stderr, result.stderr
    assert result.stderr.count("\n") <= 2 and not (tmp_path / "out").exists()


def test_a_recipe_that_is_missing_or_written_elsewhere(visq, demo, tmp_path):
    result = visq("quantize", demo / "model", "-f", tmp_path / "none.yaml", "-o", tmp_path / "out", check=False)
    assert result.returncode == 2 and "none.yaml" in result.stderr
    result = visq("quantize", demo / "model", "-f", "w4a16,int8_wo", "-o", tmp_path / "out", "--save-recipe", tmp_path / "x.yaml",
                  check=False)
    assert result.returncode == 2 and "--save-recipe: writes one recipe" in result.stderr


def test_the_plan_shows_what_is_mixed(visq, demo, mixed):
    text = visq("quantize", demo / "model", "-f", mixed / "fp8_nvfp4.yaml", "--calib", demo / "calibration.jsonl",
                "--dry-run").stdout
    assert "FP8 E4M3, one scale a matrix" in text and ": 16 linears" in text and ": 12 linears" in text
    assert "left as is" in text and "KV cache     fp8" in text
