"""Engines' own code takes our outputs for what they are: tests/engines/ builds each model and loads its tensors.

What visq says an engine reads (visq inspect) must load there without an error, with the decoder's linears quantized, in the
scheme meant, and everything else not; each tensor of the files must fill a parameter of its type, and no parameter stay empty.
"""

import json
import re
import shutil
from fnmatch import fnmatchcase

import pytest
import torch
from safetensors.torch import load_file, save_file

import forward_models as toy
from engine_checkpoints import CASES, FAMILIES, Checkpoints

# Where visq claims what the engine's code does not do: (engine, kind, case, what happens). Patterns are globs.
DISAGREEMENTS = [
    ("vllm", "llama4", "w4a16_nvfp4_max-layer", "experts are stacked in one layer and single in another: KeyError"),
    ("sglang", "llava", "*", "a CLIP tower goes to the Transformers backend, which builds no model around it, quantized or not"),
    ("sglang", "qwen3_vl_moe", "w4a16_nvfp4_max-layer", "dense layers are built as experts, quantized or not"),
    ("sglang", "*", "nf4", "its bitsandbytes method asks the GPU for a stream"),
]

# What the commands need that visq inspect prints.
OPTIONS = {("sglang", "qwen3_vl_moe", f"w4a16@{layout}"): {"quantization": f"{kernel}_marlin"}
           for layout, kernel in (("autoawq", "awq"), ("gptq", "gptq"))}  # fmt: skip
# Kinds whose names differ between generations; SGLang's LLaVA needs another tower than the other one's.
SPELLED = [(kind, spelling) for kind in ("llava-pixtral", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "internvl", "mistral3",
           "gemma3", "paligemma") for spelling in "ABCD"]  # fmt: skip
SPELLED += [("mllama", "A"), ("mllama", "C")]

# Families that are asked about every case; the others about these.
THOROUGH = ["qwen2_5_vl", "qwen3_vl", "gemma3"]
BRIEF = ["fp8", "fp8-alone", "nvfp4", "nvfp4-alone", "w4a16", "fp8_pb_wo", "mxfp8", "w4a16_nvfp4_max-layer", "w4a16@autoawq", "w4a16@gptq"]

# Class of the engine's method or scheme, by what a case's name begins with: the first that fits.
IN_BOTH = {
    "fp8_pc_pt@modelopt": "ModelOpt",
    "fp8_pc_pt": "CompressedTensorsW8A8Fp8",
    "fp8_pb_wo@": "CompressedTensorsW8A",
    "fp8_pb_wo": "Fp8",
    "int8_wo": "CompressedTensorsWNA16",
    "int8_sq": "CompressedTensorsW8A8Int8",
    "w4a16_nvfp4_max@": r"CompressedTensorsW4A(4|16)\w*4",
    "nvfp4@": r"CompressedTensorsW4A4\w*4",
}
SCHEMES = {
    "vllm": {
        "w4a16@autoawq|w4a16-layer@autoawq|w4a16_asym@autoawq": "AutoAWQ",
        "w4a16@gptq|w4a16-layer@gptq|int8_wo@gptq": "AutoGPTQ",
        **IN_BOTH,
        "w4a16_nvfp4": "ModelOpt",
        "w4a16": "CompressedTensorsWNA16",
        "": "ModelOpt",
    },
    "sglang": {
        "w4a16@autoawq|w4a16-layer@autoawq|w4a16_asym@autoawq": "AWQMarlin|AWQMoE|MoeWNA16",
        "w4a16@gptq|w4a16-layer@gptq|int8_wo@gptq": "GPTQMarlin",
        **IN_BOTH,
        "w4a16_nvfp4": "ModelOptNvFp4A16",
        "w4a16": "CompressedTensorsWNA16",
        "mxfp8": "Fp8",
        "": "ModelOpt",
    },
}
LINEAR = re.compile(r"(^|\.)layers\.(\d+)\.((self|cross)_attn|mlp|feed_forward)\.(?!gate$|router$)([\w.]+)$")
TOWER = re.compile(r"vision|visual|image|audio")
# Left as they are where the files have none: scales of a KV cache, the order of columns, and what kernels make for themselves.
OPTIONAL = re.compile(r"attn\.(attn\.)?([qkv]|prob)_(scale|zero_point)$|g_idx(_sort_indices)?$|blockscale_swizzled$"
                      r"|routed_experts\.w(13|2)_bias$")  # fmt: skip
# What else the engines turn into each other: MoeWNA16 repacks, and zero points of symmetric experts are not looked at.
REPACKED = re.compile(r"experts\.\d+\.\w+\.(qweight|qzeros)$")
PLAIN = {"torch.float32", "torch.bfloat16", "torch.float16"}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))


def is_quantized(name, case):
    """Whether a module of the engine, by its name there, must be quantized."""
    linear = LINEAR.search(name)
    if not linear or TOWER.search(name):
        return False
    if "-layer" in case:
        return linear[2] != "1"
    return not (case.endswith("-down") and name.endswith("down_proj"))


def complaints(engine, case, source, output):
    """What is wrong with the engine's answer to an output, given its answer to the source; one line each."""
    if output["error"]:
        return [output["error"]]
    scheme = next(scheme for begin, scheme in SCHEMES[engine].items() if case.startswith(tuple(begin.split("|"))))
    wrong = []
    for name, method in output["modules"].items():
        if bool(method) != is_quantized(name, case):
            wrong.append(f"{name}: taken for {method or 'unquantized'}")
        elif method and not re.match(scheme, method):
            wrong.append(f"{name}: {method} instead of {scheme}")
    weight_only = not case.startswith(("fp8_pc_pt", "mxfp8", "fp8", "nvfp4", "int8_sq", "mixed")) or case.startswith("fp8_pb_wo")
    # The order of columns, which GPTQ's files have to have and the engines ignore where it is the plain one.
    wrong += [f"{name}: no parameter takes this tensor" for name in set(output["unread"]) - set(source["unread"])
              if not name.endswith(".g_idx")]  # fmt: skip
    wrong += [f"{name}: no tensor fills this parameter" for name in set(output["unfilled"]) - set(source["unfilled"])
              if not OPTIONAL.search(name) and not (weight_only and name.endswith("input_scale"))]  # fmt: skip
    wrong += [f"{name}: {stored} in the file, {taken} in the engine" for name, stored, taken in output["dtypes"]
              if not {stored, taken} <= PLAIN and not name.endswith("weight_shape") and not REPACKED.search(name)]  # fmt: skip
    return sorted(wrong)


def cases_of(kind):
    cases = CASES if kind in THOROUGH else BRIEF
    # Engines run the experts of a layer as one: visq quantizes all matrices of them or none.
    return [case for case in cases if not (kind in ("qwen3_vl_moe", "llama4") and case.endswith("-down"))]


def parameters():
    for engine in SCHEMES:
        for kind in FAMILIES:
            for case in cases_of(kind):
                reasons = [reason for *place, reason in DISAGREEMENTS if all(map(fnmatchcase, (engine, kind, case), place))]
                marks = [pytest.mark.xfail(strict=True, reason=reason) for reason in reasons]
                yield pytest.param(engine, kind, case, marks=marks, id=f"{engine}-{kind}-{case}")


@pytest.mark.parametrize("engine, kind, case", parameters())
def test_an_engine_takes_an_output_for_what_it_is(engines, checkpoints, engine, kind, case):
    if engine not in checkpoints.claimed(kind, case):
        pytest.skip("visq does not say that this engine reads it")
    source = engines(engine)(checkpoints.source(kind))
    assert not source["error"]
    assert not complaints(engine, case, source, engines(engine)(checkpoints.output(kind, case), **OPTIONS.get((engine, kind, case), {})))


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("kind, spelling", SPELLED, ids=["-".join(one) for one in SPELLED])
def test_an_engine_loads_the_names_that_visq_says_it_knows(engines, tmp_path, monkeypatch, kind, spelling, engine):
    """A: as on the hub, B, C, D: as versions of transformers, and tools that go by them, write the same model."""
    save = toy.save
    monkeypatch.setattr(toy, "save", lambda folder, made, _: save(folder, made, spelling))
    checkpoints = Checkpoints(tmp_path)
    source, output = (engines(engine)(folder) for folder in (checkpoints.source(kind), checkpoints.output(kind, "w4a16@gptq")))
    loads = not source["error"] and not complaints(engine, "w4a16@gptq", source, output)
    assert (engine in checkpoints.claimed(kind, "w4a16@gptq")) == loads, (source["error"], output["error"])


def rewritten(source, target, change, **settings):
    """A copy whose tensors `change` has changed, with other settings in its quantization_config."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    config["quantization_config"].update(settings)
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_an_engine_takes_settings_for_some_linears(engines, checkpoints, tmp_path, engine):
    """GPTQ's dynamic: layer 1 in 8 bits."""
    kind = "qwen2_5_vl"
    checkpoints.visq("quantize", checkpoints.source(kind), "-f", "int8_wo_g128", "--layout", "gptq", "-o", tmp_path / "eight")
    eight = load_file(tmp_path / "eight" / "model.safetensors")
    four = checkpoints.output(kind, "w4a16@gptq")
    dynamic = json.loads((four / "config.json").read_text())["quantization_config"]["dynamic"]
    folder = rewritten(four, tmp_path / "mixed", lambda tensors: tensors.update({name: eight[name] for name in eight if ".layers.1." in name}),
                       dynamic=dynamic | {r"+:.*layers\.1\..*": {"bits": 8}})  # fmt: skip
    assert engine in json.loads(checkpoints.visq("inspect", folder, "--json"))["quantization"]["engines"]
    source, output = engines(engine)(checkpoints.source(kind)), engines(engine)(folder)
    assert not source["error"] and not complaints(engine, "w4a16@gptq", source, output)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("layout", ["gptq", "compressed-tensors"])
def test_an_engine_takes_columns_by_importance_where_visq_says_so(engines, checkpoints, tmp_path, layout, engine):
    """As GPTQ's desc_act has them: their groups are a permutation, the same for linears that are fused."""
    kind = "qwen2_5_vl"

    def permute(tensors):
        for name, groups in tensors.items():
            if name.endswith(".g_idx"):
                tensors[name] = groups[torch.randperm(len(groups), generator=torch.Generator().manual_seed(len(groups)))]

    folder = rewritten(checkpoints.output(kind, "w4a16@gptq"), tmp_path / "ordered", permute, desc_act=True)
    if layout != "gptq":
        checkpoints.visq("convert", folder, "--to", layout, "-o", tmp_path / layout)
        folder = tmp_path / layout
    claimed = engine in json.loads(checkpoints.visq("inspect", folder, "--json"))["quantization"]["engines"]
    source, output = engines(engine)(checkpoints.source(kind)), engines(engine)(folder)
    # The package compressed-tensors, which both engines parse that layout with, has taken "group" out.
    assert not source["error"] and claimed == ((engine, layout) == ("sglang", "gptq"))
    if not claimed:
        assert output["error"]
        return
    assert not complaints(engine, "w4a16@gptq", source, output)
    assert not [name for name in output["unread"] if name.endswith("g_idx")]
