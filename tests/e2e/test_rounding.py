"""GPTQ and scale searches under every codec that they know, through recipes of the user's own."""
import json

import pytest

RULES = {
    "int4_asym": "{weight: int4_asym, scales: output_error, rounding: gptq}",
    "int4_asym_mse": "{weight: int4_asym, scales: mse}",
    "nf4": "{weight: nf4, rounding: gptq}",
    "int8": "{weight: int8, scales: output_error, rounding: gptq}",
    "fp8": "{weight: fp8, input: fp8, rounding: gptq}",
    "fp8_rows": "{weight: fp8_rows, input: fp8_tokens, rounding: gptq}",
    "fp8_blocks": "{weight: fp8_blocks, rounding: gptq}",
}
PLAIN = {"int4_asym": "w4a16_asym", "nf4": "nf4", "int8": "int8_wo", "fp8_blocks": "fp8_pb_wo"}


@pytest.fixture(scope="module")
def solved(visq, demo, tmp_path_factory):
    out = tmp_path_factory.mktemp("rounding")
    for name, rule in RULES.items():
        (out / f"solved_{name}.yaml").write_text(f"rules: [{rule}]\n")
    files = [str(out / f"solved_{name}.yaml") for name in RULES]
    visq("quantize", demo / "model", "-f", ",".join(files + list(PLAIN.values())), "--calib", demo / "calibration.jsonl",
         "--samples", 64, "--kv-cache", "none", "-o", out)  # fmt: skip
    return out


@pytest.mark.parametrize("name", RULES)
def test_every_rule_of_the_engines_holds(visq, demo, solved, name):
    for options in (["--source", demo / "model"], []):
        report = visq.json("check", solved / f"solved_{name}", *options)
        assert report["passed"], [rule for rule in report["rules"] if rule["violations"]]
        assert report["engines"]


@pytest.mark.parametrize("name", ["int4_asym", "nf4"])  # 8 bits lose too little for the divergence to tell
def test_gptq_lowers_the_divergence(visq, demo, solved, name):
    rows = visq.json("eval", solved / f"solved_{name}", solved / PLAIN[name], "--against", demo / "model", "--data",
                     demo / "questions.jsonl", "--samples", 60)  # fmt: skip
    gptq, plain = (row["mean_kl"] for row in rows[1:])
    assert gptq < 0.1 * plain


def test_shapes_are_those_of_the_plain_format(solved):
    for name, plain in PLAIN.items():
        ours, theirs = (json.loads((solved / folder / "config.json").read_text()) for folder in (f"solved_{name}", plain))
        assert ours["quantization_config"].pop("producer") != theirs["quantization_config"].pop("producer", None)
        assert ours == theirs


@pytest.mark.parametrize("rule, line", [("{weight: nf4, scales: output_error}", "scales: those of nf4 are not searched"),
                                        ("{weight: fp8_rows, scales: mse}", "scales: those of fp8_rows are not searched"),
                                        ("{weight: mxfp4, rounding: gptq}", "rounding: gptq does not know mxfp4")])
def test_what_is_not_known_is_refused_with_its_line(visq, demo, tmp_path, rule, line):
    (tmp_path / "bad.yaml").write_text(f"rules:\n  - {rule}\n")
    result = visq("quantize", demo / "model", "-f", tmp_path / "bad.yaml", "--calib", demo / "calibration.jsonl", "-o", tmp_path / "out",
                  check=False)
    assert result.returncode == 2 and f"bad.yaml:2: {line}" in result.stderr
