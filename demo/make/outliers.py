"""Gives the model the outlier channels that large models have, without changing what it computes.

usage: outliers.py PLAIN.safetensors OUTPUT.safetensors [--seed N]

A model of this size, trained for minutes, has smooth activations that any quantizer handles. Large language models have
a few channels with values tens of times the others', and those are what calibration is about. Three rescalings create
them; each multiplies a channel by a power of two where it is written and divides it where it is read, so every product
stays the same number, also in bfloat16:

  norms   the weight of a norm's channel, against the matching input columns of q/k/v or gate/up
  mlp     a row of up_proj, against the matching column of down_proj
  values  a row of v_proj, against the columns of o_proj that read it (one for each query head of the group)
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from layout import model_config

Tensors = dict[str, torch.Tensor]

NORM_FACTORS = (16, 32, 64)
INNER_FACTORS = (8, 16, 32)
NORM_CHANNELS = 8
MLP_CHANNELS = 16
VALUE_CHANNELS = 4


def strongest(strength: torch.Tensor, count: int) -> list[int]:
    """The channels that carry most: in real models, too, the outlier channels are the ones that matter."""
    return strength.argsort(descending=True, stable=True)[:count].tolist()


def norm_strength(tensors: Tensors, norm: str, readers: tuple[str, ...]) -> torch.Tensor:
    read = sum(tensors[reader].float().square().sum(0) for reader in readers)
    return tensors[norm].float().abs() * read.sqrt()


def mlp_strength(tensors: Tensors, layer: str) -> torch.Tensor:
    written = tensors[f"{layer}.mlp.up_proj.weight"].float().norm(dim=1)
    return written * tensors[f"{layer}.mlp.down_proj.weight"].float().norm(dim=0)


def value_strength(tensors: Tensors, layer: str) -> torch.Tensor:
    return tensors[f"{layer}.self_attn.v_proj.weight"].float().norm(dim=1)


def scale_norm(tensors: Tensors, norm: str, readers: tuple[str, ...], channel: int, factor: int) -> None:
    tensors[norm][channel] *= factor
    for reader in readers:
        tensors[reader][:, channel] /= factor


def scale_mlp(tensors: Tensors, layer: str, channel: int, factor: int) -> None:
    tensors[f"{layer}.mlp.up_proj.weight"][channel] *= factor
    tensors[f"{layer}.mlp.down_proj.weight"][:, channel] /= factor


def scale_value(tensors: Tensors, layer: str, channel: int, factor: int, head_dim: int, group: int) -> None:
    """Query heads `kv * group .. kv * group + group - 1` read the values of kv head `kv`."""
    kv, within = divmod(channel, head_dim)
    tensors[f"{layer}.self_attn.v_proj.weight"][channel] *= factor
    for head in range(kv * group, (kv + 1) * group):
        tensors[f"{layer}.self_attn.o_proj.weight"][:, head * head_dim + within] /= factor


def add_outliers(tensors: Tensors, seed: int) -> None:
    """Rescales a few channels of every decoder layer, in place, by factors drawn from the seed."""
    text = model_config()["text_config"]
    head_dim, group = text["head_dim"], text["num_attention_heads"] // text["num_key_value_heads"]
    rng = random.Random(f"outliers-{seed}")
    for index in range(text["num_hidden_layers"]):
        layer = f"language_model.model.layers.{index}"
        attention = tuple(f"{layer}.self_attn.{name}_proj.weight" for name in "qkv")
        mlp = tuple(f"{layer}.mlp.{name}_proj.weight" for name in ("gate", "up"))
        for norm, readers in (("input_layernorm", attention), ("post_attention_layernorm", mlp)):
            name = f"{layer}.{norm}.weight"
            for channel in strongest(norm_strength(tensors, name, readers), NORM_CHANNELS):
                scale_norm(tensors, name, readers, channel, rng.choice(NORM_FACTORS))
        for channel in strongest(mlp_strength(tensors, layer), MLP_CHANNELS):
            scale_mlp(tensors, layer, channel, rng.choice(INNER_FACTORS))
        for channel in strongest(value_strength(tensors, layer), VALUE_CHANNELS):
            scale_value(tensors, layer, channel, rng.choice(INNER_FACTORS), head_dim, group)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plain", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    tensors = load_file(args.plain)
    add_outliers(tensors, args.seed)
    save_file(dict(sorted(tensors.items())), args.output, metadata={"format": "pt"})
    print(f"{args.output}: outlier channels added")


if __name__ == "__main__":
    main()
