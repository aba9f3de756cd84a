"""nf4 against bitsandbytes: its codes, its scales of scales, and its reading of our files."""
import subprocess

import bitsandbytes.functional as bnb
import pytest
import torch
from safetensors import safe_open

from modelopt_reference import DEMO, Demo, samples
from test_codecs import BF16, pack, weights  # noqa: F401


def matrices():
    generator = torch.Generator().manual_seed(4)
    large = torch.randn(96, 1024, generator=generator) * 0.02  # 1536 scales: six blocks of them
    ragged = torch.randn(6, 128 * 25, generator=generator)  # 300 scales
    chosen = {name: weights()[name] for name in ("gauss", "student", "outliers", "holes", "ties")}
    return chosen | {"large": large, "large_bf16": large.to(BF16), "ragged": ragged, "half": large.half()}


NAMES = list(matrices())


@pytest.fixture(scope="module")
def ours(pack):  # noqa: F811
    return pack(matrices())


def theirs(name):
    return bnb.quantize_4bit(matrices()[name], blocksize=64, compress_statistics=True, quant_type="nf4")


def test_levels_are_the_same(ours):
    state = theirs("gauss")[1]
    assert torch.equal(ours["nf4_levels"], state.code)
    assert torch.equal(ours["nf4_scale_levels"], state.state2.code)


@pytest.mark.parametrize("name", NAMES)
def test_codes_and_scales_are_the_same(ours, name):
    codes, state = theirs(name)
    assert torch.equal(ours[f"{name}.nf4.codes"].flatten(), codes.flatten())
    # The mean of the scales is added up in another order: a last bit, after which a scale may be nearer to the next level.
    mean = ours[f"{name}.nf4.mean"]
    assert torch.isclose(mean, state.offset, rtol=1e-6)
    assert torch.allclose(ours[f"{name}.nf4.scale_2"], state.state2.absmax, rtol=1e-4)
    differ = ours[f"{name}.nf4.scale"].flatten().int() - state.absmax.flatten().int()
    assert differ.abs().max() <= 1 and (differ != 0).float().mean() < 0.02
    if torch.equal(mean, state.offset):
        assert torch.equal(ours[f"{name}.nf4.scale_2"], state.state2.absmax)


@pytest.mark.parametrize("name", NAMES)
def test_values_are_what_bitsandbytes_reads(ours, name):
    weight = matrices()[name]
    nested = bnb.QuantState(absmax=ours[f"{name}.nf4.scale_2"], code=ours["nf4_scale_levels"], blocksize=256, dtype=torch.float32)
    state = bnb.QuantState(absmax=ours[f"{name}.nf4.scale"].flatten(), shape=weight.shape, code=ours["nf4_levels"], blocksize=64,
                           quant_type="nf4", dtype=torch.float32, offset=ours[f"{name}.nf4.mean"], state2=nested)  # fmt: skip
    read = bnb.dequantize_4bit(ours[f"{name}.nf4.codes"].view(-1, 1), state)
    assert torch.allclose(ours[f"{name}.nf4.deq"], read, rtol=1e-6, atol=0)


@pytest.fixture(scope="module")
def quantized(probe, tmp_path_factory):
    out = tmp_path_factory.mktemp("nf4") / "out"
    subprocess.run([probe("codec").parent / "visq", "-q", "quantize", DEMO / "model", "--format", "nf4", "--out", out], check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    return out


def test_files_are_read_by_bitsandbytes(quantized):
    with safe_open(quantized / "model.safetensors", "pt") as out, safe_open(DEMO / "model" / "model.safetensors", "pt") as source:
        modules = sorted(name[: -len(".weight.absmax")] for name in out.keys() if name.endswith(".weight.absmax"))
        assert len(modules) == 35
        for module in modules:
            stats = {name[len(module) + len(".weight.") :]: out.get_tensor(name) for name in out.keys() if name.startswith(module + ".weight.")}
            state = bnb.QuantState.from_dict(stats, device=torch.device("cpu"))
            weight = source.get_tensor(module + ".weight")
            assert state.shape == weight.shape and state.dtype == weight.dtype and state.nested
            values = bnb.dequantize_4bit(out.get_tensor(module + ".weight"), state).float()
            assert (values - weight.float()).norm() < 0.11 * weight.float().norm()


def test_the_output_answers_in_transformers(quantized):
    demo = Demo(quantized)
    model = demo.model(BF16)
    linears = [module for module in model.modules() if type(module).__name__ == "Linear4bit"]
    assert len(linears) == 35
    right = 0
    for sample in samples("questions.jsonl", 12):
        inputs, length = demo.encode(sample, with_answer=False)
        inputs = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
        with torch.no_grad():
            output = model.generate(**inputs, do_sample=False, max_new_tokens=16)
        right += demo.processor.tokenizer.decode(output[0, length:], skip_special_tokens=True).strip() == sample["messages"][-1]["content"]
    assert right >= 10
