"""Every format of the KV cache, as a user meets it."""
import json
import math
import struct

import pytest

import test_families  # (its imports prepare the way to the toy models)
from test_more_formats import damaged
from test_quantize import digest, tensors

toy = test_families.toy
CACHES = ["fp8", "fp8_attn_head", "fp8_cast", "fp8_affine", "nvfp4", "nvfp4_cast", "nvfp4_affine", "nvfp4_rotate"]
# kv_cache_quant_algo of the modelopt layout.
ALGORITHMS = {"fp8": "FP8", "fp8_cast": "FP8", "fp8_affine": "FP8_AFFINE", "nvfp4": "NVFP4", "nvfp4_cast": "NVFP4",
              "nvfp4_affine": "NVFP4_AFFINE", "nvfp4_rotate": "NVFP4_ROTATE"}  # fmt: skip
ATTENTION = "language_model.model.layers.0.self_attn"


@pytest.fixture(scope="module")
def cached(visq, demo, tmp_path_factory):
    """int8_wo, whose weights cost next to nothing, with every cache, from one calibration."""
    out = tmp_path_factory.mktemp("caches")
    stats = out / "stats"
    visq("calibrate", demo / "model", "--calib", demo / "calibration.jsonl", "--samples", 48, "--no-gram", "-o", stats)
    for cache in CACHES:
        layout = "compressed-tensors" if cache == "fp8_attn_head" else "modelopt"
        visq("quantize", demo / "model", "-f", "int8_wo", "--stats", stats, "--kv-cache", cache, "--layout", layout, "-o", out / cache)
    return out


def floats(entry):
    dtype, _, data = entry
    if dtype == "F32":
        return list(struct.unpack(f"<{len(data) // 4}f", data))
    assert dtype == "BF16"
    return [struct.unpack("<f", b"\0\0" + data[i : i + 2])[0] for i in range(0, len(data), 2)]


def test_they_are_listed_with_who_reads_them(visq):
    rows = visq.json("kv-caches")
    assert [row["kv_cache"] for row in rows] == CACHES
    text = visq("formats").stdout
    assert all(f" {cache} " in text for cache in CACHES)
    readers = {row["kv_cache"]: row["layouts"] for row in rows}
    assert readers["nvfp4"] == {"modelopt": ["sglang", "tensorrt-llm"]} and readers["fp8_attn_head"] == {"compressed-tensors": ["vllm"]}
    assert all(cache in visq("quantize", "--help").stdout for cache in CACHES)


def test_every_rule_of_the_engines_holds(visq, demo, cached):
    visq.check([cached / cache for cache in CACHES], "--source", demo / "model")
    for cache in CACHES:
        assert visq.json("inspect", cached / cache)["quantization"]["kv_cache"] == cache


@pytest.mark.parametrize("cache", CACHES)
def test_what_is_stored(cached, cache):
    config = json.loads((cached / cache / "config.json").read_text())
    added, text = config["quantization_config"], config["text_config"]
    heads, width = text["num_key_value_heads"], text["hidden_size"] // text["num_attention_heads"]
    found = {name: value for name, value in tensors(cached / cache).items() if name.startswith(ATTENTION)}
    kv = {name[len(ATTENTION) + 1 :]: value for name, value in found.items() if "k_scale" in name or "v_scale" in name or "_bias" in name}
    if cache == "fp8_attn_head":
        assert added["kv_cache_scheme"]["strategy"] == "attn_head"
        assert {name: value[:2] for name, value in kv.items()} == {f"{x}_scale": ("BF16", [heads, 1, 1]) for x in "kv"}
        return
    assert added["kv_cache_quant_algo"] == ALGORITHMS[cache]
    assert added["kv_cache_scheme"] == ({"dynamic": False, "num_bits": 8, "type": "float"} if ALGORITHMS[cache] == "FP8" else ALGORITHMS[cache])
    nested = json.loads((cached / cache / "hf_quant_config.json").read_text())["quantization"]
    assert nested["kv_cache_quant_algo"] == ALGORITHMS[cache]
    expected = {}
    for x in "kv":
        if not cache.endswith("_cast"):
            expected[f"{x}_proj.{x}_scale"] = ("F32", [])
        if cache.endswith("_affine"):
            expected[f"{x}_proj.{x}_bias"] = ("BF16", [1, heads, 1, width])
    assert {name: value[:2] for name, value in kv.items()} == expected


def test_scales_are_the_same_numbers_wherever_they_are(cached):
    plain = {x: floats(tensors(cached / "fp8")[f"{ATTENTION}.{x}_proj.{x}_scale"])[0] for x in "kv"}
    for x in "kv":
        name = f"{ATTENTION}.{x}_proj.{x}_scale"
        assert floats(tensors(cached / "nvfp4")[name])[0] == plain[x]
        heads = floats(tensors(cached / "fp8_attn_head")[f"{ATTENTION}.{x}_scale"])
        assert max(heads) == pytest.approx(plain[x], rel=2**-8) and min(heads) <= max(heads)
        assert floats(tensors(cached / "fp8_affine")[name])[0] < 2 * plain[x]
    rotated = floats(tensors(cached / "nvfp4_rotate")[f"{ATTENTION}.k_proj.k_scale"])[0]
    assert rotated != plain["k"]
    assert floats(tensors(cached / "nvfp4_rotate")[f"{ATTENTION}.v_proj.v_scale"])[0] == plain["v"]


def test_eval_simulates_them(visq, demo, cached):
    rows = visq.json("eval", *(cached / cache for cache in CACHES), "--against", demo / "model", "--data", demo / "questions.jsonl",
                     "--samples", 40)  # fmt: skip
    kl = dict(zip(CACHES, (row["mean_kl"] for row in rows[1:])))
    assert all(math.isfinite(value) and value > 0 for value in kl.values()) and len(set(kl.values())) == len(CACHES), kl
    assert max(kl[cache] for cache in CACHES if cache.startswith("fp8")) < min(kl[cache] for cache in CACHES if cache.startswith("nvfp4")), kl
    assert max(kl.values()) < 0.5, kl


def test_generate_reads_them(visq, cached):
    for cache in ("fp8_attn_head", "nvfp4_affine", "nvfp4_rotate"):
        assert visq("generate", cached / cache, "Which day comes after Monday?").stdout.strip() == "Tuesday"


def test_the_bytes_do_not_depend_on_the_threads(visq, demo, cached, tmp_path):
    for cache in ("nvfp4_affine", "nvfp4_rotate"):
        visq("quantize", demo / "model", "-f", "int8_wo", "--calib", demo / "calibration.jsonl", "--samples", 48, "--kv-cache", cache,
             "--layout", "modelopt", "-o", tmp_path / cache, "--threads", 1)  # fmt: skip
        mine, theirs = digest(tmp_path / cache), digest(cached / cache)
        for report in (mine, theirs):
            report.pop("visq_report.json")
        assert mine == theirs


def test_a_cache_that_is_cast_needs_no_data(visq, demo, tmp_path):
    for layout, stored in (("modelopt", 0), ("compressed-tensors", 10)):
        out = tmp_path / layout
        visq("quantize", demo / "model", "-f", "int8_wo", "--kv-cache", "fp8_cast", "--layout", layout, "-o", out)
        assert visq.json("inspect", out)["quantization"]["kv_cache"] == "fp8_cast"
        assert visq.json("check", out, "--source", demo / "model")["passed"]
        scales = [floats(value) for name, value in tensors(out).items() if name.endswith(("k_scale", "v_scale"))]
        assert scales == [[1.0]] * stored
    for cache in ("nvfp4", "fp8_attn_head"):
        result = visq("quantize", demo / "model", "-f", "int8_wo", "--kv-cache", cache, "-o", tmp_path / "out", check=False)
        assert result.returncode == 2 and f"--kv-cache {cache}" in result.stderr and "--calib" in result.stderr


def test_modelopts_casts_are_known_by_the_scales_that_they_lack(visq, demo, tmp_path):
    out = tmp_path / "out"
    visq("quantize", demo / "model", "-f", "int8_wo", "--kv-cache", "fp8_cast", "--layout", "modelopt", "-o", out)
    config = json.loads((out / "config.json").read_text())
    del config["quantization_config"]["producer"]["kv_cache"]
    (out / "config.json").write_text(json.dumps(config))
    assert visq.json("inspect", out)["quantization"]["kv_cache"] == "fp8_cast"


def test_auto_takes_a_layout_that_has_a_place_for_it(visq, demo, tmp_path):
    common = ("quantize", demo / "model", "--calib", demo / "calibration.jsonl", "-o", tmp_path / "out", "--dry-run")
    assert "compressed-tensors" in visq(*common, "-f", "int4_awq", "--kv-cache", "fp8_attn_head").stdout
    plan = visq(*common, "-f", "int4_awq", "--kv-cache", "nvfp4").stdout
    assert "modelopt, read by no engine" in plan and "KV cache     nvfp4" in plan


@pytest.mark.parametrize("options, words", [
    (("--kv-cache", "fp4"), ["--kv-cache fp4", *CACHES, "none"]),
    (("--kv-cache", "fp8_attn_head"), ["--kv-cache fp8_attn_head", "compressed-tensors", "mxint8"]),
    (("--kv-cache", "fp8_attn_head", "--layout", "modelopt"), ["--layout modelopt", "fp8_attn_head", "compressed-tensors"]),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_a_line(visq, demo, tmp_path, options, words):
    result = visq("quantize", demo / "model", "-f", "mxint8", "--calib", demo / "calibration.jsonl", *options, "-o", tmp_path / "out", check=False)
    assert result.returncode == 2 and not (tmp_path / "out").exists()
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ") and all(word in line for word in words), line


def test_an_engine_that_cannot_read_the_cache_is_said_to(visq, cached):
    result = visq("check", cached / "nvfp4_affine", "--for", "tensorrt-llm", check=False)
    assert result.returncode == 1 and "tensorrt-llm: does not read a KV cache of nvfp4_affine" in result.stdout
    assert visq.json("check", cached / "nvfp4_affine")["engines"] == []


@pytest.mark.parametrize("cache, name, value, word", [
    ("fp8", "k_proj.k_scale", struct.pack("<f", -1.0), "not a positive number"),
    ("nvfp4_affine", "v_proj.v_bias", b"\xc0\x7f", "not finite"),
    ("fp8_attn_head", "k_scale", b"\x00\x00", "not positive"),
])  # fmt: skip
def test_damage_is_named(visq, cached, tmp_path, cache, name, value, word):
    import shutil

    out = shutil.copytree(cached / cache, tmp_path / "out")
    damaged(out, f"{ATTENTION}.{name}", lambda data: value + data[len(value) :])
    for command in (("check", out), ("generate", out, "Hello")):
        result = visq(*command, check=False)
        said = result.stdout if command[0] == "check" else result.stderr
        assert result.returncode != 0 and f"{ATTENTION}.{name}" in said and word in said


@pytest.mark.parametrize("kind", ["mllama", "phi4_multimodal"])
def test_families_with_cross_layers_and_fused_keys(visq, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "WIDE", True)
    make, *arguments = test_families.KINDS[kind]
    model = toy.save(tmp_path / "model", make(*arguments), "A")
    data = test_families.write_data(tmp_path)
    outputs = [tmp_path / cache for cache in ("fp8_affine", "nvfp4_rotate")]
    for out in outputs:
        visq("quantize", model, "-f", "int8_wo", "--calib", data, "--kv-cache", out.name, "--layout", "modelopt", "-o", out)
    visq.check(outputs, "--source", model)
    rows = visq.json("eval", *outputs, "--against", model, "--data", data, "--max-new-tokens", 4)
    assert len(rows) == 3 and all(math.isfinite(row["perplexity"]) for row in rows)
