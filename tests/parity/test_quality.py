"""Quality against ModelOpt on the same model and the same calibration samples."""
import json
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file

from modelopt_reference import DEMO, Demo, answer_log_probabilities, mean_kl, modelopt_quantize, samples

QUESTIONS = 120


@pytest.fixture(scope="module")
def demo():
    return Demo()


@pytest.fixture(scope="module")
def questions(demo):
    return [demo.encode(sample) for sample in samples("questions.jsonl", QUESTIONS)]


@pytest.fixture(scope="module")
def calibration(demo):
    return [demo.encode(sample) for sample in samples("calibration.jsonl")]


@pytest.fixture(scope="module")
def original(demo, questions):
    return answer_log_probabilities(demo.model(), questions)


@pytest.fixture(scope="module")
def visq(probe):
    path = probe("solver").parent / "visq"

    def run(*arguments):
        result = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


@pytest.fixture(scope="module")
def ours(visq, tmp_path_factory):
    """Mean KL of every format, as `visq eval` reports it."""
    out = tmp_path_factory.mktemp("ours")
    formats = ["fp8", "int8_sq", "int4_awq", "w4a8_awq", "nvfp4"]
    visq("quantize", DEMO / "model", "--format", ",".join(formats), "--calib", DEMO / "calibration.jsonl", "--kv-cache",
         "none", "--out", out, "--force")
    rows = json.loads(visq("eval", *[out / f for f in formats], "--against", DEMO / "model", "--data",
                           DEMO / "questions.jsonl", "--samples", QUESTIONS, "--json"))
    return {row["format"]: row["mean_kl"] for row in rows[1:]}


@pytest.mark.parametrize("format", ["fp8", "int8_sq", "int4_awq", "w4a8_awq"])
def test_kl_is_no_worse_than_modelopts_simulation(demo, questions, calibration, original, ours, format):
    model = modelopt_quantize(demo.model(), format, calibration)
    theirs = mean_kl(original, answer_log_probabilities(model, questions))
    print(f"\n{format}: mean KL {ours[format]:.3e} (visq), {theirs:.3e} (ModelOpt)")
    assert ours[format] <= theirs


def test_nvfp4_kl_is_no_worse_than_modelopts_export(demo, calibration, ours, visq, tmp_path):
    """ModelOpt cannot simulate NVFP4 on a CPU, so its export is dequantized by `visq eval`."""
    from modelopt.torch.export import export_hf_checkpoint

    model = modelopt_quantize(demo.model(torch.bfloat16), "nvfp4",
                              [({k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}, n)
                               for inputs, n in calibration])
    export_hf_checkpoint(model, export_dir=tmp_path / "theirs")
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (tmp_path / "theirs" / name).write_bytes((DEMO / "model" / name).read_bytes())
    rows = json.loads(visq("eval", tmp_path / "theirs", "--against", DEMO / "model", "--data", DEMO / "questions.jsonl",
                           "--samples", QUESTIONS, "--json"))
    theirs = rows[1]["mean_kl"]
    print(f"\nnvfp4: mean KL {ours['nvfp4']:.3e} (visq), {theirs:.3e} (ModelOpt)")
    assert ours["nvfp4"] <= theirs


def test_kl_of_visq_eval_is_what_transformers_computes(demo, questions, original, visq, tmp_path):
    """An original against itself: zero; and its perplexity as transformers has it."""
    rows = json.loads(visq("eval", DEMO / "model", "--against", DEMO / "model", "--data", DEMO / "questions.jsonl",
                           "--samples", QUESTIONS, "--json"))
    assert rows[1]["mean_kl"] == pytest.approx(0, abs=1e-9)
    targets = torch.cat([inputs["input_ids"][0, length:] for inputs, length in questions])
    likelihood = original.gather(1, targets[:, None]).mean()
    assert rows[0]["perplexity"] == pytest.approx(float(torch.exp(-likelihood)), rel=1e-4)
    assert rows[0]["answer_tokens"] == len(targets)


@pytest.mark.parametrize("seed", range(4))
def test_awq_chooses_modelopts_alpha(probe, tmp_path, seed):
    import modelopt.torch.quantization as mtq

    torch.manual_seed(seed)
    x = torch.randn(200, 256)
    x[:, torch.randint(256, (6,))] *= 10 ** (1 + seed / 4)
    linear = torch.nn.Linear(256, 192, bias=False)
    linear.weight.data = torch.randn(192, 256) * 0.05
    save_file({"weight": linear.weight.data.clone(), "x": x}, tmp_path / "in.safetensors")
    model = torch.nn.Sequential(linear)
    config = json.loads(json.dumps(mtq.INT4_AWQ_CFG, default=lambda o: o if not hasattr(o, "model_dump") else o.model_dump()))
    config["algorithm"] = {"method": "awq_lite", "alpha_step": 0.1, "debug": True}
    mtq.quantize(model, config, lambda m: m(x))
    theirs = model[0].awq_lite
    subprocess.run([probe("solver"), tmp_path / "in.safetensors", tmp_path / "out.safetensors"], check=True)
    ours = load_file(tmp_path / "out.safetensors")
    assert float(ours["alpha"]) == pytest.approx(float(theirs.best_alpha), abs=1e-6)
    losses = torch.tensor([float(v) for v in theirs.loss.values()], dtype=torch.float64) * x.shape[0] * 192
    assert torch.allclose(ours["losses"], losses, rtol=1e-3)
