"""Quality against ModelOpt on the same model and the same calibration samples."""
import copy
import json
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file

from modelopt_reference import DEMO, Demo, answer_log_probabilities, kl_per_question, modelopt_quantize, samples

QUESTIONS = 100
CALIBRATION = 16  # what ModelOpt takes nearly a second each for


def assert_no_worse(ours, theirs, format):
    """Nearly all answers keep a KL near zero and a few carry the mean, which moves severalfold when an input scale changes by a
    thousandth. So the means are compared question by question, with two standard errors of room."""
    difference = ours - theirs
    error = float(difference.std() / len(difference) ** 0.5)
    print(f"\n{format}: mean KL {float(ours.mean()):.3e} (visq), {float(theirs.mean()):.3e} (ModelOpt), "
          f"difference {float(difference.mean()):.1e} ± {error:.1e}")
    assert float(difference.mean()) <= 2 * error


@pytest.fixture(scope="module")
def demo():
    return Demo()


@pytest.fixture(scope="module")
def questions(demo):
    return [demo.encode(sample) for sample in samples("questions.jsonl", QUESTIONS)]


@pytest.fixture(scope="module")
def calibration(demo):
    return [demo.encode(sample) for sample in samples("calibration.jsonl", CALIBRATION)]


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
def rows(visq, tmp_path_factory):
    """What `visq eval` reports: of the original, of every format, and of the original as if it were one."""
    out = tmp_path_factory.mktemp("ours")
    formats = ["fp8", "int8_sq", "int4_awq", "w4a8_awq", "nvfp4"]
    visq("quantize", DEMO / "model", "--format", ",".join(formats), "--calib", DEMO / "calibration.jsonl", "--samples",
         CALIBRATION, "--kv-cache", "none", "--out", out, "--force")
    return json.loads(visq("eval", *[out / f for f in formats], DEMO / "model", "--against", DEMO / "model", "--data",
                           DEMO / "questions.jsonl", "--samples", QUESTIONS, "--json", "--show", 1))


@pytest.fixture(scope="module")
def ours(rows):
    """KL of every format and question."""
    return {row["format"]: torch.tensor(row["kl"], dtype=torch.float64) for row in rows[1:]}


@pytest.mark.parametrize("format", ["fp8", "int8_sq", "int4_awq", "w4a8_awq"])
def test_kl_is_no_worse_than_modelopts_simulation(demo, questions, calibration, original, ours, format):
    model = modelopt_quantize(demo.model(), format, calibration)
    assert_no_worse(ours[format], kl_per_question(original, answer_log_probabilities(model, questions)), format)


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
                           "--samples", QUESTIONS, "--json", "--show", 1))
    assert_no_worse(ours["nvfp4"], torch.tensor(rows[1]["kl"], dtype=torch.float64), "nvfp4")


def test_kl_of_visq_eval_is_what_transformers_computes(questions, original, rows):
    """An original against itself: zero; and its perplexity as transformers has it."""
    assert rows[-1]["format"] == "original" and rows[-1]["mean_kl"] == pytest.approx(0, abs=1e-9)
    targets = torch.cat([inputs["input_ids"][0, length:] for inputs, length in questions])
    likelihood = torch.cat(original).gather(1, targets[:, None]).mean()
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
    config = copy.deepcopy(mtq.INT4_AWQ_CFG)
    config["algorithm"] = {"method": "awq_lite", "alpha_step": 0.1, "debug": True}
    mtq.quantize(model, config, lambda m: m(x))
    theirs = model[0].awq_lite
    subprocess.run([probe("solver"), tmp_path / "in.safetensors", tmp_path / "out.safetensors"], check=True)
    ours = load_file(tmp_path / "out.safetensors")
    assert float(ours["alpha"]) == pytest.approx(float(theirs.best_alpha), abs=1e-6)
    losses = torch.tensor([float(v) for v in theirs.loss.values()], dtype=torch.float64) * x.shape[0] * 192
    assert torch.allclose(ours["losses"], losses, rtol=1e-3)
