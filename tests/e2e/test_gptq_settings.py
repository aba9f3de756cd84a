"""GPTQ as other tools write it: columns that share scales by their importance (desc_act), settings for some linears (dynamic)."""
import json
import re
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from test_convert import refused
from test_quantize import digest

FUSED = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up"}
MODULE = re.compile(r"(.*layers\.(\d+)\..*\.(\w+))\.qweight")
UP = "language_model.model.layers.0.mlp.up_proj"


def rewrite(source, target, change=lambda tensors: None, **settings):
    """A copy whose tensors `change` has changed, with other settings in its quantization_config; None takes one out."""
    shutil.copytree(source, target)
    for path in target.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        stored = load_file(path)
        change(stored)
        save_file(stored, path, metadata)
    config = json.loads((target / "config.json").read_text())
    quantization = {**config["quantization_config"], **settings}
    config["quantization_config"] = {key: value for key, value in quantization.items() if value is not None}
    (target / "config.json").write_text(json.dumps(config))
    return target


def to_words(codes):
    """−8…7, eight rows of the result a word."""
    nibbles = (codes + 8).long().view(-1, 8, codes.shape[1])
    words = sum(nibbles[:, i] << 4 * i for i in range(8))
    return torch.where(words >= 2**31, words - 2**32, words).int()


def order_columns(tensors, weights, real):
    """Quantizes anew: columns in groups of 128 by a permutation, the same for linears that read the same input."""
    for name in [name for name in tensors if name.endswith(".qweight")]:
        module, layer, leaf = MODULE.match(name).groups()
        weight = weights[module + ".weight"].float().t()  # [columns, rows]
        columns, rows = weight.shape
        seed = torch.Generator().manual_seed(100 * int(layer) + sum(map(ord, FUSED.get(leaf, leaf))))
        order = torch.randperm(columns, generator=seed)
        groups = weight[order].view(-1, 128, rows)
        scales = (groups.abs().amax(1) / 7).half()
        codes = (groups / scales.float()[:, None]).round().clamp(-8, 7)
        in_place = torch.empty_like(order).scatter_(0, order, torch.arange(columns))
        real[module + ".weight"] = (codes * scales.float()[:, None]).view(columns, rows)[in_place].t().contiguous()
        tensors[name] = to_words(codes.view(columns, rows)[in_place])
        tensors[module + ".scales"] = scales
        tensors[module + ".g_idx"] = (in_place // 128).int()


@pytest.fixture(scope="module")
def made(visq, demo, tmp_path_factory):
    """w4a16: of visq; ordered: with columns in groups by a permutation; plain: the same real numbers."""
    out = tmp_path_factory.mktemp("gptq")
    visq("quantize", demo / "model", "-f", "w4a16,int8_wo_g128", "--layout", "gptq", "-o", out)
    weights = {name: value for path in (demo / "model").glob("*.safetensors") for name, value in load_file(path).items()}
    real = {}
    rewrite(out / "w4a16", out / "ordered", lambda tensors: order_columns(tensors, weights, real), desc_act=True, producer=None)
    assert len(real) == 35
    plain = shutil.copytree(demo / "model", out / "plain")
    for path in plain.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        save_file({name: real.get(name, value) for name, value in load_file(path).items()}, path, metadata)
    return out


def scores(visq, demo, *folders):
    rows = visq.json("eval", *folders, "--data", demo / "questions.jsonl", "--samples", 24, "--max-new-tokens", 2)
    return [(row["perplexity"], row["accuracy"]) for row in rows]


def test_columns_by_importance_have_their_real_numbers(visq, demo, made):
    ordered, plain, neighbours = scores(visq, demo, made / "ordered", made / "plain", made / "w4a16")
    assert ordered == plain != neighbours
    assert ordered[1] > 0.9


def test_they_go_where_there_is_a_place_for_their_order(visq, demo, made, tmp_path):
    visq("convert", made / "ordered", "--to", "compressed-tensors", "--out", tmp_path / "ct")
    weights = json.loads((tmp_path / "ct" / "config.json").read_text())["quantization_config"]["config_groups"]["group_0"]["weights"]
    assert weights["actorder"] == "group" and weights["group_size"] == 128
    visq.check([tmp_path / "ct", made / "ordered"], "--source", demo / "model")
    assert len(set(scores(visq, demo, tmp_path / "ct", made / "ordered"))) == 1
    visq("convert", tmp_path / "ct", "--to", "gptq", "--out", tmp_path / "back")
    visq("convert", made / "ordered", "--to", "gptq", "--out", tmp_path / "again")
    assert digest(tmp_path / "back") == digest(tmp_path / "again")
    assert load_file(tmp_path / "back" / "model.safetensors").keys() == load_file(made / "ordered" / "model.safetensors").keys()
    for layout in ("autoawq", "modelopt", "gguf", "tensorrt-llm"):
        line = refused(visq, made / "ordered", "--to", layout, "--out", tmp_path / "out")
        assert "columns by importance" in line, line


def test_engines_are_named_that_read_them(visq, made, tmp_path):
    assert visq.json("inspect", made / "ordered")["quantization"]["engines"] == ["sglang"]
    assert visq.json("inspect", made / "w4a16")["quantization"]["engines"] == ["vllm", "sglang"]
    result = visq("check", made / "ordered", "--for", "vllm", check=False)
    assert result.returncode == 1 and "vllm" in result.stdout and "columns by importance" in result.stdout


def test_an_order_that_is_only_announced_is_none(visq, made, tmp_path):
    announced = rewrite(made / "w4a16", tmp_path / "announced", desc_act=True)
    visq("convert", announced, "--to", "autoawq", "--out", tmp_path / "announced-awq")
    visq("convert", rewrite(made / "w4a16", tmp_path / "same"), "--to", "autoawq", "--out", tmp_path / "awq")
    assert digest(tmp_path / "announced-awq") == digest(tmp_path / "awq")
    assert visq.json("inspect", announced)["quantization"]["engines"] == ["sglang"]  # it goes by the configuration


def swapped(tensors):
    groups = tensors[UP + ".g_idx"]
    groups[[0, -1]] = groups[[-1, 0]]


def one_too_many(tensors):
    groups = tensors[UP + ".g_idx"]
    groups[0] = 1 - groups[0]


def another_order(tensors):
    tensors[UP + ".g_idx"] = tensors[UP + ".g_idx"].flip(0)


@pytest.mark.parametrize("base, change, settings, words", [
    ("w4a16", swapped, {}, ["g_idx", "does not say so", "desc_act"]),
    ("ordered", one_too_many, {}, ["g_idx", "not of 128 columns"]),
    ("ordered", lambda tensors: tensors[UP + ".g_idx"].sub_(1), {}, ["g_idx", "not among the 2"]),
    ("ordered", lambda tensors: tensors.pop(UP + ".g_idx"), {}, ["g_idx", "is missing"]),
    ("ordered", lambda tensors: None, {"desc_act": False}, ["g_idx", "does not say so"]),
])  # fmt: skip
def test_groups_that_contradict_are_named(visq, made, tmp_path, base, change, settings, words):
    folder = rewrite(made / base, tmp_path / "bad", change, **settings)
    for command in (["generate", folder, "Hello"], ["convert", folder, "--to", "compressed-tensors", "--out", tmp_path / "out"]):
        result = visq(*command, check=False)
        assert result.returncode == 2 and result.stderr.count("\n") == 1 and all(word in result.stderr for word in words), result.stderr
    result = visq("check", folder, check=False)
    assert result.returncode == 1 and words[1] in result.stdout
    assert not (tmp_path / "out").exists()


def test_fused_linears_share_an_order(visq, made, tmp_path):
    """Both are sound on their own; engines keep the order of one."""
    folder = rewrite(made / "ordered", tmp_path / "unlike", another_order)
    result = visq("check", folder, check=False)
    assert result.returncode == 1 and "unlike groups" in result.stdout and "layers.0.mlp" in result.stdout


# --- dynamic ---


@pytest.fixture(scope="module")
def mixed(made):
    """Layer 1 in 8 bits."""
    eight = load_file(made / "int8_wo_g128" / "model.safetensors")

    def change(tensors):
        tensors.update({name: value for name, value in eight.items() if ".layers.1." in name})

    dynamic = {"-:.*vision.*": {}, r"+:.*layers\.1\..*": {"bits": 8}, r".*layers\.[01]\..*": {"bits": 4}, r"-:.*layers\.9\..*": {}}
    return rewrite(made / "w4a16", made / "mixed", change, dynamic=dynamic, producer=None)


def test_settings_for_some_linears_are_read(visq, demo, made, mixed, tmp_path):
    found = visq.json("inspect", mixed)["quantization"]
    assert found["linears"] == 35 and found["engines"] == ["vllm", "sglang"]
    assert "INT8" in visq("inspect", mixed).stdout and "INT4" in visq("inspect", mixed).stdout
    visq("convert", mixed, "--to", "compressed-tensors", "--out", tmp_path / "ct")
    visq.check([mixed, tmp_path / "ct"], "--source", demo / "model")
    ours, ct, four, eight = scores(visq, demo, mixed, tmp_path / "ct", made / "w4a16", made / "int8_wo_g128")
    assert ours == ct and len({ours, four, eight}) == 3
    assert "no place for what" in refused(visq, mixed, "--to", "gptq", "--out", tmp_path / "out")


@pytest.mark.parametrize("dynamic, words", [
    ({r"+:.*layers\.1\..*": {"bits": 3}}, ["dynamic", "3 bits"]),
    ({r"+:.*layers\.1\..*": {"bits": 8, "group_size": 0}}, ["dynamic", "group size is 0"]),
    ({r"+:.*layers\.1\..*": [8]}, ["dynamic", "no object"]),
    ({r"+:.*layers\.(1\..*": {"bits": 8}}, ["dynamic", "malformed"]),
    ({r"+:(l|la|lan)*$": {"bits": 8}, r"+:.*layers\.1\..*": {"bits": 8, "sym": "yes"}}, ["dynamic", "sym"]),
    ({r"+:.*layers\.2\..*": {"bits": 8}}, ["layers.1", "scales"]),
])  # fmt: skip
def test_settings_that_do_not_fit_are_named(visq, mixed, tmp_path, dynamic, words):
    folder = rewrite(mixed, tmp_path / "bad", dynamic=dynamic)
    result = visq("generate", folder, "Hello", check=False)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and all(word in result.stderr for word in words), result.stderr
