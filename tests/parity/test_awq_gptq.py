"""AutoAWQ's and GPTQ's layouts in transformers, through gptqmodel on a CPU: it loads our outputs and gives our logits."""
import json
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor

import forward_models as toy
import llama4_model
import mllama_model
from engine_checkpoints import publish, sparse_throughout
from test_forward import KINDS, difference, encode, run_probe

ROOT = Path(__file__).parents[2]

MADE = {**KINDS, "mllama": (mllama_model.make,), "llama4": (llama4_model.make, True, llama4_model.SCOUT)}
FAMILIES = ["llava-llama-clip", "llava-pixtral", "llava_next-mistral", "llava_onevision", "internvl-rms", "mistral3",
            "lighton_ocr", "phi4_multimodal", "idefics3", "qwen2_vl",
            "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "gemma3", "paligemma-gemma2", "smolvlm", "mllama", "llama4"]  # fmt: skip
CASES = [(family, "autoawq", "w4a16") for family in FAMILIES] + [(family, "gptq", "w4a16") for family in FAMILIES]
CASES += [("llava-llama-clip", "autoawq", "w4a16_asym"), ("llava-llama-clip", "gptq", "w4a16_asym"), ("qwen2_5_vl", "gptq", "int8_wo")]
EXPORTS = ["GPTQ", "GPTQ-asym", "GPTQ-8bit", "GPTQ-v2", "GPTQ-order", "GPTQ-mixed", "AWQ", "AWQ-sym"]
TOLERANCE = 2**-7  # of the largest logit: the kernels multiply in bfloat16


def distance(computed, expected):
    """What three of four tokens keep within, relative to the largest logit. For what gptqmodel's own loader reads: it computes in
    bfloat16 throughout, and where two experts of a mixture are close, that chooses the other, which moves a few tokens far."""
    return ((computed - expected).abs().amax(-1) / expected.abs().max()).quantile(0.75).item()


@pytest.fixture(scope="module")
def transformers(tmp_path_factory):
    """tests/engines/transformers_loader.py, asked one question after another."""
    log = tmp_path_factory.mktemp("transformers") / "log"
    command = [ROOT / ".venv-engines" / "bin" / "python", ROOT / "tests" / "engines" / "transformers_loader.py"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("w"), text=True)

    def logits_of(directory, inputs, folder, by_gptqmodel=False):
        torch.save(inputs, folder / "inputs.pt")
        question = {"directory": str(directory), "inputs": str(folder / "inputs.pt"), "logits": str(folder / "logits.pt"),
                    "by_gptqmodel": by_gptqmodel}  # fmt: skip
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, f"the loader ended: {log.read_text()[-2000:]}"
        answer = json.loads(line)
        assert not answer["error"], log.read_text()[-3000:]
        return torch.load(folder / "logits.pt"), answer["layers"]

    yield logits_of
    process.stdin.close()
    process.wait()


@pytest.mark.parametrize("family, layout, format", CASES, ids=["-".join(case) for case in CASES])
def test_transformers_loads_it_and_gives_our_logits(family, layout, format, samples, probe, transformers, tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "WIDE", True)
    monkeypatch.setattr(toy, "Qwen3VLMoeConfig", sparse_throughout)  # gptqmodel knows no others
    data, conversations = samples
    make, *arguments = MADE[family]
    source = publish(toy.save(tmp_path / "source", make(*arguments), "A"))
    out = tmp_path / "out"
    subprocess.run([probe("forward").parent / "visq", "-q", "quantize", source, "-f", format, "--layout", layout, "-o", out], check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    computed, _ = run_probe(probe("forward"), out, data, tmp_path / "ours.safetensors", "fp32")
    plain, _ = run_probe(probe("forward"), source, data, tmp_path / "plain.safetensors", "fp32")

    processor = AutoProcessor.from_pretrained(source)
    # PaliGemma's refuses texts without an image.
    asked = [index for index in range(len(conversations)) if index > 0 or not family.startswith("paligemma")]
    inputs = [{name: tensor.float() if tensor.is_floating_point() else tensor
               for name, tensor in encode(processor, conversations[index], data.parent).items()} for index in asked]  # fmt: skip
    logits, layers = transformers(out, inputs, tmp_path)
    assert layers
    far, tolerance = (distance, 3 * TOLERANCE) if family in ("qwen3_vl_moe", "llama4") else (difference, TOLERANCE)
    for index, theirs in zip(asked, logits):
        assert far(computed[f"logits.{index}"], theirs) <= tolerance
        assert far(plain[f"logits.{index}"], theirs) > 2 * tolerance


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """What gptqmodel itself makes of a checkpoint, in every way that visq reads."""
    folder = tmp_path_factory.mktemp("gptqmodel")
    toy.WIDE = True
    try:
        source = toy.save(folder / "source", toy.make_llava("llama", "clip"), "A")
    finally:
        toy.WIDE = False
    command = [ROOT / ".venv-engines" / "bin" / "python", ROOT / "tests" / "engines" / "gptqmodel_export.py"]
    result = subprocess.run([*command, source, folder, *EXPORTS], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    return folder


@pytest.mark.parametrize("name", EXPORTS)
def test_its_own_exports_have_the_logits_that_transformers_computes(name, exports, samples, probe, transformers, tmp_path):
    data, conversations = samples
    computed, _ = run_probe(probe("forward"), exports / name, data, tmp_path / "ours.safetensors", "fp32")
    plain, _ = run_probe(probe("forward"), exports / "source", data, tmp_path / "plain.safetensors", "fp32")
    processor = AutoProcessor.from_pretrained(exports / "source")
    inputs = [dict(encode(processor, one, data.parent)) for one in conversations]
    # Its AWQ exports do not say what is not quantized, and transformers takes everything for quantized; nor does that know settings for
    # some linears.
    by_gptqmodel = name.startswith("AWQ") or name == "GPTQ-mixed"
    logits, layers = transformers(exports / name, inputs, tmp_path, by_gptqmodel)
    assert layers
    far, tolerance = (distance, 3 * TOLERANCE) if by_gptqmodel else (difference, TOLERANCE)
    for index, theirs in enumerate(logits):
        assert far(computed[f"logits.{index}"], theirs) <= tolerance
        assert far(plain[f"logits.{index}"], theirs) > 2 * tolerance
