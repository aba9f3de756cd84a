"""compressed-tensors checkpoints: converted there and back, in mixes, as other tools spell them, and damaged."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from test_quantize import tensors

BY_MAGNITUDES = ["fp8", "int8", "nvfp4_max"]  # have input scales
DATA_FREE = ["fp8_pc_pt", "int8_wo", "w4a16", "w4a16_nvfp4_max", "mxfp8"]
UP = "language_model.model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def modelopt(visq, demo, tmp_path_factory):
    out = tmp_path_factory.mktemp("modelopt")
    visq("quantize", demo / "model", "-f", ",".join(BY_MAGNITUDES), "--layout", "modelopt", "--calib", demo / "calibration.jsonl",
         "--samples", 8, "--kv-cache", "fp8", "-o", out, "--force")  # fmt: skip
    visq("quantize", demo / "model", "-f", ",".join(DATA_FREE), "--layout", "modelopt", "-o", out, "--force")
    return out


@pytest.fixture(scope="module")
def compressed(visq, demo, tmp_path_factory):
    out = tmp_path_factory.mktemp("compressed")
    formats = ["w4a16", "int8_wo", "w4a8", "w4a16_asym", "fp8_pc_pt"]
    visq("quantize", demo / "model", "-f", ",".join(formats), "--layout", "compressed-tensors", "-o", out)
    return out


OTHERS = ["int8_dynamic", "int8_wo_g128", "w4a8", "w4afp8", "mxfp4_wo"]


def test_formats_of_this_layout_alone(visq, demo, tmp_path):
    visq("quantize", demo / "model", "-f", ",".join(OTHERS), "-o", tmp_path)
    listed = {entry["format"]: entry["engines"] for entry in visq.json("formats")}
    results = visq.check([tmp_path / format for format in OTHERS], "--source", demo / "model")
    # TensorRT-LLM has no class for this model.
    assert [result["engines"] for result in results] == [[name for name in listed[format] if name != "tensorrt-llm"] for format in OTHERS]
    rows = visq.json("eval", *(tmp_path / format for format in OTHERS), "--against", demo / "model", "--data",
                     demo / "questions.jsonl", "--samples", 20)  # fmt: skip
    kl = {row["format"]: row["mean_kl"] for row in rows[1:]}
    assert 0 < kl["int8_wo_g128"] < min(kl["mxfp4_wo"], kl["w4a8"], kl["w4afp8"]), kl
    assert max(kl.values()) < 0.5, kl
    for format in OTHERS:
        assert quantization(tmp_path / format)["quant_method"] == "compressed-tensors"


def dtypes(folder, suffix):
    return {dtype for name, (dtype, _, _) in tensors(folder).items() if name.endswith(suffix)}


@pytest.mark.parametrize("format", [*BY_MAGNITUDES, "fp8_pc_pt", "w4a16_nvfp4_max", "mxfp8"])
def test_modelopts_numbers_survive_the_way_there_and_back(visq, modelopt, tmp_path, format):
    there, back = tmp_path / "there", tmp_path / "back"
    visq("convert", modelopt / format, "--to", "compressed-tensors", "-o", there)
    visq("convert", there, "--to", "modelopt", "-o", back)
    before, after = tensors(modelopt / format), tensors(back)
    reciprocal = ("weight_scale_2", "input_scale") if "nvfp4" in format else ()
    assert before.keys() == after.keys()
    for name, value in before.items():
        if name.endswith(reciprocal) and reciprocal:
            a, b = (torch.frombuffer(bytearray(found[name][2]), dtype=torch.float32) for found in (before, after))
            assert torch.allclose(a, b, rtol=2**-22, atol=0), name
        else:
            assert value == after[name], name
    # Scales that BF16 cannot hold are kept in F32, where engines have them so.
    if format in ("fp8", "int8", "fp8_pc_pt"):
        assert dtypes(there, ".weight_scale") == {"F32"}
    if format in BY_MAGNITUDES:
        assert dtypes(there, ".k_scale") == {"F32"}
    visq.check([there])


@pytest.mark.parametrize("format", ["w4a16", "int8_wo"])
def test_packed_integers_keep_their_scales(visq, modelopt, compressed, tmp_path, format):
    wide, again = tmp_path / "wide", tmp_path / "again"
    result = visq("convert", modelopt / format, "--to", "compressed-tensors", "-o", wide)
    assert "scales are written as F32, because BF16 does not hold them" in result.stderr
    assert dtypes(wide, ".weight_scale") == {"F32"}
    visq("convert", wide, "--to", "modelopt", "-o", again)
    assert tensors(again) == tensors(modelopt / format)
    there, back = tmp_path / "there", tmp_path / "back"
    visq("convert", compressed / format, "--to", "modelopt", "-o", there)
    visq("convert", there, "--to", "compressed-tensors", "-o", back)
    assert tensors(back) == tensors(compressed / format)


RECIPE = """name: mixed
rules:
  - {sites: "*self_attn*", scheme: fp8_pc_pt}
  - {sites: "*layers.0.mlp*", scheme: w4a16}
  - {sites: "*layers.1.mlp*", scheme: w4a16_nvfp4_max}
"""


@pytest.fixture(scope="module")
def mixed(visq, demo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "mixed.yaml").write_text(RECIPE)
    visq("quantize", demo / "model", "-f", folder / "mixed.yaml", "--layout", "compressed-tensors", "-o", folder / "out")
    return folder / "out"


def quantization(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def rewritten(source, folder, change):
    """A copy whose configuration `change` has changed."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_mix_names_the_modules_of_its_groups(visq, demo, mixed):
    config = quantization(mixed)
    assert config["format"] == "mixed-precision"
    groups = list(config["config_groups"].values())
    assert sorted(group["format"] for group in groups) == ["float-quantized", "nvfp4-pack-quantized", "pack-quantized"]
    stored = {name.removesuffix(".weight_scale") for name in tensors(mixed) if name.endswith(".weight_scale")}
    assert sorted(target for group in groups for target in group["targets"]) == sorted(stored)
    visq.check([mixed], "--source", demo / "model")


def test_a_mix_by_expressions_is_the_same(visq, demo, mixed, tmp_path):
    def by_expressions(config):
        groups = {group["format"]: group for group in config["quantization_config"]["config_groups"].values()}
        groups["float-quantized"]["targets"] = ["Linear"]
        groups["pack-quantized"]["targets"] = ["re:.*layers\\.0\\.mlp\\..*"]
        groups["nvfp4-pack-quantized"]["targets"] = ["re:.*layers\\.1\\.mlp\\.(gate|up|down)_proj$"]

    again = rewritten(mixed, tmp_path / "again", by_expressions)
    rows = visq.json("eval", mixed, again, "--data", demo / "questions.jsonl", "--samples", 4)
    assert rows[0]["perplexity"] == rows[1]["perplexity"]


def test_configurations_are_found_where_tools_put_them(visq, compressed, tmp_path):
    expected = visq.json("inspect", compressed / "w4a16")["quantization"]
    places = {
        "compression_config": lambda config, value: config.update(compression_config=value),
        "nested": lambda config, value: config["text_config"].update(quantization_config=value),
    }
    for name, put in places.items():
        folder = rewritten(compressed / "w4a16", tmp_path / name, lambda config: put(config, config.pop("quantization_config")))
        assert visq.json("inspect", folder)["quantization"] == expected
        visq("convert", folder, "--to", "modelopt", "-o", tmp_path / f"{name}-converted")
        written = json.loads((tmp_path / f"{name}-converted" / "config.json").read_text())
        assert "compression_config" not in written and "quantization_config" not in written["text_config"]
        result = visq("quantize", folder, "-f", "fp8", "-o", tmp_path / "again", check=False)
        assert "quantized already" in result.stderr


def refused(visq, demo, folder, *words):
    result = visq("eval", folder, "--data", demo / "questions.jsonl", "--samples", 1, check=False)
    assert result.returncode != 0
    for word in words:
        assert word in result.stderr, result.stderr
    assert result.stderr.count("\n") == 1


@pytest.fixture
def damaged(compressed, tmp_path):
    """damaged(format, change): a copy whose tensors `change` has changed."""

    def make(format, change):
        folder = tmp_path / "damaged"
        shutil.copytree(compressed / format, folder)
        path = folder / "model.safetensors"
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        stored = load_file(path)
        change(stored)
        save_file(stored, path, metadata)
        return folder

    return make


DAMAGE = {
    "no shape": ("w4a16", lambda t: t.pop(f"{UP}.weight_shape"), ["weight_shape"]),
    "another shape": ("w4a16", lambda t: t[f"{UP}.weight_shape"].mul_(2), ["weight_shape", "does not fit"]),
    "shape of text": ("w4a16", lambda t: t.update({f"{UP}.weight_shape": torch.zeros(2)}), ["weight_shape", "not two integers"]),
    "order": ("w4a16", lambda t: t.update({f"{UP}.weight_g_idx": (torch.arange(t[f"{UP}.weight_shape"][1].item()) // 128).flip(0).int()}),
              ["weight_g_idx", "actorder"]),
    "zero points": ("w4a16", lambda t: t.update({f"{UP}.weight_zero_point": torch.ones(2, dtype=torch.int8)}), ["symmetric"]),
    "large codes": ("w4a8", lambda t: t[f"{UP}.weight"].fill_(9), ["−8…7"]),
    "scales": ("w4a16", lambda t: t.update({f"{UP}.weight_scale": torch.ones(3, 3)}), ["weight_scale", "expected"]),
    "scale type": ("w4a16", lambda t: t.update({f"{UP}.weight_scale": torch.ones(3, 3).int()}), ["weight_scale", "not F32"]),
    "no zero points": ("w4a16_asym", lambda t: t.pop(f"{UP}.weight_zero_point"), ["weight_zero_point"]),
    "no packed": ("int8_wo", lambda t: t.pop(f"{UP}.weight_packed"), [UP]),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_tensors_are_named(visq, demo, damaged, name):
    format, change, words = DAMAGE[name]
    refused(visq, demo, damaged(format, change), *words)


def test_what_older_versions_store_beside_is_read(visq, demo, compressed, damaged):
    def older(stored):
        for name in [name for name in stored if name.endswith("weight_scale")]:
            module = name.removesuffix(".weight_scale")
            stored[f"{module}.weight_zero_point"] = torch.zeros(stored[name].shape, dtype=torch.int8)
            columns = stored[f"{module}.weight_shape"][1].item()
            stored[f"{module}.weight_g_idx"] = (torch.arange(columns) // 128).int()
            stored[name] = stored[name].float()
            stored[f"{module}.weight_shape"] = stored[f"{module}.weight_shape"].int()

    folder = damaged("w4a16", older)
    rows = visq.json("eval", compressed / "w4a16", folder, "--data", demo / "questions.jsonl", "--samples", 4)
    assert rows[0]["perplexity"] == rows[1]["perplexity"]


def group(config):
    return config["quantization_config"]["config_groups"]["group_0"]


WRONG = {
    "bits": (lambda c: group(c)["weights"].update(num_bits=3), ["group_0", "num_bits 3"]),
    "type": (lambda c: group(c)["weights"].update(type="posit"), ["group_0", "posit"]),
    "strategy": (lambda c: group(c)["weights"].update(strategy="spiral"), ["group_0", "spiral"]),
    "target": (lambda c: group(c).update(targets=["re:.*decoder.*"]), ["no group targets it"]),
    "ignored": (lambda c: c["quantization_config"]["ignore"].append("re:.*up_proj"), ["'ignore' has it", "up_proj"]),
    "sparse": (lambda c: c["quantization_config"].update(sparsity_config={"format": "sparse-24-bitmask"}), ["sparse-24-bitmask"]),
    "claims": (lambda c: c["quantization_config"]["config_groups"].update(
        group_1={"targets": ["Linear"], "weights": {"num_bits": 8, "strategy": "channel"}}), ["group_0 and group_1 both claim"]),
    "actorder": (lambda c: group(c)["weights"].update(actorder="group"), ["actorder", "weight_g_idx"]),
    "size": (lambda c: group(c)["weights"].update(group_size=48), ["groups of 48"]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_configurations_are_named(visq, demo, compressed, tmp_path, name):
    change, words = WRONG[name]
    folder = rewritten(compressed / "w4a16", tmp_path / "wrong", change)
    refused(visq, demo, folder, *words)
