"""Four bits with zero points, and NF4 in bitsandbytes' layout."""
import json
import math
import shutil

import pytest

import test_families  # (its imports prepare the way to the toy models)
from formats import FOUR_BITS
from test_more_formats import damaged
from test_quantize import digest, tensors

toy = test_families.toy
DATA_FREE = ["w4a16_asym", "nf4"]
UP = "language_model.model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def four(visq, demo, tmp_path_factory):
    out = tmp_path_factory.mktemp("four")
    result = visq("quantize", demo / "model", "-f", ",".join([*FOUR_BITS, "w4a16"]), "--calib", demo / "calibration.jsonl", "--samples", 48,
                  "-o", out)  # fmt: skip
    return out, result


@pytest.mark.parametrize("format", FOUR_BITS)
def test_every_rule_of_the_engines_holds(visq, demo, four, format):
    out = four[0] / format
    for options in (["--source", demo / "model"], []):
        result = visq.json("check", out, *options)
        assert result["passed"], [rule for rule in result["rules"] if rule["violations"]]
        assert result["engines"] == (["sglang"] if format == "nf4" else ["vllm", "sglang"])
    quantization = visq.json("inspect", out)["quantization"]
    assert (quantization["format"], quantization["linears"]) == (format, 35)
    assert quantization["layout"] == ("bitsandbytes" if format == "nf4" else "compressed-tensors")
    # The cache that nobody asked for is left where a layout has no place for its scales.
    assert quantization["kv_cache"] == ("none" if format == "nf4" else "fp8")
    result = visq("check", out, "--for", "tensorrt-llm", check=False)
    assert result.returncode == 1 and f"tensorrt-llm: does not read {format}" in result.stdout


@pytest.mark.parametrize("format", FOUR_BITS)
def test_what_is_stored(demo, four, format):
    found, source = tensors(four[0] / format), tensors(demo / "model")
    rows, columns = source[UP + ".weight"][1]
    kept = {name[len(UP) + 1 :]: value[:2] for name, value in found.items() if name.startswith(UP)}
    if format == "nf4":
        values = rows * columns
        state = kept.pop("weight.quant_state.bitsandbytes__nf4")
        assert kept == {"weight": ("U8", [values // 2, 1]), "weight.absmax": ("U8", [values // 64]), "weight.quant_map": ("F32", [16]),
                        "weight.nested_absmax": ("F32", [-(-values // 64 // 256)]), "weight.nested_quant_map": ("F32", [256])}  # fmt: skip
        text = json.loads(found[UP + ".weight.quant_state.bitsandbytes__nf4"][2])
        assert state[0] == "U8" and text["shape"] == [rows, columns] and text["dtype"] == "bfloat16" and text["nested_offset"] > 0
    else:
        assert kept == {"weight_packed": ("I32", [rows, columns // 8]), "weight_scale": ("BF16", [rows, columns // 128]),
                        "weight_zero_point": ("I32", [rows // 8, columns // 128]), "weight_shape": ("I64", [2])}  # fmt: skip
    untouched = [name for name in source if not name.startswith("language_model.model.layers.")]
    assert all(found[name] == source[name] for name in untouched)


def test_eval_says_what_they_cost(visq, demo, four):
    names = [*FOUR_BITS, "w4a16"]
    rows = visq.json("eval", *(four[0] / format for format in names), "--against", demo / "model", "--data", demo / "questions.jsonl",
                     "--samples", 40)  # fmt: skip
    kl = dict(zip(names, (row["mean_kl"] for row in rows[1:])))
    assert all(math.isfinite(value) for value in kl.values())
    assert kl["int4_awq_asym"] < kl["w4a16_asym"] and kl["nf4"] < kl["w4a16"] and max(kl.values()) < 0.3, kl


@pytest.mark.parametrize("format", FOUR_BITS)
def test_generate_reads_them(visq, four, format):
    assert visq("generate", four[0] / format, "Which day comes after Monday?").stdout.strip() == "Tuesday"


def test_neither_data_nor_threads_change_the_bytes(visq, demo, four, tmp_path):
    visq("quantize", demo / "model", "-f", ",".join(DATA_FREE), "-o", tmp_path / "one", "--threads", 1)
    visq("quantize", demo / "model", "-f", ",".join(DATA_FREE), "-o", tmp_path / "three", "--threads", 3)
    for format in DATA_FREE:
        assert digest(tmp_path / "one" / format) == digest(tmp_path / "three" / format)
        mine, theirs = tensors(tmp_path / "one" / format), tensors(four[0] / format)
        assert mine == {name: value for name, value in theirs.items() if not name.endswith(("k_scale", "v_scale"))}


def test_a_cache_that_the_layout_cannot_hold_is_refused(visq, demo, tmp_path):
    result = visq("quantize", demo / "model", "-f", "nf4", "--calib", demo / "calibration.jsonl", "--kv-cache", "fp8", "-o", tmp_path / "out",
                  check=False)  # fmt: skip
    (line,) = result.stderr.strip().splitlines()
    assert result.returncode == 2 and "--kv-cache fp8" in line and "nf4" in line and not (tmp_path / "out").exists()
    result = visq("quantize", demo / "model", "-f", "w4a16_asym", "--layout", "modelopt", "-o", tmp_path / "out", check=False)
    assert result.returncode == 2 and "--layout modelopt: this layout does not hold w4a16_asym" in result.stderr


@pytest.mark.parametrize("format, suffix, change, rule", [
    ("w4a16_asym", "weight_zero_point", lambda data: bytes(byte ^ 0x77 for byte in data), "E1"),
    ("w4a16_asym", "weight_packed", lambda data: b"\x88" * 64 + data[64:], "D3"),
    ("w4a16_asym", "weight_scale", lambda data: b"\xc0\x7f" + data[2:], "C4"),
    ("nf4", "weight", lambda data: bytes(32) + b"\x66" * 32 + data[64:], "D3"),
    ("nf4", "weight.nested_absmax", lambda data: b"\x00\x00\xc0\x7f" + data[4:], "C4"),
    ("nf4", "weight.absmax", lambda data: bytes(len(data)), "E1"),
])  # fmt: skip
def test_damage_is_found(visq, demo, four, tmp_path, format, suffix, change, rule):
    out = shutil.copytree(four[0] / format, tmp_path / "out")
    damaged(out, f"{UP}.{suffix}", change)
    result = visq("check", out, "--source", demo / "model", "--json", check=False)
    violations = {found["id"]: found["violations"] for found in json.loads(result.stdout)["rules"] if found["violations"]}
    assert result.returncode == 1 and any(UP in line for line in violations[rule]), violations


@pytest.mark.parametrize("suffix, change, words", [
    ("weight.quant_map", lambda data: data[4:] + data[:4], "other levels"),
    ("weight.quant_state.bitsandbytes__nf4", lambda data: b"x" + data[1:], "not valid JSON"),
    ("weight.quant_state.bitsandbytes__nf4", lambda data: data.replace(b'"blocksize":64', b'"blocksize":32'), "blocks of 64"),
    ("weight.quant_state.bitsandbytes__nf4", lambda data: data.replace(b'"shape":[', b'"shape":[9')[: len(data)], "expected U8"),
])  # fmt: skip
def test_a_state_that_does_not_fit_is_named(visq, four, tmp_path, suffix, change, words):
    out = shutil.copytree(four[0] / "nf4", tmp_path / "out")
    damaged(out, f"{UP}.{suffix}", change)
    result = visq("generate", out, "Hello", check=False)
    (line,) = result.stderr.strip().splitlines()
    assert result.returncode == 2 and UP in line and words in line, line


@pytest.mark.parametrize("kind", ["llava", "qwen3_vl_moe"])
def test_every_format_of_a_family_is_whole(visq, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "WIDE", True)
    make, *arguments = test_families.KINDS[kind]
    model = toy.save(tmp_path / "model", make(*arguments), "A")
    data, out = test_families.write_data(tmp_path), tmp_path / "out"
    visq("quantize", model, "-f", ",".join(FOUR_BITS), "--calib", data, "-o", out)
    visq.check([out / format for format in FOUR_BITS], "--source", model)
    rows = visq.json("eval", *(out / format for format in FOUR_BITS), "--against", model, "--data", data, "--max-new-tokens", 4)
    assert all(math.isfinite(row["perplexity"]) for row in rows)


def test_parts_that_are_left_out_are_named_for_every_reader(visq, demo, tmp_path):
    out = tmp_path / "out"
    visq("quantize", demo / "model", "-f", "nf4", "-o", out, "--skip", "*layers.1.mlp*")
    skipped = json.loads((out / "config.json").read_text())["quantization_config"]["llm_int8_skip_modules"]
    assert {"vision_tower", "multi_modal_projector", "lm_head"} <= set(skipped) and any("layers.1.mlp.up_proj" in name for name in skipped)
    result = visq.json("check", out, "--source", demo / "model")
    assert result["passed"], [rule for rule in result["rules"] if rule["violations"]]
