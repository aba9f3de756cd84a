"""Checkpoints of the compressed-tensors layout: the package's own are read with its numbers, ours are loaded by transformers."""

import json
import os
import re
import shutil
import subprocess

import pytest
import torch

import forward_models as toy
import llama4_model
import mllama_model
from compressed_exports import IGNORE, change_config, export, groups_of
from compressed_tensors.quantization import QuantizationArgs
from engine_checkpoints import publish
from test_forward import KINDS, encode, run_probe
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, conversion_mapping
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.core_model_loading import Concatenate, MergeModulelist, Transpose, WeightConverter
from transformers.models.llama4.modeling_llama4 import Llama4TextExperts

pytestmark = pytest.mark.usefixtures("one_thread")

# The rows of spec/export.md §5.2 with the format that visq calls them, and groups of other sizes.
EXPORTS = {
    "FP8": "fp8", "FP8_DYNAMIC": "fp8_pc_pt", "FP8_BLOCK": "fp8_pb_wo", "W8A8": "int8_dynamic", "W8A16": "int8_wo_g128",
    "W4A16": "int4_awq_lite", "W4A16_ASYM": "int4_awq_asym", "W4A8": "w4a8", "W4AFP8": "w4afp8", "NVFP4": "nvfp4_max",
    "NVFP4A16": "w4a16_nvfp4_max", "MXFP4": "mxfp4", "MXFP4A16": "mxfp4_wo", "MXFP8": "mxfp8",
}  # fmt: skip
RESIZED = {"W4A16-32": ("W4A16", dict(group_size=32)), "W4A16-64": ("W4A16", dict(group_size=64)),
           "W4A16-channel": ("W4A16", dict(group_size=-1, strategy="channel")),
           "W8A16-channel": ("W8A16", dict(group_size=-1, strategy="channel")),
           "W4A16_ASYM-channel": ("W4A16_ASYM", dict(group_size=-1, strategy="channel")),
           "W4A16-actorder": ("W4A16", dict(actorder="weight"))}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model whose widths every format's blocks divide."""
    toy.WIDE = True
    try:
        made = toy.make_llava("llama", "clip")
    finally:
        toy.WIDE = False
    made[0].to(torch.bfloat16)
    return toy.save(tmp_path_factory.mktemp("model") / "model", made, "A")


@pytest.fixture(scope="module")
def visq(probe):
    def run(*arguments, check=True):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        result = subprocess.run([probe("forward").parent / "visq", *map(str, arguments)], capture_output=True, text=True, env=environment)
        assert result.returncode == 0 or not check, result.stderr
        return result

    return run


def loaded_weights(model):
    """Dequantized weights of all linears in a model that transformers loaded, by what follows "layers." in their names."""
    weights = {}
    for name, module in model.named_modules():
        if not re.search(r"(language_model|language_model\.model|text_model|^model)\.layers\.", name):
            continue
        name = re.sub(r".*(layers\.)", r"\1", name)
        if isinstance(module, torch.nn.Linear):
            weights[name] = module.weight.detach().float()
        elif isinstance(getattr(module, "gate_up_proj", None), torch.nn.Parameter):  # experts in stacks
            for expert, (gate_up, down) in enumerate(zip(module.gate_up_proj.detach().float(), module.down_proj.detach().float())):
                if isinstance(module, Llama4TextExperts):
                    gate_up, down = gate_up.T, down.T
                parts = zip(("gate_proj", "up_proj", "down_proj"), (*gate_up.chunk(2), down))
                weights |= {f"{name}.{expert}.{part}": weight for part, weight in parts}
    return weights


def logits_of(folder, samples, dtype):
    data, conversations = samples
    processor = AutoProcessor.from_pretrained(folder)
    kind = AutoModelForCausalLM if type(processor).__name__ == "Phi4MultimodalProcessor" else AutoModelForImageTextToText
    model = kind.from_pretrained(folder, dtype=dtype).eval()
    logits = []
    with torch.no_grad():
        for index, conversation in enumerate(conversations):
            plain = type(processor).__name__ == "PaliGemmaProcessor" and index == 0  # it refuses texts without an image
            logits.append(None if plain else model(**encode(processor, conversation, data.parent)).logits[0].float())
    return logits, loaded_weights(model)


def compare(folder, samples, probe, out, least=0.9999, dtype=torch.float32, linears=21):
    """In float32, where nothing is rounded but what is quantized, weights agree, and so do logits, where inputs are not rounded or
    by the same rule; E2M1 is dequantized to bfloat16 whatever the model's type is.

    @param folder  a checkpoint, or (one for visq, one for transformers)"""
    ours, theirs = folder if isinstance(folder, tuple) else (folder, folder)
    precision = "fp32" if dtype == torch.float32 else "bf16"
    computed, _ = run_probe(probe("forward"), ours, samples[0], out, precision)
    expected, weights = logits_of(theirs, samples, dtype)
    read = {re.sub(r".*(layers\.)", r"\1", name): value for name, value in computed.items() if name.startswith("weight.")}
    assert len(read) == linears
    for name, weight in read.items():
        assert (weight - weights[name]).abs().max() <= (2**-20 if precision == "fp32" else 2**-7) * weight.abs().max(), name
    for index, logits in enumerate(expected):
        if logits is not None:
            assert torch.cosine_similarity(computed[f"logits.{index}"], logits, dim=-1).min() >= least


def as_transformers_reads_it(folder):
    """The package writes the names that it ignores as checkpoints have them, and then looks for them in the model, which has others."""
    theirs = shutil.copytree(folder, folder.with_name("theirs"))
    change_config(theirs, lambda config: config.update(ignore=IGNORE))
    return folder, theirs


# A rounding of inputs that falls otherwise moves these tiny models' logits; and the package rounds inputs by other rules than the
# engines: MX exponents, 127.5 steps of INT8; blocks of one row (FP8_BLOCK) visq does not simulate.
LEAST = {"FP8": 0.99, "FP8_DYNAMIC": 0.98, "FP8_BLOCK": 0.97, "W8A8": 0.99, "W4A8": 0.98, "W4AFP8": 0.98, "NVFP4": 0.5,
         "NVFP4A16": 0.999, "MXFP4": 0.5, "MXFP4A16": 0.999, "MXFP8": 0.97}  # fmt: skip


def precision_of(name):
    return torch.bfloat16 if name.upper().startswith(("NVFP4", "MX", "W4A16_NVFP4")) else torch.float32


@pytest.mark.parametrize("name", [*EXPORTS, *RESIZED])
def test_exports_of_the_package_are_read_with_its_numbers(name, model, samples, probe, visq, packed_zero_points, tmp_path):
    preset, changes = RESIZED.get(name, (name, {}))
    folder = export(model, tmp_path / "export", [groups_of(preset, **changes)])
    compare(as_transformers_reads_it(folder), samples, probe, tmp_path / "out.safetensors", LEAST.get(name, 0.9999), precision_of(name))
    inspected = json.loads(visq("inspect", folder, "--json").stdout)["quantization"]
    assert inspected["linears"] == 21
    if name in EXPORTS:
        assert inspected["format"] == EXPORTS[name]
    # SGLang fuses q/k/v of the tower under a name that the package's ignore list does not have.
    check = visq("check", folder, "--for", "vllm", "--json", check=False)
    rules = {rule["id"]: rule["violations"] for rule in json.loads(check.stdout)["rules"] if rule["violations"]}
    # vLLM's W4AFP8 wants packed weights; the package's exports have none. W4A8 it does not run on a GPU.
    assert set(rules) == {"W4AFP8": {"C1"}, "W4A8": {"A4"}}.get(name, set()), rules


@pytest.mark.parametrize("name", ["FP8", "W4A16_ASYM", "NVFP4"])
def test_exports_of_the_package_answer(name, model, visq, tmp_path):
    folder = export(model, tmp_path / "export", [groups_of(name)], kv_cache=QuantizationArgs(num_bits=8, type="float"))
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"messages": [{"role": "user", "content": "Is it a cat?"}, {"role": "assistant", "content": "Yes"}]}))
    row = json.loads(visq("eval", folder, "--data", data, "--max-new-tokens", 2, "--json").stdout)
    assert "perplexity" in json.dumps(row)
    visq("generate", folder, "Is it a cat?", "--max-new-tokens", 2)
    assert json.loads(visq("inspect", folder, "--json").stdout)["quantization"]["kv_cache"] == "fp8"


OURS = {"fp8": "FP8", "fp8_pc_pt": "FP8_DYNAMIC", "fp8_pb_wo": "FP8_BLOCK", "int8_dynamic": "W8A8", "int8_wo_g128": "W8A16",
        "w4a8": "W4A8", "w4afp8": "W4AFP8", "nvfp4_max": "NVFP4", "w4a16_nvfp4_max": "NVFP4A16", "mxfp4": "MXFP4",
        "mxfp4_wo": "MXFP4A16", "mxfp8": "MXFP8", "w4a16_asym": "W4A16_ASYM"}  # fmt: skip


@pytest.fixture(scope="module")
def written(model, visq, samples, tmp_path_factory):
    out = tmp_path_factory.mktemp("written")
    visq("quantize", model, "-f", ",".join(OURS), "--layout", "compressed-tensors", "--calib", samples[0], "--kv-cache", "none", "-o", out)
    return out


@pytest.mark.parametrize("format", OURS)
def test_our_formats_are_what_transformers_loads(format, written, samples, probe, packed_zero_points, tmp_path):
    name = OURS[format]
    compare(written / format, samples, probe, tmp_path / "out.safetensors", LEAST.get(name, 0.9999), precision_of(name))


FAMILIES = ["llava-llama-clip", "llava-pixtral", "llava_next-llama", "llava_onevision", "internvl-layer", "mistral3", "lighton_ocr",
            "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3", "paligemma-gemma", "phi4_multimodal", "smolvlm", "idefics3", "mllama",
            "qwen3_vl_moe", "llama4"]  # fmt: skip
MADE = {**KINDS, "mllama": (mllama_model.make,), "llama4": (llama4_model.make,)}


@pytest.fixture
def experts_one_by_one():
    """transformers takes experts of these two in stacks alone, until told that they may lie one by one (docs/deploy.md)."""
    joined = get_checkpoint_conversion_mapping("qwen2_moe")
    register_checkpoint_conversion_mapping("qwen3_vl_moe", joined, overwrite=True)
    experts, turn = "feed_forward.experts", Transpose(1, 2)
    joined = [WeightConverter([f"{experts}.*.gate_proj.weight", f"{experts}.*.up_proj.weight"], f"{experts}.gate_up_proj",
                              [MergeModulelist(0), Concatenate(1), turn]),
              WeightConverter(f"{experts}.*.down_proj.weight", f"{experts}.down_proj", [MergeModulelist(0), turn])]  # fmt: skip
    register_checkpoint_conversion_mapping("llama4", joined, overwrite=True)
    yield
    conversion_mapping._checkpoint_conversion_mapping_cache = None


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("format, method", [("int8_wo", "compressed-tensors"), ("fp8_pb_wo", "fp8")])
def test_every_family_loads_in_transformers(kind, format, method, samples, probe, visq, experts_one_by_one, tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "WIDE", format == "fp8_pb_wo")
    make, *arguments = MADE[kind]
    made = make(*arguments)
    made[0].to(torch.bfloat16)
    source = publish(toy.save(tmp_path / "model", made, "A"))
    visq("quantize", source, "-f", format, "-o", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == method
    linears = json.loads(visq("inspect", tmp_path / "out", "--json").stdout)["quantization"]["linears"]
    # FP8, without a GPU, and experts, which it has no kernels for, it dequantizes to bfloat16.
    rounded = dict(least=0.999, dtype=torch.bfloat16) if method == "fp8" or kind in ("qwen3_vl_moe", "llama4") else {}
    compare(tmp_path / "out", samples, probe, tmp_path / "out.safetensors", linears=linears, **rounded)
