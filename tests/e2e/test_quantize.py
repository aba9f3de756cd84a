"""The way from checkpoint to checkpoint, as a user walks it."""
import hashlib
import json
import struct

import pytest

from formats import FORMATS


def tensors(path):
    """name -> (dtype, shape, bytes) of a checkpoint directory, read with the format's own rules; VILA's folders before the name."""
    found = {}
    for file in sorted(path.rglob("*.safetensors")):
        folder = "".join(f"{part}." for part in file.parent.relative_to(path).parts)
        data = file.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        assert header.pop("__metadata__") == {"format": "pt"}
        for name, info in header.items():
            begin, end = info["data_offsets"]
            found[folder + name] = (info["dtype"], info["shape"], data[8 + length + begin : 8 + length + end])
    return found


def digest(path):
    return {str(f.relative_to(path)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(path.rglob("*")) if f.is_file()}


def test_every_rule_of_the_engines_holds(visq, demo, quantized):
    for result in visq.check([quantized / format for format in FORMATS], "--source", demo / "model"):
        assert sum(rule["checked"] for rule in result["rules"]) > 100


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_not_quantized_is_copied_byte_for_byte(demo, quantized, format):
    source, output = tensors(demo / "model"), tensors(quantized / format)
    untouched = [name for name in source if not any(part in name for part in ("_proj.", "layernorm"))
                 or name.startswith(("vision_tower", "multi_modal_projector"))]
    assert len(untouched) > 20
    for name in untouched:
        assert output[name] == source[name], name


@pytest.mark.parametrize("format", FORMATS)
def test_config_is_the_source_plus_one_key(demo, quantized, format):
    source = (demo / "model" / "config.json").read_text()
    output = (quantized / format / "config.json").read_text()
    assert output.startswith(source.rstrip().rstrip("}").rstrip())
    added = json.loads(output)
    assert added.pop("quantization_config")
    assert added == json.loads(source)


def test_ledger_counts_text_and_image_tokens(quantized):
    report = json.loads((quantized / "int4_awq" / "visq_report.json").read_text())
    assert report["calibration"]["samples"] == 128
    text, image = report["calibration"]["text_tokens"], report["calibration"]["image_tokens"]
    assert text > 1000 and image > 1000
    for group in report["groups"]:
        assert (group["text_tokens"], group["image_tokens"]) == (text, image)
        assert group["relative_output_error"] <= group["relative_output_error_without_smoothing"]


@pytest.fixture(scope="module")
def few(visq, demo, tmp_path_factory):
    """All five formats from a quarter of the samples, and the options that say so."""
    options = ("--calib", demo / "calibration.jsonl", "--samples", 32)
    out = tmp_path_factory.mktemp("few")
    visq("quantize", demo / "model", "--format", ",".join(FORMATS), *options, "--out", out)
    return out, options


def test_one_format_alone_gives_the_same_bytes_as_among_others(visq, demo, few, tmp_path):
    visq("quantize", demo / "model", "--format", "int8_sq", *few[1], "--out", tmp_path / "one")
    assert digest(tmp_path / "one") == digest(few[0] / "int8_sq")


@pytest.mark.parametrize("threads", [1, 3, 5])
def test_bytes_do_not_depend_on_the_number_of_threads(visq, demo, few, tmp_path, threads):
    visq("quantize", demo / "model", "--format", ",".join(FORMATS), *few[1], "--out", tmp_path / "out", "--threads", threads)
    for format in FORMATS:
        assert digest(tmp_path / "out" / format) == digest(few[0] / format), format


def test_dry_run_prints_the_plan_and_writes_nothing(visq, demo, tmp_path):
    result = visq("quantize", demo / "model", "--format", "nvfp4", "--calib", demo / "calibration.jsonl", "--out",
                  tmp_path / "out", "--dry-run")
    assert "nvfp4" in result.stdout and "read by vllm, sglang" in result.stdout
    assert not (tmp_path / "out").exists()


def test_planned_size_is_the_size(visq, demo, quantized):
    for format in FORMATS:
        result = visq.json("inspect", quantized / format)
        report = json.loads((quantized / format / "visq_report.json").read_text())
        assert result["bytes"] == report["output_bytes"]


def test_parts_can_be_left_out(visq, demo, tmp_path):
    visq("quantize", demo / "model", "--format", "fp8", "--calib", demo / "calibration.jsonl", "--out", tmp_path / "out",
         "--samples", 16, "--skip", "*layers.1.mlp*", "--layout", "modelopt")
    visq.check([tmp_path / "out"], "--source", demo / "model")
    assert "language_model.model.layers.1.mlp.up_proj.weight_scale" not in tensors(tmp_path / "out")


def test_modelopt_layout_of_the_integer_formats(visq, demo, tmp_path):
    visq("quantize", demo / "model", "--format", "int4_awq,int8_sq", "--calib", demo / "calibration.jsonl", "--out",
         tmp_path / "out", "--samples", 16, "--layout", "modelopt")
    visq.check([tmp_path / "out" / format for format in ("int4_awq", "int8_sq")], "--source", demo / "model")


def test_weights_alone_are_rounded_without_data(visq, demo, tmp_path):
    visq("quantize", demo / "model", "--format", "int4_awq_lite", "--calib", "none", "--kv-cache", "none", "--out", tmp_path / "out")
    source, output = tensors(demo / "model"), tensors(tmp_path / "out")
    norm = "language_model.model.layers.0.input_layernorm.weight"
    assert output[norm] == source[norm]
    report = json.loads((tmp_path / "out" / "visq_report.json").read_text())
    assert {group["note"] for group in report["groups"]} == {"not smoothed: no calibration data"}


def test_shards_are_split_and_indexed(visq, demo, tmp_path):
    visq("quantize", demo / "model", "--format", "fp8", "--calib", demo / "calibration.jsonl", "--out", tmp_path / "out",
         "--samples", 16, "--max-shard-size", "2000000")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    found = tensors(tmp_path / "out")
    assert set(index["weight_map"]) == set(found)
    assert index["metadata"]["total_size"] == sum(len(data) for _, _, data in found.values())
    assert visq.json("check", tmp_path / "out", "--source", demo / "model")["passed"]


def test_eval_compares_formats_with_the_original(visq, demo, quantized):
    rows = visq.json("eval", quantized / "fp8", quantized / "int4_awq", "--against", demo / "model", "--data",
                     demo / "questions.jsonl", "--samples", "60")
    original, fp8, int4 = rows
    assert original["format"] == "original" and original["accuracy"] >= 0.9
    assert 0 < fp8["mean_kl"] < int4["mean_kl"] < 0.5
    assert fp8["top1_agreement"] > 0.95
    assert fp8["accuracy"] >= 0.85
    assert fp8["bytes"] < original["bytes"]


def test_generate_answers_a_question_about_a_picture(visq, demo, quantized):
    for line in (demo / "questions.jsonl").read_text().splitlines():
        sample = json.loads(line)
        content = sample["messages"][0]["content"]
        if sample["category"] == "shape":
            break
    image = demo / next(part["image"] for part in content if part["type"] == "image")
    question = next(part["text"] for part in content if part["type"] == "text")
    result = visq("generate", quantized / "fp8", question, "--image", image)
    assert result.stdout.strip() == sample["messages"][-1]["content"]
