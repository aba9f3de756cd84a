"""Checkpoints as llm-compressor saves them, made with the compressed-tensors package alone: min-max scales of a tiny model."""

import json
import shutil

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme, apply_quantization_config
from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme
from compressed_tensors.quantization.utils.helpers import calculate_qparams, generate_gparam
from transformers import AutoModelForImageTextToText

IGNORE = ["re:.*lm_head", "re:.*vision_tower.*", "re:.*visual.*", "re:.*multi_modal_projector.*"]
INPUT_AMAX = 6.0  # of every linear, where scales are static


def blocks_of(weight, args):
    """[scales..., values that share one]"""
    rows, columns = weight.shape
    if args.strategy == "tensor":
        return weight.reshape(1, -1)
    if args.strategy == "channel":
        return weight.unsqueeze(1)
    if args.strategy == "block":
        weight = torch.nn.functional.pad(weight, (0, -columns % 128, 0, -rows % 128))
        return weight.view(-(-rows // 128), 128, -(-columns // 128), 128).transpose(1, 2).flatten(2)
    return weight.view(rows, -1, args.group_size)


@torch.no_grad()
def fill(module, together):
    """What an observer would have found. Scales of whole matrices are those of all that engines fuse."""
    args, inputs = module.quantization_scheme.weights, module.quantization_scheme.input_activations
    values = blocks_of(module.weight.float(), args)
    low, high = values.amin(-1), values.amax(-1)
    least, most = (torch.stack([extreme(other.weight.float()) for other in together]) for extreme in (torch.min, torch.max))
    if args.strategy == "tensor":
        low, high = least.min().view(1), most.max().view(1)
    total = None
    if args.strategy == "tensor_group":
        total = generate_gparam(least.min(), most.max())
        module.weight_global_scale.copy_(total)
    scale, zero = calculate_qparams(low, high, args, global_scale=total)
    module.weight_scale.copy_(scale.view(module.weight_scale.shape))
    if getattr(module, "weight_zero_point", None) is not None:
        module.weight_zero_point.copy_(zero.view(module.weight_zero_point.shape))
    if inputs is None:
        return
    amax = torch.tensor([INPUT_AMAX])
    if inputs.dynamic is False:
        module.input_scale.copy_(calculate_qparams(-amax, amax, inputs)[0])
    if inputs.dynamic == "local":
        module.input_global_scale.copy_(generate_gparam(-amax, amax))


def fused_with(model, name):
    parent, _, leaf = name.rpartition(".")
    for leaves in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")):
        if leaf in leaves:
            return [model.get_submodule(f"{parent}.{other}") for other in leaves]
    return [model.get_submodule(name)]


def groups_of(preset, targets=("Linear",), **weights):
    """One group of a preset, with arguments of the weights changed."""
    scheme = preset_name_to_scheme(preset, list(targets))
    args = scheme.weights.model_dump() | weights
    return QuantizationScheme(**(scheme.model_dump() | {"weights": args}))


def export(source, folder, groups, dtype=torch.bfloat16, kv_cache=None):
    """@param groups  QuantizationSchemes"""
    model = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype)
    config = QuantizationConfig(config_groups={f"group_{i}": group for i, group in enumerate(groups)}, ignore=IGNORE,
                                kv_cache_scheme=kv_cache)  # fmt: skip
    apply_quantization_config(model, config)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and hasattr(module, "quantization_scheme"):
            fill(module, fused_with(model, name))
        elif hasattr(module, "k_scale"):
            module.k_scale.data.fill_(0.05)
            module.v_scale.data.fill_(0.04)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    for file in source.iterdir():
        if file.suffix in (".json", ".jinja") and file.name not in ("config.json", "model.safetensors.index.json"):
            shutil.copy(file, folder / file.name)
    return folder


def change_config(folder, change):
    """Applies `change` to the quantization_config."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config["quantization_config"])
    path.write_text(json.dumps(config))
