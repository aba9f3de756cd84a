"""Formats that need no calibration data, and models whose architecture visq does not know."""
import json
import re
import shutil

import pytest

import test_families  # (its imports prepare the way to the toy models)
from formats import DATA_FREE
from test_quantize import tensors

toy = test_families.toy


@pytest.fixture(scope="module")
def data_free(visq, demo, tmp_path_factory):
    """The demo model in every format that needs no data, and what the program said."""
    out = tmp_path_factory.mktemp("data_free")
    return out, visq("quantize", demo / "model", "-f", ",".join(DATA_FREE), "-o", out, "--force")


def test_every_rule_of_the_engines_holds(visq, demo, data_free):
    outputs = [data_free[0] / format for format in DATA_FREE]
    for result in visq.check(outputs, "--source", demo / "model"):
        assert sum(rule["checked"] for rule in result["rules"]) > 100
    visq.check(outputs)  # and without the source


@pytest.mark.parametrize("format", DATA_FREE)
def test_what_is_not_quantized_is_copied_byte_for_byte(demo, data_free, format):
    source, output = tensors(demo / "model"), tensors(data_free[0] / format)
    untouched = [name for name in source if not re.search(r"^language_model.*_proj\.weight$", name)]
    assert len(untouched) == len(source) - 35
    for name in untouched:
        assert output[name] == source[name], name
    assert not any("input_scale" in name or "k_scale" in name for name in output)


def test_the_kv_cache_is_left_as_it_is_and_the_program_says_so(visq, demo, data_free, tmp_path):
    assert "KV cache: none" in data_free[1].stderr
    for format in DATA_FREE:
        found = visq.json("inspect", data_free[0] / format)["quantization"]
        assert (found["format"], found["linears"], found["kv_cache"]) == (format, 35, "none")
    command = ("quantize", demo / "model", "-o", tmp_path / "out", "-f")
    result = visq(*command, "int8_wo", "--kv-cache", "fp8", check=False)
    assert result.returncode == 2 and len(result.stderr.strip().splitlines()) == 1
    assert "--kv-cache fp8" in result.stderr and "--calib" in result.stderr
    result = visq(*command, "int8_wo,fp8", check=False)  # the other one needs data anyway
    assert result.returncode == 2 and "--calib" in result.stderr
    assert "KV cache     none" in visq(*command, "int8_wo", "--dry-run").stdout


def test_with_data_the_kv_cache_is_calibrated(visq, demo, data_free, tmp_path):
    visq("quantize", demo / "model", "-f", ",".join(DATA_FREE), "--calib", demo / "calibration.jsonl", "--samples", 16, "-o", tmp_path)
    visq.check([tmp_path / format for format in DATA_FREE], "--source", demo / "model")
    for format in DATA_FREE:
        assert visq.json("inspect", tmp_path / format)["quantization"]["kv_cache"] == "fp8"
        mine, theirs = tensors(tmp_path / format), tensors(data_free[0] / format)
        if format == "w4a16_nvfp4":  # makes more of data
            assert mine.keys() - theirs.keys() == {name for name in mine if name.endswith(("k_scale", "v_scale"))}
            continue
        assert {name: value for name, value in mine.items() if not name.endswith(("k_scale", "v_scale"))} == theirs


def test_what_is_better_with_data_says_what_it_is_without(visq, demo, data_free, tmp_path):
    result = visq("quantize", demo / "model", "-f", "w4a16_nvfp4,w4a16_nvfp4_max", "-o", tmp_path)
    assert "w4a16_nvfp4: without calibration data (--calib) this is w4a16_nvfp4_max" in result.stderr
    outputs = [tensors(tmp_path / format) for format in ("w4a16_nvfp4", "w4a16_nvfp4_max")]
    assert outputs[0] == outputs[1] == tensors(data_free[0] / "w4a16_nvfp4")
    visq("quantize", demo / "model", "-f", "w4a16_nvfp4,w4a16_nvfp4_max", "--calib", demo / "calibration.jsonl", "--kv-cache", "none",
         "-o", tmp_path / "data")
    rows = visq.json("eval", *(tmp_path / "data" / name for name in ("w4a16_nvfp4", "w4a16_nvfp4_max")), "--against", demo / "model",
                     "--data", demo / "questions.jsonl", "--samples", 60)
    kl = {row["format"]: row["mean_kl"] for row in rows if "mean_kl" in row}
    assert kl["w4a16_nvfp4"] < 0.1 * kl["w4a16_nvfp4_max"], kl


@pytest.mark.parametrize("layout", ["modelopt", "compressed-tensors", "hf-fp8"])
def test_other_layouts_hold_the_same_weights(visq, demo, tmp_path, layout):
    formats = {"modelopt": DATA_FREE, "compressed-tensors": ["fp8_pc_pt", "int8_wo", "w4a16", "w4a16_nvfp4"], "hf-fp8": ["fp8_pb_wo"]}[layout]
    visq("quantize", demo / "model", "-f", ",".join(formats), "--layout", layout, "-o", tmp_path)
    outputs = {format: tmp_path if len(formats) == 1 else tmp_path / format for format in formats}
    visq.check(list(outputs.values()), "--source", demo / "model")
    for format, out in outputs.items():
        quantization = visq.json("inspect", out)["quantization"]
        assert (quantization["format"], quantization["layout"]) == (format, layout)


def test_a_layout_that_does_not_hold_the_format_is_refused(visq, demo, tmp_path):
    result = visq("quantize", demo / "model", "-f", "int8_wo", "--layout", "hf-fp8", "-o", tmp_path / "out", check=False)
    assert result.returncode == 2 and "does not hold int8_wo" in result.stderr


def test_eval_finds_eight_bits_close_to_the_original(visq, demo, data_free):
    rows = visq.json("eval", *(data_free[0] / f for f in DATA_FREE), "--against", demo / "model", "--data", demo / "questions.jsonl",
                     "--samples", "60")
    kl = {row["format"]: row["mean_kl"] for row in rows[1:]}
    assert list(kl) == DATA_FREE
    assert 0 < kl["int8_wo"] < 0.01 and 0 < kl["fp8_pc_pt"] < 0.01 and 0 < kl["fp8_pb_wo"] < 0.01
    assert kl["w4a16"] < 1 and kl["w4a16_nvfp4"] < 1
    assert all(row["accuracy"] >= 0.9 for row in rows[1:4])


def test_bytes_do_not_depend_on_the_number_of_threads(visq, demo, data_free, tmp_path):
    visq("quantize", demo / "model", "-f", ",".join(DATA_FREE), "-o", tmp_path, "--threads", 3)
    for format in DATA_FREE:
        assert tensors(tmp_path / format) == tensors(data_free[0] / format)


# An architecture that nobody knows: a toy checkpoint with another name in config.json.


def rename(model, architecture="GrapefruitForConditionalGeneration"):
    config = json.loads((model / "config.json").read_text())
    config["architectures"] = [architecture]
    (model / "config.json").write_text(json.dumps(config))
    return model


@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl", "qwen3_vl_moe", "mllama", "phi4_multimodal", "gemma3", "nvila"])
def test_an_unknown_architecture_gives_the_tensors_of_the_known_one(visq, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "WIDE", True)
    make, *arguments = test_families.KINDS[kind]
    made = make(*arguments)
    model = toy.save(tmp_path / "model", made, "A") if isinstance(made, tuple) else made.save(tmp_path / "model")
    visq("quantize", model, "-f", ",".join(DATA_FREE), "-o", tmp_path / "known")
    rename(model)
    said = visq("quantize", model, "-f", ",".join(DATA_FREE), "-o", tmp_path / "unknown").stderr
    (warning,) = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert re.search(r"layers\.\*\.\S*_proj × \d+", warning) and "left as they are" in warning
    for format in DATA_FREE:
        assert tensors(tmp_path / "unknown" / format) == tensors(tmp_path / "known" / format), format
    visq.check([tmp_path / "unknown" / format for format in DATA_FREE], "--source", model)


@pytest.fixture
def unknown(demo, tmp_path):
    shutil.copytree(demo / "model", tmp_path / "model")
    return rename(tmp_path / "model")


def test_dry_run_of_an_unknown_architecture_says_what_it_chose(visq, unknown, tmp_path):
    result = visq("quantize", unknown, "-f", "int8_wo", "-o", tmp_path / "out", "--dry-run")
    assert "language_model.model.layers.*.self_attn.q_proj × 5" in result.stderr
    assert "vision_tower × " in result.stderr and "multi_modal_projector × 2" in result.stderr
    assert "35 linears in 5 decoder layers" in result.stdout
    assert not (tmp_path / "out").exists()


def test_parts_of_an_unknown_architecture_can_be_left_out(visq, unknown, tmp_path):
    for layout in ("modelopt", "compressed-tensors"):
        out = tmp_path / layout
        visq("quantize", unknown, "-f", "w4a16", "-o", out, "--skip", "*layers.1.mlp*", "--skip", "*o_proj", "--layout", layout)
        result = visq.json("check", out, "--source", unknown)
        assert result["passed"], [rule for rule in result["rules"] if rule["violations"]]
        report = json.loads((out / "visq_report.json").read_text())
        assert report["family"] == "unknown" and report["linears_quantized"] == 35 - 3 - 5


@pytest.mark.parametrize("options, reason", [
    (("-f", "fp8"), "--format fp8"), (("-f", "int8_wo,int4_awq"), "--format int4_awq"),
    (("-f", "int8_wo", "--calib", "calibration.jsonl"), "--calib"), (("-f", "int8_wo", "--kv-cache", "fp8"), "--kv-cache fp8"),
])  # fmt: skip
def test_what_needs_to_run_an_unknown_model_is_refused_in_a_line(visq, unknown, tmp_path, options, reason):
    result = visq("quantize", unknown, *options, "-o", tmp_path / "out", check=False)
    assert result.returncode == 2 and not (tmp_path / "out").exists()
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ") and "GrapefruitForConditionalGeneration" in line and reason in line
    assert ", ".join(DATA_FREE) in line and "Qwen2_5_VLForConditionalGeneration" in line


def test_a_recipe_that_splits_a_fused_group_is_refused(visq, unknown, tmp_path):
    result = visq("quantize", unknown, "-f", "int8_wo", "--skip", "*layers.0.self_attn.k_proj", "-o", tmp_path / "out", check=False)
    assert result.returncode == 2 and "layers.0.self_attn.k_proj" in result.stderr and not (tmp_path / "out").exists()


def test_a_nan_in_a_weight_is_named(visq, unknown, tmp_path):
    from test_bad_input import NAME, WEIGHTS, header_of, write

    header, body = header_of(unknown / WEIGHTS)
    begin = header[NAME]["data_offsets"][0]
    write(unknown / WEIGHTS, header, body[:begin] + b"\xc0\x7f" + body[begin + 2 :])
    for format in DATA_FREE:
        result = visq("quantize", unknown, "-f", format, "-o", tmp_path / "out", check=False)
        assert result.returncode == 2 and NAME in result.stderr and "NaN" in result.stderr
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.partial"))
