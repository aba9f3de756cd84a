"""Formats that are tried on a few models only: blocks of 32 (MX and beside FP8 inputs), and plain INT8."""
import json
import math
import shutil

import pytest

import test_families  # (its imports prepare the way to the toy models)
from formats import MX, STATIC
from test_quantize import digest, tensors

toy = test_families.toy
NO_ENGINE = ["mxfp6", "mxint8"]


@pytest.fixture(scope="module")
def more(visq, demo, tmp_path_factory):
    out = tmp_path_factory.mktemp("more")
    visq("quantize", demo / "model", "-f", ",".join(STATIC + MX), "--calib", demo / "calibration.jsonl", "--samples", 48, "-o", out, "--force")
    return out


def test_every_rule_of_the_engines_holds(visq, demo, more):
    formats = STATIC + MX
    listed = {entry["format"]: entry["engines"] for entry in visq.json("formats")}
    for options in (["--source", demo / "model"], []):
        results = visq.check([more / format for format in formats], *options)
        # TensorRT-LLM has no class for this model, and SGLang's loses the scales of mxfp8.
        lost = {"mxfp8": ("sglang", "tensorrt-llm")}
        readers = [[name for name in listed[format] if name not in lost.get(format, ("tensorrt-llm",))] for format in formats]
        assert [result["engines"] for result in results] == readers
    for format in formats:
        quantization = visq.json("inspect", more / format)["quantization"]
        assert (quantization["format"], quantization["linears"], quantization["kv_cache"]) == (format, 35, "fp8")
        test_families.check_what_is_quantized(tensors(demo / "model"), tensors(more / format), more / format, smoothed=False)


@pytest.mark.parametrize("format", NO_ENGINE)
def test_no_engine_is_said_to_read_what_none_reads(visq, more, format):
    for engine in ("vllm", "sglang", "tensorrt-llm"):
        result = visq("check", more / format, "--for", engine, check=False)
        assert result.returncode != 0 and f"{engine}: does not read {format}" in result.stdout


def test_mx_needs_no_data_and_has_no_input_scales(visq, demo, more, tmp_path):
    visq("quantize", demo / "model", "-f", ",".join(MX), "-o", tmp_path)
    for format in MX:
        mine, theirs = tensors(tmp_path / format), tensors(more / format)
        assert not any(name.endswith("input_scale") for name in theirs)
        assert {name: value for name, value in theirs.items() if not name.endswith(("k_scale", "v_scale"))} == mine
    visq("quantize", demo / "model", "-f", ",".join(MX), "-o", tmp_path / "threads", "--threads", 3)
    for format in MX:
        assert digest(tmp_path / "threads" / format) == digest(tmp_path / format)


def test_eval_ranks_them_by_their_bits(visq, demo, more):
    rows = visq.json("eval", *(more / format for format in STATIC + MX), "--against", demo / "model", "--data",
                     demo / "questions.jsonl", "--samples", 40)  # fmt: skip
    kl = {row["format"]: row["mean_kl"] for row in rows[1:]}
    assert list(kl) == STATIC + MX and all(math.isfinite(value) for value in kl.values())
    # The model's inputs have outlier channels: they cost INT8 what smoothing saves, and MXFP4 the rest of their blocks.
    assert 0 < max(kl["mxfp8"], kl["mxint8"], kl["mxfp6"]) < 1e-3, kl
    assert kl["mxfp8"] < kl["mxfp6"] < kl["w4a8_mxfp4_fp8"] < kl["int8"] < kl["mxfp4"], kl
    assert max(kl["w4a8_nvfp4_fp8"], kl["w4a8_mxfp4_fp8"]) < 0.05, kl
    assert min(row["accuracy"] for row in rows if row["format"] not in ("int8", "mxfp4")) >= 0.9


def test_generate_reads_a_format_of_ours_alone(visq, more):
    assert visq("generate", more / "mxfp6", "Which day comes after Monday?").stdout.strip() == "Tuesday"


@pytest.mark.parametrize("kind", ["llava", "qwen3_vl_moe"])
def test_every_format_of_a_family_is_whole(visq, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "WIDE", True)
    make, *arguments = test_families.KINDS[kind]
    model = toy.save(tmp_path / "model", make(*arguments), "A")
    data, out = test_families.write_data(tmp_path), tmp_path / "out"
    visq("quantize", model, "-f", ",".join(STATIC + MX), "--calib", data, "-o", out)
    visq.check([out / format for format in STATIC + MX], "--source", model)
    source = tensors(model)
    for format in STATIC + MX:
        test_families.check_what_is_quantized(source, tensors(out / format), out / format, smoothed=False)
    rows = visq.json("eval", *(out / format for format in STATIC + MX), "--against", model, "--data", data, "--max-new-tokens", 4)
    assert all(math.isfinite(row["perplexity"]) for row in rows)


# A checkpoint that somebody changed.


def damaged(folder, name, change):
    """Writes the bytes of a tensor anew."""
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    begin, end = (8 + length + offset for offset in json.loads(data[8 : 8 + length])[name]["data_offsets"])
    data[begin:end] = change(bytes(data[begin:end]))
    path.write_bytes(data)


@pytest.mark.parametrize("format", sorted(set(MX) - {"mxfp4"}))  # which auto puts into compressed-tensors
def test_damage_is_found(visq, demo, more, tmp_path, format):
    module = "language_model.model.layers.0.mlp.up_proj"
    block = {"mxfp6": 24, "mxfp8": 32, "mxint8": 32}.get(format, 16)
    for suffix, change, rule in (("weight_scale", lambda b: b"\xff" + b[1:], "C4"),
                                 ("weight_scale", lambda b: bytes(x + 2 for x in b), "E1"),
                                 ("weight", lambda b: bytes(block) + b[block:], "D3")):  # fmt: skip
        out = shutil.copytree(more / format, tmp_path / rule)
        damaged(out, f"{module}.{suffix}", change)
        result = visq("check", out, "--source", demo / "model", "--json", check=False)
        violations = {found["id"]: found["violations"] for found in json.loads(result.stdout)["rules"] if found["violations"]}
        assert result.returncode == 1 and any(module in line for line in violations[rule]), violations


def test_int8_differs_from_int8_sq_in_its_smoothing_alone(visq, demo, more, quantized):
    mine, theirs = tensors(more / "int8"), tensors(quantized / "int8_sq")
    assert {name: value[:2] for name, value in mine.items()} == {name: value[:2] for name, value in theirs.items()}
    norm = "language_model.model.layers.0.input_layernorm.weight"
    assert mine[norm] == tensors(demo / "model")[norm] != theirs[norm]
