"""Values and output projections that are rotated offline: a recipe of the user's own."""
import json

import pytest


@pytest.fixture(scope="module")
def rotated(visq, demo, tmp_path_factory):
    out = tmp_path_factory.mktemp("rotation")
    (out / "turned.yaml").write_text("rules: [{scheme: nf4, rotation: hadamard}]\n")
    visq("quantize", demo / "model", "-f", f"nf4,{out}/turned.yaml", "-o", out)
    return out


def test_it_is_checked_and_answers_as_well(visq, demo, rotated):
    report = visq.json("check", rotated / "turned", "--source", demo / "model")
    assert report["passed"], [rule for rule in report["rules"] if rule["violations"]]
    producer = json.loads((rotated / "turned/config.json").read_text())["quantization_config"]["producer"]
    assert producer["rotation"] == "hadamard"
    rows = visq.json("eval", rotated / "turned", rotated / "nf4", "--against", demo / "model", "--data", demo / "questions.jsonl",
                     "--samples", 60)
    turned, plain = (row["mean_kl"] for row in rows[1:])
    assert 0 < turned < plain and (rotated / "turned/model.safetensors").read_bytes() != (rotated / "nf4/model.safetensors").read_bytes()


def test_what_calibration_cannot_see_is_refused(visq, demo, rotated, tmp_path):
    result = visq("quantize", demo / "model", "-f", rotated / "turned.yaml", "--kv-cache", "fp8_attn_head", "--calib",
                  demo / "calibration.jsonl", "-o", tmp_path / "out", "--layout", "compressed-tensors", check=False)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    result = visq("quantize", demo / "model", "-f", rotated / "turned.yaml", "--kv-cache", "fp8", "--calib", demo / "calibration.jsonl",
                  "-o", tmp_path / "out", "--layout", "modelopt", check=False)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    (tmp_path / "int4.yaml").write_text("rules: [{scheme: w4a16, rotation: hadamard}]\n")
    result = visq("quantize", demo / "model", "-f", tmp_path / "int4.yaml", "--calib", demo / "calibration.jsonl", "-o", tmp_path / "out",
                  check=False)
    assert result.returncode == 2 and "calibration does not see rotated values (rotation: hadamard); say --kv-cache none" in result.stderr
    assert not (tmp_path / "out").exists()
