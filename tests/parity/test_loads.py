"""Outputs load elsewhere: compressed-tensors ones in transformers, all of them by a loader written from the engines' rules."""
import fnmatch
import json
import re
import subprocess

import pytest
import torch
from safetensors import safe_open

from modelopt_reference import DEMO, Demo, samples  # (before compressed_tensors, which imports transformers)

FORMATS = ["fp8", "int8_sq", "int4_awq", "w4a8_awq", "nvfp4", "int8", "w4a8_nvfp4_fp8", "int4_awq_asym"]
DATA_FREE = ["fp8_pc_pt", "fp8_pb_wo", "int8_wo", "w4a16", "w4a16_nvfp4", "w4a8_mxfp4_fp8", "mxfp4", "mxfp6", "mxfp8", "mxint8",
             "w4a16_asym", "int8_dynamic", "int8_wo_g128", "w4a8", "w4afp8", "mxfp4_wo"]  # fmt: skip


@pytest.fixture(scope="module")
def quantized(probe, tmp_path_factory):
    out = tmp_path_factory.mktemp("loads")
    subprocess.run([probe("solver").parent / "visq", "-q", "quantize", DEMO / "model", "--format", ",".join(FORMATS), "--calib",
                    DEMO / "calibration.jsonl", "--samples", "48", "--out", out, "--force"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([probe("solver").parent / "visq", "-q", "quantize", DEMO / "model", "--format", ",".join(DATA_FREE), "--out", out,
                    "--force"], check=True, stdout=subprocess.DEVNULL)
    return out


@pytest.mark.parametrize("format", ["int8_sq", "int4_awq", "int4_awq_asym"])
def test_compressed_tensors_outputs_answer_in_transformers(quantized, packed_zero_points, format):
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


@pytest.mark.parametrize("format, layout", [("fp8_pc_pt", "compressed-tensors"), ("fp8_pb_wo", "hf-fp8"), ("int8_wo", "compressed-tensors"),
                                            ("w4a16", "compressed-tensors"), ("w4a16_asym", "compressed-tensors"),
                                            ("w4a16_nvfp4", "compressed-tensors"), ("int8_wo_g128", "compressed-tensors"),
                                            ("mxfp4_wo", "compressed-tensors")])  # fmt: skip
def test_weights_of_data_free_outputs_are_what_transformers_computes_with(probe, packed_zero_points, tmp_path, format, layout):
    """The same logits as a model whose weights are code times scale, worked out here from the files."""
    subprocess.run([probe("solver").parent / "visq", "-q", "quantize", DEMO / "model", "--format", format, "--layout", layout, "--out",
                    tmp_path / "out"], check=True, stdout=subprocess.DEVNULL)
    demo = Demo(tmp_path / "out")
    theirs = demo.model(torch.bfloat16)
    original, reference = Demo().model(torch.bfloat16), Demo().model(torch.bfloat16)
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        names = set(file.keys())
        modules = {name: module for name, module in reference.named_modules() if isinstance(module, torch.nn.Linear)}
        replaced = 0
        for name, module in modules.items():
            stored = re.sub(r"^model\.language_model\.", "language_model.model.", name)
            parts = {suffix: file.get_tensor(f"{stored}.{suffix}") for suffix in SUFFIXES if f"{stored}.{suffix}" in names}
            if len(parts) < 2:
                continue
            module.weight.data = real_values(parts, module.weight.shape).bfloat16()
            if format == "fp8_pc_pt":
                module.register_forward_pre_hook(lambda _, inputs: (rounded_per_token(inputs[0]),))
            replaced += 1
        assert replaced == 35
    for sample in samples("questions.jsonl", 4):
        inputs, _ = demo.encode(sample)
        inputs = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
        with torch.no_grad():
            ours, other = reference(**inputs).logits.float(), theirs(**inputs).logits.float()
            plain = original(**inputs).logits.float()
        assert torch.equal(ours, other) and not torch.equal(ours, plain)


def rounded_per_token(x):
    """As compressed-tensors does it: in x's type throughout."""
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 448
    return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).to(x.dtype) * scale


SUFFIXES = ["weight", "weight_packed", "weight_scale", "weight_scale_inv", "weight_global_scale", "weight_zero_point"]


def real_values(parts, shape):
    """code · scale of any of the layouts of spec/export.md §5.2 and §6.3, float32."""
    rows, columns = shape
    if "weight_scale_inv" in parts:
        scale = parts["weight_scale_inv"].repeat_interleave(128, 0).repeat_interleave(128, 1)[:rows, :columns]
        return parts["weight"].float() * scale
    if "weight" in parts:
        return parts["weight"].float() * parts["weight_scale"].float()
    packed = parts["weight_packed"]
    scale = parts["weight_scale"].float().repeat_interleave(columns // parts["weight_scale"].shape[1], 1)
    if packed.dtype == torch.uint8:
        table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
        codes = torch.stack([packed & 15, packed >> 4], -1).view(rows, columns)
        if "weight_global_scale" not in parts:  # exponents
            return table[codes.long()] * torch.exp2(scale - 127)
        return table[codes.long()] * (scale / parts["weight_global_scale"])
    bits = 32 * packed.shape[1] // columns
    codes = ((packed.unsqueeze(-1) >> torch.arange(0, 32, bits)) & (2**bits - 1)).view(rows, columns)
    zero = torch.full_like(codes, 2 ** (bits - 1))
    if "weight_zero_point" in parts:  # eight rows a word
        words = parts["weight_zero_point"].repeat_interleave(8, 0) >> (torch.arange(rows) % 8 * 4).unsqueeze(1)
        zero = (words & 15).repeat_interleave(columns // words.shape[1], 1)
    return (codes - zero) * scale


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
    "fp8_pc_pt": lambda n, k: {"weight": ("F8_E4M3", [n, k]), "weight_scale": ("BF16", [n, 1])},
    "fp8_pb_wo": lambda n, k: {"weight": ("F8_E4M3", [n, k]), "weight_scale_inv": ("F32", [-(-n // 128), -(-k // 128)])},
    "int8_wo": lambda n, k: {"weight_packed": ("I32", [n, k // 4]), "weight_scale": ("BF16", [n, 1]), "weight_shape": ("I64", [2])},
    "w4a16": lambda n, k: {"weight_packed": ("I32", [n, k // 8]), "weight_scale": ("BF16", [n, k // 128]),
                           "weight_shape": ("I64", [2])},
    "w4a16_asym": lambda n, k: {"weight_packed": ("I32", [n, k // 8]), "weight_scale": ("BF16", [n, k // 128]),
                                "weight_zero_point": ("I32", [n // 8, k // 128]), "weight_shape": ("I64", [2])},
    "int4_awq_asym": lambda n, k: EXPECTED["w4a16_asym"](n, k),
    "w4a16_nvfp4": lambda n, k: {"weight": ("U8", [n, k // 2]), "weight_scale": ("F8_E4M3", [n, k // 16]),
                                 "weight_scale_2": ("F32", [])},
    "int8": lambda n, k: {"weight": ("I8", [n, k]), "weight_scale": ("BF16", [n, 1]), "input_scale": ("BF16", [1])},
    "w4a8_nvfp4_fp8": lambda n, k: {"weight": ("U8", [n, k // 2]), "weight_scale": ("F8_E4M3", [n, k // 32]),
                                    "weight_scale_2": ("F32", []), "input_scale": ("F32", [])},
    "w4a8_mxfp4_fp8": lambda n, k: {"weight": ("U8", [n, k // 2]), "weight_scale": ("U8", [n, k // 32])},
    "mxfp4": lambda n, k: {"weight_packed": ("U8", [n, k // 2]), "weight_scale": ("U8", [n, k // 32])},
    "mxfp6": lambda n, k: {"weight": ("U8", [n, k // 4 * 3]), "weight_scale": ("U8", [n, k // 32])},
    "mxfp8": lambda n, k: {"weight": ("F8_E4M3", [n, k]), "weight_scale": ("U8", [n, k // 32])},
    "int8_dynamic": lambda n, k: {"weight": ("I8", [n, k]), "weight_scale": ("BF16", [n, 1])},
    "int8_wo_g128": lambda n, k: {"weight_packed": ("I32", [n, k // 4]), "weight_scale": ("BF16", [n, k // 128]),
                                  "weight_shape": ("I64", [2])},
    "w4a8": lambda n, k: {"weight": ("I8", [n, k]), "weight_scale": ("BF16", [n, k // 128])},
    "w4afp8": lambda n, k: EXPECTED["w4a16"](n, k),
    "mxfp4_wo": lambda n, k: {"weight_packed": ("U8", [n, k // 2]), "weight_scale": ("U8", [n, k // 32])},
    "mxint8": lambda n, k: {"weight": ("I8", [n, k]), "weight_scale": ("U8", [n, k // 32])},
}


def excluded_by_vllm(module, entries, whole_names=False):
    for entry in entries:
        if entry.startswith("re:"):
            if re.match(entry[3:], module):
                return True
        elif whole_names:
            if entry == module:
                return True
        elif "*" in entry:
            if fnmatch.fnmatch(module, entry):
                return True
        elif entry in module:
            return True
    return False


@pytest.mark.parametrize("format", FORMATS + DATA_FREE)
def test_a_loader_of_the_engines_rules_accepts_the_output(quantized, format):
    with safe_open(DEMO / "model" / "model.safetensors", "pt") as source, \
            safe_open(quantized / format / "model.safetensors", "pt") as output:
        linears = {name[: -len(".weight")]: source.get_slice(name).get_shape() for name in source.keys()
                   if name.endswith(".weight") and len(source.get_slice(name).get_shape()) == 2 and "embed" not in name}
        config = json.loads((quantized / format / "config.json").read_text())["quantization_config"]
        entries = config.get("ignore", config.get("modules_to_not_convert"))
        left = set(output.keys())
        loaded = 0
        for module, (n, k) in linears.items():
            if excluded_by_vllm(module, entries, whole_names=config["quant_method"] == "fp8"):
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
