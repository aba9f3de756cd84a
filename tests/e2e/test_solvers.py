"""Presets that differ in their solvers: what they write, how good it is, and that it is always the same."""
import json

import pytest

SOLVED = ["int4_awq_full", "int4_gptq", "int4_awq_gptq", "nvfp4_mse", "nvfp4_local_hessian", "nvfp4_four_over_six",
          "nvfp4_awq", "nvfp4_gptq", "nvfp4_awq_gptq"]
PLAIN = ["w4a16", "int4_awq", "nvfp4"]
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
        plain = "nvfp4" if format.startswith("nvfp4") else "int4_awq"
        ours, theirs = (json.loads((solved / name / "config.json").read_text()) for name in (format, plain))
        assert ours["quantization_config"].pop("producer") != theirs["quantization_config"].pop("producer")
        assert ours == theirs


def test_each_solver_lowers_the_divergence(visq, demo, solved):
    names = [name for name in SOLVED + PLAIN if name not in UNLIKE_BY_CHANCE]
    rows = visq.json("eval", *(solved / name for name in names), "--against", demo / "model", "--data",
                     demo / "questions.jsonl", "--samples", 100)
    kl = {row["format"]: row["mean_kl"] for row in rows if "mean_kl" in row}
    for format in ("int4_awq", "int4_awq_full", "int4_gptq", "int4_awq_gptq"):
        assert kl[format] < 0.1 * kl["w4a16"], kl
    assert kl["int4_awq_gptq"] < kl["int4_gptq"]
    assert kl["nvfp4_awq"] < 0.1 * kl["nvfp4"]
    assert kl["nvfp4_awq_gptq"] < 0.1 * kl["nvfp4"]
    assert kl["nvfp4_gptq"] < kl["nvfp4"]


@pytest.mark.parametrize("format", ["int4_awq_full", "int4_gptq", "int4_awq_gptq"])
def test_what_looks_at_the_inputs_needs_data(visq, demo, tmp_path, format):
    result = visq("quantize", demo / "model", "-f", format, "--calib", "none", "--kv-cache", "none", "-o", tmp_path / "out",
                  check=False)
    assert result.returncode == 2
    assert f"--format {format}: " in result.stderr and "needs calibration data; give --calib FILE" in result.stderr
    assert not (tmp_path / "out").exists()


def test_bytes_do_not_depend_on_the_number_of_threads(visq, demo, solved, tmp_path):
    visq("quantize", demo / "model", "-f", "int4_awq_gptq,nvfp4_gptq", "--calib", demo / "calibration.jsonl",
         "--samples", 64, "--kv-cache", "none", "-o", tmp_path, "--threads", 3)
    for format in ("int4_awq_gptq", "nvfp4_gptq"):
        name = "model.safetensors"
        assert (tmp_path / format / name).read_bytes() == (solved / format / name).read_bytes()
