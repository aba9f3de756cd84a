"""Outputs load elsewhere: compressed-tensors ones in transformers, all of them by a loader written from the engines' rules."""
import fnmatch
import json
import re
import subprocess

import pytest
import torch
from safetensors import safe_open

from modelopt_reference import DEMO, Demo, samples

FORMATS = ["fp8", "int8_sq", "int4_awq", "w4a8_awq", "nvfp4"]


@pytest.fixture(scope="module")
def quantized(probe, tmp_path_factory):
    out = tmp_path_factory.mktemp("loads")
    subprocess.run([probe("solver").parent / "visq", "-q", "quantize", DEMO / "model", "--format", ",".join(FORMATS), "--calib",
                    DEMO / "calibration.jsonl", "--samples", "48", "--out", out, "--force"], check=True, stdout=subprocess.DEVNULL)
    return out


@pytest.mark.parametrize("format", ["int8_sq", "int4_awq"])
def test_compressed_tensors_outputs_answer_in_transformers(quantized, format):
    demo = Demo(quantized / format)
    model = demo.model(torch.bfloat16)
    right = 0
    for sample in samples("questions.jsonl", 12):
        inputs, length = demo.encode(sample, with_answer=False)
        inputs = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
        with torch.no_grad():
            output = model.generate(**inputs, do_sample=False, max_new_tokens=16)
        answer = demo.processor.tokenizer.decode(output[0, length:], skip_special_tokens=True).strip()
        right += answer == sample["messages"][-1]["content"]
    assert right >= 11


# What an engine expects of a quantized linear [N, K]: suffix -> dtype and shape (spec/export.md §3.4, §5.2).
EXPECTED = {
    "fp8": lambda n, k: {"weight": ("F8_E4M3", [n, k]), "weight_scale": ("F32", []), "input_scale": ("F32", [])},
    "nvfp4": lambda n, k: {"weight": ("U8", [n, k // 2]), "weight_scale": ("F8_E4M3", [n, k // 16]),
                           "weight_scale_2": ("F32", []), "input_scale": ("F32", [])},
    "w4a8_awq": lambda n, k: {"weight": ("U8", [n // 2, k]), "weight_scale": ("F32", [n, k // 128]),
                              "weight_scale_2": ("F32", []), "input_scale": ("F32", [])},
    "int8_sq": lambda n, k: {"weight": ("I8", [n, k]), "weight_scale": ("BF16", [n, 1]), "input_scale": ("BF16", [1])},
    "int4_awq": lambda n, k: {"weight_packed": ("I32", [n, k // 8]), "weight_scale": ("BF16", [n, k // 128]),
                              "weight_shape": ("I64", [2])},
}


def excluded_by_vllm(module, entries):
    for entry in entries:
        if entry.startswith("re:"):
            if re.match(entry[3:], module):
                return True
        elif "*" in entry:
            if fnmatch.fnmatch(module, entry):
                return True
        elif entry in module:
            return True
    return False


@pytest.mark.parametrize("format", FORMATS)
def test_a_loader_of_the_engines_rules_accepts_the_output(quantized, format):
    with safe_open(DEMO / "model" / "model.safetensors", "pt") as source, \
            safe_open(quantized / format / "model.safetensors", "pt") as output:
        linears = {name[: -len(".weight")]: source.get_slice(name).get_shape() for name in source.keys()
                   if name.endswith(".weight") and len(source.get_slice(name).get_shape()) == 2 and "embed" not in name}
        entries = json.loads((quantized / format / "config.json").read_text())["quantization_config"]["ignore"]
        left = set(output.keys())
        loaded = 0
        for module, (n, k) in linears.items():
            if excluded_by_vllm(module, entries):
                assert output.get_slice(module + ".weight").get_dtype() == "BF16", module
                continue
            loaded += 1
            for suffix, (dtype, shape) in EXPECTED[format](n, k).items():
                tensor = output.get_slice(f"{module}.{suffix}")
                assert (tensor.get_dtype(), tensor.get_shape()) == (dtype, shape), f"{module}.{suffix}"
                left.remove(f"{module}.{suffix}")
        assert loaded == 35
        unknown = {name for name in left if name not in source.keys()}
        assert all(re.search(r"self_attn\.(k_proj\.|v_proj\.)?[kv]_scale$|(o|down)_proj\.pre_quant_scale$", n) for n in unknown), unknown
