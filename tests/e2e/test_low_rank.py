"""SVDQuant: a low-rank part beside the quantized weights, in ModelOpt's NVFP4_SVD layout."""
import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from test_more_formats import damaged
from test_quantize import digest, tensors

UP = "language_model.model.layers.0.mlp.up_proj"
FACTORS = ["weight_quantizer._svdquant_lora_a", "weight_quantizer._svdquant_lora_b"]
BY_WEIGHTS = "name: by_weights\nrules: [{scheme: nvfp4_svdquant, low_rank: 8, low_rank_by: weight}]\n"
MIXED = """
name: mixed
extends: nvfp4_svdquant
rules: [{sites: "*.self_attn.*", scheme: fp8}, {sites: "*.down_proj", scheme: nvfp4_svdquant, low_rank: 16}]
"""


@pytest.fixture(scope="module")
def low_rank(visq, demo, tmp_path_factory):
    out = tmp_path_factory.mktemp("low_rank")
    for name, text in (("by_weights", BY_WEIGHTS), ("mixed", MIXED)):
        (out / f"{name}.yaml").write_text(text)
    visq("quantize", demo / "model", "-f", f"nvfp4_svdquant,nvfp4_max,nvfp4,{out}/by_weights.yaml,{out}/mixed.yaml", "--calib",
         demo / "calibration.jsonl", "--samples", 64, "--kv-cache", "none", "-o", out)  # fmt: skip
    return out


@pytest.mark.parametrize("format", ["nvfp4_svdquant", "by_weights", "mixed"])
def test_every_rule_holds_and_no_engine_is_promised(visq, demo, low_rank, format):
    for options in (["--source", demo / "model"], []):
        report = visq.json("check", low_rank / format, *options)
        assert report["passed"], [rule for rule in report["rules"] if rule["violations"]]
        assert report["engines"] == []
    quantization = visq.json("inspect", low_rank / format)["quantization"]
    assert (quantization["format"], quantization["linears"], quantization["engines"]) == (format, 35, [])
    ranks = {"nvfp4_svdquant": ["beside rank 32"], "by_weights": ["beside rank 8"], "mixed": ["beside rank 16", "beside rank 32"]}
    weights = [scheme["weights"] for scheme in quantization["schemes"]]
    assert sorted(text.rsplit(", ", 1)[1] for text in weights if "beside" in text) == ranks[format]


def test_names_and_configuration_are_modelopts(demo, low_rank):
    out = low_rank / "nvfp4_svdquant"
    rows, columns = tensors(demo / "model")[UP + ".weight"][1]
    found = {name[len(UP) + 1 :]: value[:2] for name, value in tensors(out).items() if name.startswith(UP)}
    assert found == {"weight": ("U8", [rows, columns // 2]), "weight_scale": ("F8_E4M3", [rows, columns // 16]), "weight_scale_2": ("F32", []),
                     "input_scale": ("F32", []), FACTORS[0]: ("BF16", [32, columns]), FACTORS[1]: ("BF16", [rows, 32])}  # fmt: skip
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    arguments = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}
    # Smoothing is folded, so there is no factor of the inputs to apply before.
    assert config["config_groups"] == {"group_0": {"input_activations": arguments, "weights": arguments, "has_zero_point": False,
                                                   "pre_quant_scale": False, "targets": ["Linear"]}}  # fmt: skip
    nested = json.loads((out / "hf_quant_config.json").read_text())["quantization"]
    for of in (config, nested):
        assert (of["quant_algo"], of["group_size"], of["has_zero_point"], of["pre_quant_scale"]) == ("NVFP4_SVD", 16, False, False)


def test_what_it_leaves_of_the_error(visq, demo, low_rank):
    names = ["nvfp4_svdquant", "by_weights", "nvfp4_max", "nvfp4"]
    rows = visq.json("eval", *(low_rank / name for name in names), "--against", demo / "model", "--data", demo / "questions.jsonl",
                     "--samples", 100)  # fmt: skip
    kl = dict(zip(names, (row["mean_kl"] for row in rows[1:])))
    assert kl["nvfp4_svdquant"] < 0.2 * kl["nvfp4"] < 0.01 * kl["nvfp4_max"], kl
    assert kl["by_weights"] < kl["nvfp4"], kl


def test_the_plan_counts_the_factors(visq, demo, low_rank):
    text = visq("quantize", demo / "model", "-f", "nvfp4_svdquant", "--calib", demo / "calibration.jsonl", "--kv-cache", "none", "--dry-run").stdout
    assert "beside rank 32" in text and "awq + svdquant" in text
    size = visq.json("inspect", low_rank / "nvfp4_svdquant")["bytes"]
    assert f"→ {size / 1e6:.1f} MB" in text, text
    assert "weights of 7.67 bits" in text  # 4.5 and 16 · 32 · (1 / rows + 1 / columns)


def test_an_input_factor_reaches_both_branches(visq, demo, low_rank, tmp_path):
    """ModelOpt keeps pre_quant_scale beside the factors: the same model, written its way."""
    out = shutil.copytree(low_rank / "nvfp4_svdquant", tmp_path / "out")
    stored = load_file(out / "model.safetensors")
    factor = stored[f"{UP}.{FACTORS[0]}"]
    stored[f"{UP}.pre_quant_scale"] = factor.new_full((factor.shape[1],), 4)
    stored[f"{UP}.input_scale"] *= 4
    stored[f"{UP}.weight_scale_2"] /= 4
    factor /= 4
    save_file(stored, out / "model.safetensors", {"format": "pt"})
    rows = visq.json("eval", out, "--against", low_rank / "nvfp4_svdquant", "--data", demo / "questions.jsonl", "--samples", 10)
    assert rows[-1]["mean_kl"] < 1e-12, rows


def test_generate_adds_both_parts(visq, low_rank):
    assert visq("generate", low_rank / "nvfp4_svdquant", "Which day comes after Monday?").stdout.strip() == "Tuesday"


@pytest.mark.parametrize("change, rule", [(lambda b: b"\xff\x7f" + b[2:], "C4"), (lambda b: bytes(len(b)), "E1")])
def test_damaged_factors_are_found(visq, demo, low_rank, tmp_path, change, rule):
    out = shutil.copytree(low_rank / "nvfp4_svdquant", tmp_path / "out")
    damaged(out, f"{UP}.{FACTORS[1]}", change)
    result = visq("check", out, "--source", demo / "model", "--json", check=False)
    violations = {found["id"]: found["violations"] for found in json.loads(result.stdout)["rules"] if found["violations"]}
    assert result.returncode == 1 and any(UP in line for line in violations[rule]), violations


def test_bytes_do_not_depend_on_the_number_of_threads(visq, demo, low_rank, tmp_path):
    visq("quantize", demo / "model", "-f", "nvfp4_svdquant", "--calib", demo / "calibration.jsonl", "--samples", 64, "--kv-cache", "none",
         "-o", tmp_path / "out", "--threads", 3)  # fmt: skip
    assert digest(tmp_path / "out") == digest(low_rank / "nvfp4_svdquant")


def test_it_needs_data(visq, demo, tmp_path):
    result = visq("quantize", demo / "model", "-f", "nvfp4_svdquant", "--calib", "none", "-o", tmp_path / "out", check=False)
    assert result.returncode == 2 and "give --calib FILE" in result.stderr
