"""Published load failures, each as what somebody's export did to a sound checkpoint and what visq check has to say of it."""
import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"
FP8, U8 = torch.float8_e4m3fn, torch.uint8


class Checkpoint:
    """A copy of a sound checkpoint, to break."""

    def __init__(self, base, folder):
        self.base, self.folder = base, folder
        folder.mkdir()
        for path in base.iterdir():
            if path.name not in (WEIGHTS, "config.json", "hf_quant_config.json"):
                (folder / path.name).hardlink_to(path)
        self.config = json.loads((base / "config.json").read_text())
        second = base / "hf_quant_config.json"
        self.second = json.loads(second.read_text()) if second.exists() else None
        self.tensors = load_file(base / WEIGHTS)
        self.shards = None  # {file: names}; None: one file, no index
        self.after = []  # run on the folder when all is written

    @property
    def quantization(self):
        return self.config["quantization_config"]

    def names(self, pattern):
        return [name for name in self.tensors if re.search(pattern, name)]

    def name(self, pattern):
        return self.names(pattern)[0]

    def module(self, pattern):
        return self.name(pattern + r"\.weight(_packed)?$").rsplit(".", 1)[0]

    def drop(self, pattern):
        names = self.names(pattern)
        assert names, pattern
        for name in names:
            del self.tensors[name]

    def rename(self, pattern, to):
        names = self.names(pattern)
        assert names, pattern
        self.tensors = {re.sub(pattern, to, name) if name in names else name: value for name, value in self.tensors.items()}

    def dequantize(self, pattern):
        """Random values in BF16 instead of codes and scales: nobody looks at values without --source."""
        for module in [name.removesuffix(".weight") for name in self.names(pattern + r"\.weight$")]:
            rows, columns = self.tensors.pop(module + ".weight").shape
            factor = 2 if module + ".weight_scale_2" in self.tensors else 1
            for suffix in ("weight_scale", "weight_scale_2", "input_scale"):
                self.tensors.pop(f"{module}.{suffix}", None)
            self.tensors[module + ".weight"] = torch.randn(rows, columns * factor).bfloat16()

    def quantize_fp8(self, pattern, rows=False):
        """FP8 per tensor with an input scale (ModelOpt), or per row without (compressed-tensors)."""
        modules = [name.removesuffix(".weight") for name in self.names(pattern + r"\.weight$") if self.tensors[name].dim() == 2]
        assert modules, pattern
        for module in modules:
            weight = self.tensors[module + ".weight"].float()
            scale = (weight.abs().amax(1, True) if rows else weight.abs().amax()) / 448
            self.tensors[module + ".weight"] = (weight / scale).to(FP8)
            self.tensors[module + ".weight_scale"] = scale.bfloat16() if rows else scale
            if not rows:
                self.tensors[module + ".input_scale"] = torch.tensor(0.01)
        return modules

    def quantize_nvfp4(self, pattern):
        for module in [name.removesuffix(".weight") for name in self.names(pattern + r"\.weight$")]:
            rows, columns = self.tensors[module + ".weight"].shape
            self.tensors[module + ".weight"] = torch.randint(0, 255, (rows, columns // 2), dtype=U8)
            self.tensors[module + ".weight_scale"] = torch.full((rows, columns // 16), 448.0).to(FP8)
            self.tensors[module + ".weight_scale_2"] = self.tensors[module + ".input_scale"] = torch.tensor(1e-4)

    def exclude(self, change):
        """@param change  of the list, in both configurations"""
        key = "modules_to_not_convert" if self.quantization["quant_method"] == "fp8" else "ignore"
        self.quantization[key] = change(self.quantization[key])
        if self.second:
            self.second["quantization"]["exclude_modules"] = change(self.second["quantization"]["exclude_modules"])

    def write(self):
        shards = self.shards or {WEIGHTS: list(self.tensors)}
        tensors = {name: value.contiguous().clone() for name, value in self.tensors.items()}
        for file, names in shards.items():
            save_file({name: tensors[name] for name in names}, self.folder / file, {"format": "pt"})
        if self.shards:
            index = {"metadata": {"total_size": sum(value.nbytes for value in tensors.values())},
                     "weight_map": {name: file for file, names in shards.items() for name in names}}  # fmt: skip
            (self.folder / (WEIGHTS + ".index.json")).write_text(json.dumps(index))
        (self.folder / "config.json").write_text(json.dumps(self.config))
        if self.second:
            (self.folder / "hf_quant_config.json").write_text(json.dumps(self.second))
        for action in self.after:
            action(self.folder)

    def split(self, count):
        names = list(self.tensors)
        self.shards = {f"model-{i + 1:05}-of-{count:05}.safetensors": names[i::count] for i in range(count)}


@dataclass
class Case:
    incident: str  # "vllm#45102", with a letter where it has several forms
    base: str
    what: str  # in one line
    edit: object
    says: list  # parts of one line that visq check prints
    warning: bool = False
    engine: str = ""  # to be asked about by its name, because visq does not claim that it loads the base


CASES = []


def case(incident, base, *says, warning=False, engine=""):
    """The function's docstring says what happened. @param engine  to be asked by name, where it is not among those that read the format"""

    def add(edit):
        of_another = base.startswith("llava") and any(part.startswith("tensorrt-llm") for part in says)
        CASES.append(Case(incident, base, edit.__doc__, edit, list(says), warning, "tensorrt-llm" if of_another else engine))
        return edit

    return add


# Excluded but quantized, and the reverse.


@case("vllm#45102", "llava-nvfp4", "vllm: 'language_model.lm_head' is quantized (U8)", "lm_head", "store it in BF16, or remove")
def _(c):
    """The head is stored as NVFP4 while the exclude list has it."""
    c.quantize_nvfp4("lm_head")


@case("vllm#45102-inverse", "llava-nvfp4", "vllm: 'language_model.lm_head' is BF16", "lacks its scales", 'add "language_model.lm_head')
def _(c):
    """The head is plain and listed nowhere."""
    c.exclude(lambda entries: [entry for entry in entries if "lm_head" not in entry])


@case("TensorRT-LLM#8569", "qwen-fp8", "vllm: 'visual.blocks.0.attn.qkv' is BF16 but no entry of ignore covers it", 'add "visual.*" to ignore')
def _(c):
    """FP8: the vision tower is plain, the exclude list does not have it."""
    c.exclude(lambda entries: [entry for entry in entries if "visual" not in entry])


@case("TensorRT-LLM#8077", "moe-nvfp4", "vllm: ", "visual.merger.linear_fc1' is BF16 but no entry of ignore covers it")
def _(c):
    """NVFP4: the merger is plain, the exclude list has the blocks of the tower alone."""
    c.exclude(lambda entries: [entry for entry in entries if "visual" not in entry] + ["model.visual.blocks", "model.visual.blocks.*"])


@case("auto-round#1377", "qwen-hf-fp8", "vllm: 'visual.merger.mlp.0' is BF16 but no entry of modules_to_not_convert covers it")
def _(c):
    """The merger is plain, the list of whole names lacks it."""
    c.exclude(lambda entries: [entry for entry in entries if "merger" not in entry])


@case("vllm#17358", "qwen-hf-fp8", "visual.blocks.0.attn.proj' is BF16 but no entry of modules_to_not_convert covers it")
def _(c):
    """The tower is plain, the list is gone."""
    c.quantization["modules_to_not_convert"] = []


@case("llm-compressor#1652", "llava-ct-fp8", "'multi_modal_projector.linear_1'", "of the projector but quantized", "store it in BF16", warning=True)
def _(c):
    """The projector is quantized, which vLLM built plain then."""
    c.quantize_fp8(r"multi_modal_projector.*", rows=True)
    c.exclude(lambda entries: [entry for entry in entries if "projector" not in entry])


@case("llm-compressor#1652-listed", "llava-ct-fp8", "'multi_modal_projector.linear_1' is quantized (F8_E4M3) but ignore covers it")
def _(c):
    """The projector is quantized and listed."""
    c.quantize_fp8(r"multi_modal_projector.*", rows=True)


@case("llm-compressor#1306", "gemma-ct-fp8", "of the vision tower but quantized (F8_E4M3)", "not every engine and version builds towers quantized", warning=True)
def _(c):
    """The vision tower is quantized, which vLLM built plain then."""
    c.quantize_fp8(r"vision_tower.*(fc1|fc2|_proj)", rows=True)
    c.exclude(lambda entries: ["re:.*lm_head.*"])


@case("llm-compressor#1546", "gemma-ct-fp8", "vllm: ", "vision_tower", "is BF16 but no entry of ignore covers it")
def _(c):
    """The tower is listed by names without their prefix, which compare equal to nothing."""
    towers = [name.removesuffix(".weight").removeprefix("vision_tower.") for name in c.names(r"vision_tower.*(fc1|fc2|_proj)\.weight$")]
    c.exclude(lambda entries: ["re:.*lm_head.*", "re:.*multi_modal_projector.*", *towers])


@case("vllm#19424", "internvl-ct-fp8", "vllm: 'multi_modal_projector.linear_1'", "of the projector but quantized")
def _(c):
    """InternVL's projector is quantized, which vLLM builds of plain linears."""
    c.quantize_fp8(r"multi_modal_projector.*linear_\d", rows=True)
    c.exclude(lambda entries: [entry for entry in entries if "projector" not in entry])


@case("sglang#24927", "qwen-ct-fp8", "'visual.blocks.0.attn.qkv.linear' of ignore matches no module", "write it as the tensors are named", warning=True)
def _(c):
    """Entries end in .linear, the wrapper of another class."""
    modules = [name.removesuffix(".weight") for name in c.names(r"visual.*\.weight$") if c.tensors[name].dim() == 2]
    c.exclude(lambda entries: ["re:.*lm_head.*", *(module + ".linear" for module in modules)])


@case("Model-Optimizer#479", "qwen-fp8", "'model.layers.language_model.layers.0.self_attn.o_proj' of ignore matches no module", warning=True)
def _(c):
    """Entries have a prefix that no tensor has."""
    c.exclude(lambda entries: [*entries, "model.layers.language_model.layers.0.self_attn.o_proj"])


@case("vllm#54547", "qwen-hf-fp8", "model.layers.0.self_attn.o_proj' is BF16 but no entry of modules_to_not_convert covers it")
def _(c):
    """A plain linear is listed by a shortened name, where readers compare whole ones."""
    module = c.module("layers.0.self_attn.o_proj")
    rows, columns = c.tensors[module + ".weight"].shape
    c.tensors[module + ".weight"] = torch.randn(rows, columns).bfloat16()
    del c.tensors[module + ".weight_scale_inv"]
    c.exclude(lambda entries: [*entries, "layers.0.self_attn.o_proj"])


@case("Model-Optimizer-0.46-router", "moe-nvfp4", "mlp.gate' is BF16 but no entry of ignore covers it", "mlp.gate")
def _(c):
    """The router is plain and not listed."""
    c.exclude(lambda entries: [entry for entry in entries if "gate" not in entry])


# Parts that engines build plain.


@case("auto-round#586", "moe-nvfp4", "mlp.gate'", "is a router but quantized (U8)", "store it in BF16")
def _(c):
    """The router is quantized."""
    c.quantize_nvfp4(r"layers\.0\.mlp\.gate")
    c.exclude(lambda entries: [entry for entry in entries if "gate" not in entry])


@case("vllm#45535", "llava-ct-fp8", "embed_tokens' is an embedding but quantized (F8_E4M3)", "SGLang drops it")
def _(c):
    """The embedding is quantized."""
    c.quantize_fp8("embed_tokens", rows=True)


@case("TensorRT-LLM#15680", "llava-nvfp4", "tensorrt-llm: 'language_model.lm_head' is the head but quantized (U8)")
def _(c):
    """The head is quantized and not excluded, which TensorRT-LLM makes no room for."""
    c.quantize_nvfp4("lm_head")
    c.exclude(lambda entries: [entry for entry in entries if "lm_head" not in entry])


@case("Model-Optimizer#1396", "qwen-fp8", "'visual.blocks.0.attn.", "of the vision tower but quantized", "not every engine and version", warning=True)
def _(c):
    """A wildcard of the recipe reached the vision tower."""
    c.quantize_fp8(r"visual\.blocks\.\d+\.attn\.(qkv|proj)")
    c.exclude(lambda entries: [entry for entry in entries if "visual" not in entry])


@case("Model-Optimizer#1690", "llava-nvfp4", "vllm: 'vision_tower.", "of the vision tower but quantized (U8)", "everything under vision_tower and vision_model plain")
def _(c):
    """The vision tower is quantized, which vLLM builds plain by its name."""
    c.quantize_nvfp4(r"vision_tower.*(fc1|fc2)")
    c.exclude(lambda entries: [entry for entry in entries if "vision" not in entry])


@case("sglang#33988", "llava-nvfp4", "vllm: ", "has 272 rows, not a multiple of 64", warning=True)
def _(c):
    """Rows do not fill the tiles of vLLM's fallback kernel."""
    module = c.module("layers.0.mlp.up_proj")
    for suffix in ("weight", "weight_scale"):
        value = c.tensors[f"{module}.{suffix}"]
        c.tensors[f"{module}.{suffix}"] = torch.cat([value.view(U8), value[:16].view(U8)]).view(value.dtype)


@case("vllm#5675", "llava-w4a16", "has 3 groups along its input: tensor parallelism of 2 does not divide them", warning=True)
def _(c):
    """Three groups along the input of a row-parallel linear: two GPUs cannot share them."""
    module = c.module("layers.0.mlp.down_proj")
    packed, scale = c.tensors[module + ".weight_packed"], c.tensors[module + ".weight_scale"]
    c.tensors[module + ".weight_packed"] = torch.cat([packed, packed[:, :16]], 1)
    c.tensors[module + ".weight_scale"] = torch.cat([scale, scale[:, :1]], 1)
    c.tensors[module + ".weight_shape"] = torch.tensor([scale.shape[0], 384])


# What is fused, and experts.


@case("vllm-ascend#2588", "qwen-fp8", "layers.1.self_attn.q_proj' is F8_E4M3", "layers.1.self_attn.v_proj' is BF16: engines fuse the two")
def _(c):
    """q and k are quantized, v is not."""
    c.dequantize(r"layers\.1\.self_attn\.v_proj")
    c.exclude(lambda entries: [*entries, c.module(r"layers\.1\.self_attn\.v_proj")])


@case("vllm#25378", "qwen-fp8", "layers.1.mlp.gate_proj' is F8_E4M3", "layers.1.mlp.up_proj' is BF16")
def _(c):
    """gate is quantized, up is not."""
    c.dequantize(r"layers\.1\.mlp\.up_proj")
    c.exclude(lambda entries: [*entries, c.module(r"layers\.1\.mlp\.up_proj")])


@case("GPTQModel#2221", "moe-nvfp4", "experts.3.", "is BF16", "a fused mixture of experts has one format")
def _(c):
    """One expert of a layer is plain and excluded by its name."""
    c.dequantize(r"layers\.0\.mlp\.experts\.3\.\w+_proj")
    modules = [name.removesuffix(".weight") for name in c.names(r"layers\.0\.mlp\.experts\.3\.\w+_proj\.weight$")]
    c.exclude(lambda entries: [*entries, *modules])


@case("vllm#54150", "moe-nvfp4", "experts.0.gate_proj' and", "experts.0.up_proj' have unlike global weight scales")
def _(c):
    """gate and up of an expert have unlike global scales."""
    c.tensors[c.module(r"layers\.0\.mlp\.experts\.0\.up_proj") + ".weight_scale_2"] *= 1.5


@case("vllm#45212", "moe-nvfp4", "experts.3.down_proj.input_scale' is missing", "engines leave it uninitialised")
def _(c):
    """An expert that saw no tokens has no input scale."""
    c.drop(r"layers\.0\.mlp\.experts\.3\.\w+\.input_scale$")


@case("vllm#45212-zero", "moe-nvfp4", "experts.3.down_proj.input_scale' is 0", "copy the largest of its layer")
def _(c):
    """An expert that saw no tokens has an input scale of 0."""
    for name in c.names(r"layers\.0\.mlp\.experts\.3\.\w+\.input_scale$"):
        c.tensors[name] = torch.tensor(0.0)


@case("Model-Optimizer#1340", "moe-nvfp4", "experts.0.gate_proj.input_scale' is missing")
def _(c):
    """No expert has an input scale."""
    c.drop(r"experts\.\d+\.\w+\.input_scale$")


@case("vllm#54189", "moe-nvfp4", "quantized linears has an input_scale", "W4A16_NVFP4 instead of NVFP4")
def _(c):
    """A weight-only checkpoint calls itself NVFP4."""
    c.drop(r"input_scale$")


@case("Model-Optimizer#569", "moe-nvfp4", "of the bytes of the decoder's matrices are not quantized", "experts", warning=True)
def _(c):
    """All experts are left in BF16, and excluded."""
    modules = [name.removesuffix(".weight") for name in c.names(r"experts\.\d+\.\w+_proj\.weight$")]
    c.dequantize(r"experts\.\d+\.\w+_proj")
    c.exclude(lambda entries: [*entries, *modules])


@case("Model-Optimizer#569-unlisted", "moe-nvfp4", "experts.0.down_proj' is BF16 but no entry of ignore covers it")
def _(c):
    """All experts are left in BF16, and not excluded."""
    c.dequantize(r"experts\.\d+\.\w+_proj")


# The configuration.


@case("TensorRT-LLM#17723", "llava-ct-fp8", "tensorrt-llm: 2 config_groups", "write a mix in the modelopt layout")
def _(c):
    """Two groups, which TensorRT-LLM does not tell apart."""
    group = c.quantization["config_groups"]["group_0"]
    c.quantization["config_groups"]["group_1"] = {**group, "targets": ["re:.*mlp.*"]}
    c.quantization["config_groups"]["group_0"] = {**group, "targets": ["re:.*self_attn.*"]}


@case("TensorRT-LLM#15415", "llava-ct-fp8", "tensorrt-llm: config_groups is keyed 'FP8_DYNAMIC'", "rename the key to group_0")
def _(c):
    """The group has another name."""
    c.quantization["config_groups"] = {"FP8_DYNAMIC": c.quantization["config_groups"]["group_0"]}


@case("unsloth#8246", "llava-ct-fp8", "matches the targets of group_0 and group_1", "list disjoint targets")
def _(c):
    """Targets of two groups overlap."""
    group = c.quantization["config_groups"]["group_0"]
    c.quantization["config_groups"]["group_1"] = {**group, "targets": ["re:.*mlp.*"]}


@case("vllm#46929", "llava-int8-modelopt", "no engine reads int8_sq (quant_algo W8A8_SQ_PER_CHANNEL)", "choose another format or layout", warning=True)
def _(c):
    """An algorithm that vLLM has no method for."""


@case("Model-Optimizer-0.46-null", "qwen-fp8", "quant_algo is null: this checkpoint was not quantized")
def _(c):
    """Nothing was selected: quant_algo is null and all linears are plain."""
    c.dequantize(r"layers\.\d+\.\w+\.\w+_proj")
    c.quantization["quant_algo"] = c.second["quantization"]["quant_algo"] = None


@case("Model-Optimizer-0.46-keyless", "qwen-fp8", "quantization_config has no quant_algo", "write the algorithm of the stored tensors")
def _(c):
    """quant_algo is gone."""
    del c.quantization["quant_algo"], c.second["quantization"]["quant_algo"]


@case("vllm#25706", "qwen-fp8", "quantization_config has exclude_modules; vllm and sglang read 'ignore' here", "rename exclude_modules to ignore")
def _(c):
    """config.json has the key of hf_quant_config.json."""
    c.quantization["exclude_modules"] = c.quantization.pop("ignore")


@case("vllm#25706-reverse", "qwen-fp8", "hf_quant_config.json has 'ignore'; engines read exclude_modules here")
def _(c):
    """hf_quant_config.json has the key of config.json."""
    c.second["quantization"]["ignore"] = c.second["quantization"].pop("exclude_modules")


for key in ("group_size", "kv_cache_quant_algo", "exclude_modules"):

    @case(f"Model-Optimizer#816-{key}", "moe-nvfp4", f"hf_quant_config.json lacks {key}: vLLM refuses NVFP4 without it")
    def _(c, key=key):
        """hf_quant_config.json lacks a key."""
        del c.second["quantization"][key]


@case("vllm#11122", "qwen-fp8", "quantization_config is in text_config", "move it to the top level")
def _(c):
    """The configuration is where engines do not look."""
    c.config["text_config"] = {"quantization_config": c.config.pop("quantization_config")}


@case("vllm#11122-twice", "llava-ct-fp8", "quantization_config in text_config contradicts the one at the top level", "delete the nested one")
def _(c):
    """Two configurations say different things."""
    c.config["text_config"]["quantization_config"] = {"quant_method": "awq"}


@case("llm-compressor#2255", "llava-w4a16", "weight_zero_point' is stored, but config_groups say symmetric", "symmetric: false")
def _(c):
    """Zero points are stored where the configuration says symmetric."""
    for name in c.names(r"weight_scale$"):
        rows, groups = c.tensors[name].shape
        c.tensors[name.replace("weight_scale", "weight_zero_point")] = torch.zeros(rows // 8, groups, dtype=torch.int32)


@case("llm-compressor#2255-none", "llava-w4a16-asym", "weight_zero_point' is missing")
def _(c):
    """Zero points are missing where the configuration says asymmetric."""
    c.drop("weight_zero_point$")


@case("vllm#17862", "llava-w4a16-asym", "weight_zero_point' is I8 [", "not I32 [")
def _(c):
    """Zero points are stored one a byte."""
    for name in c.names("weight_zero_point$"):
        rows, groups = c.tensors[name].shape
        c.tensors[name] = torch.zeros(rows * 8, groups, dtype=torch.int8)


# Shapes, types and leftovers.


@case("vllm#53105", "llava-ct-fp8", "layers.0.self_attn.q_proj.weight_scale' is BF16 [128], not BF16 [128, 1]")
def _(c):
    """Scales of channels are [out], not [out, 1]."""
    for name in c.names("weight_scale$"):
        c.tensors[name] = c.tensors[name].flatten()


@case("Model-Optimizer#2038", "llava-nvfp4", "layers.0.self_attn.q_proj.weight_scale' is F8_E4M3 [128, 4], not F8_E4M3 [128, 8]")
def _(c):
    """Scales were computed from packed bytes: half as many."""
    for name in c.names(r"language_model.*weight_scale$"):
        c.tensors[name] = c.tensors[name].view(U8)[:, ::2].contiguous().view(FP8)


@case("Model-Optimizer#2038-leak", "llava-nvfp4", "q_proj.weight_quantizer._double_scale'", "it is a buffer of ModelOpt", "delete it")
def _(c):
    """Buffers of the quantizer are stored."""
    c.tensors[c.module("layers.0.self_attn.q_proj") + ".weight_quantizer._double_scale"] = torch.tensor(1.0)


@case("Model-Optimizer#2038-bare", "llava-nvfp4", "q_proj._double_scale'", "it is a buffer of ModelOpt")
def _(c):
    """Buffers of the quantizer are stored, without its name."""
    c.tensors[c.module("layers.0.self_attn.q_proj") + "._double_scale"] = torch.tensor(1.0)


@case("Model-Optimizer-0.46-qlora", "llava-nvfp4", "q_proj.weight_scale_2' is missing", "engines leave it uninitialised")
def _(c):
    """weight_scale_2 was dropped with the adapter's level."""
    c.drop("weight_scale_2$")


@case("Model-Optimizer-0.46-bias", "qwen-fp8", "layers.1.self_attn.q_proj.bias' is missing; config.json asks for one of shape [128]")
def _(c):
    """A bias was dropped with the adapter's level."""
    c.drop(r"layers\.1\.self_attn\.q_proj\.bias$")


@case("Model-Optimizer-0.46-base-layer", "llava-nvfp4", "q_proj.base_layer.weight'", "it is a level that adapters add")
def _(c):
    """The adapter's level is in the names."""
    c.rename(r"layers\.0\.self_attn\.q_proj\.", "layers.0.self_attn.q_proj.base_layer.")


@case("llm-compressor#951", "llava-ct-fp8", "q_proj.weight' is BF16, though", "the export was not compressed")
def _(c):
    """The configuration says FP8, the weights are BF16 beside their scales."""
    for name in c.names(r"layers\.\d+\.\w+\.\w+_proj\.weight$"):
        c.tensors[name] = c.tensors[name].to(torch.bfloat16)


@case("llm-compressor#1075", "llava-ct-fp8", "0 of ", "linears are quantized: this checkpoint has its original size")
def _(c):
    """The configuration says FP8, everything is BF16."""
    c.dequantize(r"language_model.*_proj")


@case("vllm#32859", "qwen-fp8", "q_proj.activation_scale': vllm and sglang call it input_scale", "rename it to")
def _(c):
    """Scales have other names."""
    c.rename(r"\.input_scale$", ".activation_scale")


@case("vllm#32859-scalar", "qwen-hf-fp8", "q_proj.weight_scale_inv' is F32 [1], not F32 [1, 1]")
def _(c):
    """One scale a tensor, where the configuration says blocks."""
    for name in c.names("weight_scale_inv$"):
        c.tensors[name] = c.tensors[name].flatten()[:1]


@case("modular#6600", "llava-w4a16-nvfp4-ct", "weight_global_scale' is", "looks like ModelOpt's convention", "store its reciprocal")
def _(c):
    """compressed-tensors with ModelOpt's global scales."""
    for name in c.names("weight_global_scale$"):
        c.tensors[name] = 1 / c.tensors[name]


@case("modular#6600-reverse", "llava-nvfp4", "weight_scale_2' is", "looks like compressed-tensors' convention")
def _(c):
    """ModelOpt with the global scales of compressed-tensors."""
    for name in c.names("weight_scale_2$"):
        c.tensors[name] = 1 / c.tensors[name]


@case("TensorRT-LLM#16447", "llava-w4a16-nvfp4-ct", "weight_global_scale' is 0: engines divide by it")
def _(c):
    """A global scale of 0."""
    c.tensors[c.name("weight_global_scale$")].zero_()


# Names.


@case("Model-Optimizer-0.46-prefix", "gemma-ct-fp8", "the language model's tensors are named 'vision_model.", "no engine has them there")
def _(c):
    """The tower's prefix went to all names."""
    c.rename(r"^", "vision_model.")


@case("llm-compressor#2568", "moe-nvfp4", "language_model.language_model.", "no loader maps such names", "name them 'model.language_model.layers.0")
def _(c):
    """A segment of the names is repeated."""
    c.rename(r"^model\.language_model\.", "model.language_model.language_model.language_model.")


@case("Model-Optimizer-0.46-memory", "moe-nvfp4", "mlp.experts.gate_up_proj_weight_scale'", "hang on the name by an underscore")
def _(c):
    """The experts are stored as transformers holds them in memory."""
    for end, members in (("gate_up_proj", ["gate_proj", "up_proj"]), ("down_proj", ["down_proj"])):
        for suffix in ("weight", "weight_scale"):
            parts = [torch.cat([c.tensors.pop(f"model.language_model.layers.0.mlp.experts.{i}.{m}.{suffix}").view(U8) for m in members]) for i in range(6)]
            c.tensors[f"model.language_model.layers.0.mlp.experts.{end}{'' if suffix == 'weight' else '_' + suffix}"] = torch.stack(parts)
    c.drop(r"layers\.0\.mlp\.experts\.\d+\.")


@case("sglang#26745", "qwen-fp8", "0 of", "tensors of the vision tower ('model.visual.…') are stored", "SGLang serves NaN")
def _(c):
    """All vision tensors are absent."""
    c.drop("^visual")


@case("sglang#16235", "qwen-fp8", "layers.1.mlp.down_proj.weight' is missing; config.json asks for one of shape")
def _(c):
    """A linear is absent."""
    c.drop(r"layers\.1\.mlp\.down_proj\.")


@case("sglang#26745-layers", "qwen-fp8", "layers.3.input_layernorm.weight' is missing")
def _(c):
    """config.json has one more layer than is stored."""
    text = c.config.get("text_config", c.config)
    text["num_hidden_layers"] += 1
    text.pop("layer_types", None)


@case("sglang#2935", "qwen-fp8", "sglang: tie_word_embeddings is true, but 'lm_head.weight' is stored (equal to the embedding)", "delete it")
def _(c):
    """A tied model with a second head."""
    c.tensors["lm_head.weight"] = c.tensors[c.name("embed_tokens.weight")].clone()


@case("sglang#2935-unequal", "qwen-fp8", "stored (unlike the embedding)", "set tie_word_embeddings to false", warning=True)
def _(c):
    """A tied model with another head."""
    c.tensors["lm_head.weight"] = c.tensors[c.name("embed_tokens.weight")] * 2


@case("Model-Optimizer-0.47", "llava-ct-fp8", "'lm_head.weight' is missing, though tie_word_embeddings is false")
def _(c):
    """An untied head was taken for a tied one."""
    c.drop("lm_head")


@case("vllm#25047", "llava-ct-fp8-kv", "qkv_proj.k_scale' is under a name that not all loaders map", "self_attn.k_scale")
def _(c):
    """KV scales hang on the fused name."""
    c.rename(r"self_attn\.([kv])_scale$", r"self_attn.qkv_proj.\1_scale")


@case("llm-compressor#967", "llava-ct-fp8-kv", "KV scales are stored", "the configuration announces none", "write kv_cache_scheme, or delete the scales")
def _(c):
    """KV scales that the configuration does not announce."""
    c.quantization["kv_cache_scheme"] = None


@case("llm-compressor#967-half", "llava-ct-fp8-kv", "layers.0.self_attn.k_scale' is stored without", "v_scale'")
def _(c):
    """The keys have scales, the values none."""
    c.drop(r"\.v_scale$")


@case("llm-compressor#967-layer", "llava-ct-fp8-kv", "layers.1.self_attn.k_scale' is missing, though the configuration announces a KV cache")
def _(c):
    """A layer without KV scales."""
    c.drop(r"layers\.1\.self_attn\.[kv]_scale$")


@case("omlx#2732", "qwen-fp8", "tensors of draft layers (mtp.) are stored", warning=True)
def _(c):
    """Draft layers are stored that config.json does not mention."""
    c.tensors["mtp.fc.weight"] = torch.zeros(4, 4).bfloat16()


# Files.


@case("vllm#34859", "llava-ct-fp8", "model.safetensors.index.json names model-00002-of-00003.safetensors, which is missing", "tensors: fetch or write")
def _(c):
    """The index names a shard that is absent."""
    c.split(3)
    c.after.append(lambda folder: (folder / "model-00002-of-00003.safetensors").unlink())


@case("sglang#32279", "llava-ct-fp8", "model-00002-of-00003.safetensors", "fetch or write the file again")
def _(c):
    """A shard is cut off."""
    c.split(3)

    def cut(folder):
        path = folder / "model-00002-of-00003.safetensors"
        path.write_bytes(path.read_bytes()[:-100])

    c.after.append(cut)


@case("mlx-vlm#1329", "llava-ct-fp8", "model.safetensors is not in the index", "delete what is stale")
def _(c):
    """A second model.safetensors lies beside the shards."""
    c.split(2)
    c.after.append(lambda folder: save_file({"lm_head.weight": torch.zeros(4, 4)}, folder / WEIGHTS))


@case("mlx-vlm#1827", "llava-ct-fp8", "the index lists", "tensors, the shards hold", "write the index anew")
def _(c):
    """The index is of an earlier run."""
    c.split(2)

    def add(folder):
        path = folder / (WEIGHTS + ".index.json")
        index = json.loads(path.read_text())
        index["weight_map"]["model.old.weight"] = next(iter(index["weight_map"].values()))
        path.write_text(json.dumps(index))

    c.after.append(add)


# Bad input of other kinds: half-written, contradictory, unknown.


@case("bad:weights-missing", "llava-ct-fp8", "no .safetensors file", "fetch or write")
def _(c):
    """A configuration without weights."""
    c.after.append(lambda folder: (folder / WEIGHTS).unlink())


@case("bad:method-misspelt", "llava-ct-fp8", "quant_method 'compressed_tensors' is one that no engine knows", "write 'compressed-tensors'")
def _(c):
    """quant_method is misspelt."""
    c.quantization["quant_method"] = "compressed_tensors"


@case("bad:method-null", "llava-ct-fp8", "quant_method is null")
def _(c):
    """quant_method is null."""
    c.quantization["quant_method"] = None


@case("bad:algorithm-case", "qwen-fp8", "quant_algo 'fp8' is one that no engine knows", "write 'FP8'")
def _(c):
    """quant_algo is in lower case."""
    c.quantization["quant_algo"] = c.second["quantization"]["quant_algo"] = "fp8"


@case("bad:algorithm-unknown", "qwen-fp8", "quant_algo 'INT2' is one that no engine knows")
def _(c):
    """An algorithm that does not exist."""
    c.quantization["quant_algo"] = "INT2"


@case("bad:format-contradicts", "llava-ct-fp8", "format 'pack-quantized' contradicts the weights of group_0 (float of 8 bits)")
def _(c):
    """format and group contradict each other."""
    c.quantization["format"] = "pack-quantized"


@case("bad:group-size", "llava-w4a16", "strategy 'group' without a group_size")
def _(c):
    """A group without its size."""
    del c.quantization["config_groups"]["group_0"]["weights"]["group_size"]


@case("bad:group-size-disagrees", "llava-w4a16", "weight_scale' is BF16 [", "not BF16 [")
def _(c):
    """Scales of another group size than the configuration's."""
    for name in c.names("weight_scale$"):
        c.tensors[name] = c.tensors[name].repeat(1, 2)


@case("bad:no-groups", "llava-ct-fp8", "config_groups is missing or empty")
def _(c):
    """No groups."""
    c.quantization["config_groups"] = {}


@case("Model-Optimizer#479-mixed", "llava-mixed", "quantized_layers lists 'model.layers.language_model.layers.0.", "which is no quantized linear of the files")
def _(c):
    """quantized_layers has names with a prefix that no tensor has."""
    for part in (c.quantization, c.second["quantization"]):
        part["quantized_layers"] = {name.replace("language_model.model.", "model.layers.language_model."): value
                                    for name, value in part["quantized_layers"].items()}  # fmt: skip


@case("vllm#25378-mixed", "llava-mixed", "layers.1.self_attn.q_proj' and", "v_proj', which are fused, have unlike schemes")
def _(c):
    """Of a fused group, one linear has another format."""
    module = c.module(r"language_model.*layers\.1\.self_attn\.v_proj")
    for part in (c.quantization, c.second["quantization"]):
        part["quantized_layers"][module]["quant_algo"] = "NVFP4" if part["quantized_layers"][module]["quant_algo"] == "FP8" else "FP8"


@case("bad:control-characters", "llava-ct-fp8", "quant_method 'a  b' is one that no engine knows")
def _(c):
    """A word holds line breaks."""
    c.quantization["quant_method"] = "a\n\x1bb"


@case("bad:no-configuration", "qwen-fp8", "only hf_quant_config.json says how the checkpoint is quantized", "copy it into config.json",
      warning=True)
def _(c):
    """config.json says nothing."""
    del c.config["quantization_config"]


@case("bad:second-missing", "qwen-fp8", "hf_quant_config.json is missing: TensorRT-LLM reads it first")
def _(c):
    """hf_quant_config.json is absent."""
    c.second = None


@case("bad:second-disagrees", "qwen-fp8", "quant_algo is \"FP8\" in config.json and \"NVFP4\" in hf_quant_config.json")
def _(c):
    """The two configurations disagree."""
    c.second["quantization"]["quant_algo"] = "NVFP4"


@case("bad:second-broken", "qwen-fp8", "hf_quant_config.json: not valid JSON", "write the file anew")
def _(c):
    """hf_quant_config.json is no JSON."""
    c.after.append(lambda folder: (folder / "hf_quant_config.json").write_text("{"))


@case("bad:config-broken", "qwen-fp8", "config.json: not valid JSON", "write a config.json that is one JSON object")
def _(c):
    """config.json is no JSON."""
    c.after.append(lambda folder: (folder / "config.json").write_text('{"architectures": ['))


@case("bad:nan", "llava-ct-fp8", "weight_scale' holds a NaN or an infinity")
def _(c):
    """A scale is NaN."""
    c.tensors[c.name("weight_scale$")][0] = float("nan")


@case("bad:negative", "llava-ct-fp8", "weight_scale' holds a negative number")
def _(c):
    """A scale is negative."""
    c.tensors[c.name("weight_scale$")][0] = -1.0


@case("bad:rows-packed", "llava-w4a16", "layers.0.self_attn.q_proj.weight_packed' is I32 [16, 128], not I32 [128, 16]")
def _(c):
    """INT4 packed along the rows."""
    for name in c.names("weight_packed$"):
        rows, words = c.tensors[name].shape
        c.tensors[name] = c.tensors[name].reshape(rows // 8, words * 8)


@case("bad:unknown-architecture", "qwen-fp8", "layers.1.mlp.down_proj.weight' is missing, though")
def _(c):
    """Of a family that visq does not know, a linear is absent."""
    c.config["architectures"] = ["SomeoneElsesForConditionalGeneration"]
    for layer in (3, 4):
        for name in c.names(r"layers\.0\."):
            c.tensors[name.replace("layers.0.", f"layers.{layer}.")] = c.tensors[name].clone()
    c.drop(r"layers\.1\.mlp\.down_proj\.")


@case("gptqmodel-names", "llava-gptq", "vllm: 'vision_tower.encoder.", "does not know names that begin with 'vision_tower.encoder.'")
def _(c):
    """The tower has the names that transformers 5 gives it, without the level vision_model."""
    c.rename(r"^vision_tower\.vision_model\.", "vision_tower.")


@case("gptqmodel-list", "llava-gptq", "sglang: 'vision_tower.vision_model.", "no entry of dynamic covers it", '"-:.*vision_tower.*" to dynamic')
def _(c):
    """Nothing says that the tower is not quantized."""
    del c.quantization["dynamic"]


@case("gptqmodel-order", "llava-gptq", "vllm: does not read INT4", "columns by importance (desc_act)", "serve it with sglang", engine="vllm")
def _(c):
    """Columns are grouped by their importance."""
    c.quantization["desc_act"] = True
