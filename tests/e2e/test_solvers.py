"""Presets that differ in their solvers: what they write, how good it is, and that it is always the same."""
import json

import pytest

SOLVED = ["int4_awq", "int4_awq_full", "int4_gptq", "nvfp4", "nvfp4_mse", "nvfp4_local_hessian", "nvfp4_four_over_six",
          "nvfp4_gptq", "nvfp4_awq_gptq"]
PLAIN = ["w4a16", "int4_awq_lite", "nvfp4_max"]
# The error of the inputs is larger than what these change: docs/solvers.md has their spread.
UNLIKE_BY_CHANCE = ["nvfp4_mse", "nvfp4_local_hessian", "nvfp4_four_over_six"]


@pytest.fixture(scope="module")
def solved(visq, demo, tmp_path_factory):
    out = tmp_path_factory.mktemp("solved")
    visq("quantize", demo / "model", "-f", ",".join(SOLVED + PLAIN), "--calib", demo / "calibration.jsonl",
         "--samples", 64, "--kv-cache", "none", "-o", out)
    return out


def test_every_engine_rule_holds(visq, demo, solved):
    for report in visq.check([solved / format for format in SOLVED], "--source", demo / "model"):
        assert report["engines"]
    for format in SOLVED:
        assert visq.json("inspect", solved / format)["quantization"]["format"] == format


def test_configurations_are_those_of_the_plain_format(solved):
    for format in SOLVED:
        plain = "nvfp4_max" if format.startswith("nvfp4") else "int4_awq_lite"
        ours, theirs = (json.loads((solved / name / "config.json").read_text()) for name in (format, plain))
        assert ours["quantization_config"].pop("producer") != theirs["quantization_config"].pop("producer")
        assert ours == theirs


def test_each_solver_lowers_the_divergence(visq, demo, solved):
    names = [name for name in SOLVED + PLAIN if name not in UNLIKE_BY_CHANCE]
    rows = visq.json("eval", *(solved / name for name in names), "--against", demo / "model", "--data",
                     demo / "questions.jsonl", "--samples", 100)
    kl = {row["format"]: row["mean_kl"] for row in rows if "mean_kl" in row}
    for format in ("int4_awq_lite", "int4_awq_full", "int4_gptq", "int4_awq"):
        assert kl[format] < 0.1 * kl["w4a16"], kl
    assert kl["int4_awq"] < kl["int4_gptq"]
    assert kl["nvfp4"] < 0.1 * kl["nvfp4_max"]
    assert kl["nvfp4_awq_gptq"] < 0.1 * kl["nvfp4_max"]
    assert kl["nvfp4_gptq"] < kl["nvfp4_max"]


@pytest.mark.parametrize("format", ["int4_awq", "int4_awq_full", "int4_gptq"])
def test_what_looks_at_the_inputs_needs_data(visq, demo, tmp_path, format):
    result = visq("quantize", demo / "model", "-f", format, "--calib", "none", "--kv-cache", "none", "-o", tmp_path / "out",
                  check=False)
    assert result.returncode == 2
    assert f"--format {format}: " in result.stderr and "needs calibration data; give --calib FILE" in result.stderr
    assert not (tmp_path / "out").exists()


def test_bytes_do_not_depend_on_the_number_of_threads(visq, demo, solved, tmp_path):
    visq("quantize", demo / "model", "-f", "int4_awq,nvfp4_gptq", "--calib", demo / "calibration.jsonl",
         "--samples", 64, "--kv-cache", "none", "-o", tmp_path, "--threads", 3)
    for format in ("int4_awq", "nvfp4_gptq"):
        name = "model.safetensors"
        assert (tmp_path / format / name).read_bytes() == (solved / format / name).read_bytes()


def test_the_report_says_what_held_out_samples_showed(solved):
    for format in ("int4_awq", "nvfp4", "nvfp4_mse"):
        groups = json.loads((solved / format / "visq_report.json").read_text())["groups"]
        for group in groups:
            held_out = group["held_out"]
            assert 0 < held_out["relative_output_error"] <= held_out["without_solvers"], group
            assert set(group.get("undone", [])) <= {"awq", "gptq", "mse"}
    plain = json.loads((solved / "nvfp4_max" / "visq_report.json").read_text())["groups"]
    assert not any("held_out" in group for group in plain)


@pytest.fixture(scope="module")
def statistics(visq, demo, tmp_path_factory):
    out = tmp_path_factory.mktemp("statistics") / "stats"
    visq("calibrate", demo / "model", "--calib", demo / "calibration.jsonl", "--samples", 64, "-o", out)
    return out


def test_modalities_are_weighed(visq, demo, statistics, tmp_path):
    def quantize(name, *options):
        visq("quantize", demo / "model", "-f", "int4_awq_lite", "--kv-cache", "none", "-o", tmp_path / name, *options)
        return json.loads((tmp_path / name / "visq_report.json").read_text())["groups"]

    sensitivity = json.loads((statistics / "statistics.json").read_text())["modality_sensitivity"]
    assert sensitivity["text"] > 0 and sensitivity["image"] > 0
    weights = [group["image_weight"] for group in quantize("stats", "--stats", statistics, "--modality-weight", "auto")]
    assert len(set(weights)) > 1 and all(weight > 0 for weight in weights)
    quantize("calib", "--calib", demo / "calibration.jsonl", "--samples", 64, "--modality-weight", "auto", "--save-recipe",
             tmp_path / "auto.yaml")
    assert "modality_weight: auto" in (tmp_path / "auto.yaml").read_text()
    assert (tmp_path / "calib/model.safetensors").read_bytes() == (tmp_path / "stats/model.safetensors").read_bytes()
    assert {group["image_weight"] for group in quantize("fixed", "--stats", statistics, "--modality-weight", "0.25")} == {0.25}


def test_one_image_among_many_texts_tells_of_its_modality(visq, demo, tmp_path):
    """However few samples have images, those that the modalities are compared on are of them."""
    turn = {"role": "user", "content": [{"type": "image", "image": "image.png"}, {"type": "text", "text": "What is it?"}]}
    text = {"role": "user", "content": [{"type": "text", "text": "What is red?"}]}
    answer = {"role": "assistant", "content": "a circle"}
    samples = [{"messages": [turn if i == 2 else text, answer]} for i in range(60)]
    (tmp_path / "image.png").write_bytes((demo / "images/c0001.png").read_bytes())
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    visq("calibrate", demo / "model", "--calib", tmp_path / "samples.jsonl", "--no-gram", "-o", tmp_path / "out")
    sensitivity = json.loads((tmp_path / "out/statistics.json").read_text())["modality_sensitivity"]
    assert sensitivity["text"] > 0 and sensitivity["image"] > 0


def test_a_modality_weight_needs_samples_that_tell(visq, demo, tmp_path):
    sample = {"messages": [{"role": "user", "content": [{"type": "image", "image": "images/q0001.png"}]}]}
    (tmp_path / "images").mkdir()
    (tmp_path / "images/q0001.png").write_bytes((demo / "images/q0001.png").read_bytes())
    (tmp_path / "silent.jsonl").write_text(json.dumps(sample) + "\n")
    for value, expected in (("auto", "silent.jsonl: no sample of at most 2048 tokens has an image and an answer"), ("-1", "'-1' is neither auto nor"),
                            ("much", "'much' is neither auto nor")):
        result = visq("quantize", demo / "model", "-f", "int4_awq_lite", "--calib", tmp_path / "silent.jsonl", "--modality-weight",
                      value, "-o", tmp_path / "out", check=False)
        assert result.returncode == 2 and expected in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert not (tmp_path / "out").exists()
