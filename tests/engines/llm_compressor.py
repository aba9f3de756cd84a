"""llm-compressor's own exports of a checkpoint: llm_compressor.py SOURCE OUT NAME... writes OUT/NAME for each preset scheme.

NAME is a preset of compressed-tensors, "SCHEME+kv" with an FP8 KV cache, or "SCHEME+gptq". As its examples do for VLMs: linears of the
text model, by a list of regular expressions; a few texts for whatever asks for data.
"""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "demo" / "make"))
import compat  # noqa: E402,F401  (declares torchvision's operators; before transformers)
import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from llmcompressor import oneshot  # noqa: E402
from llmcompressor.modifiers.gptq import GPTQModifier  # noqa: E402
from llmcompressor.modifiers.quantization import QuantizationModifier  # noqa: E402
from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: E402

IGNORE = ["re:.*lm_head", "re:.*vision_tower.*", "re:.*visual.*", "re:.*multi_modal_projector.*", "re:.*mlp.gate$"]
WITHOUT_DATA = ("FP8_DYNAMIC", "FP8_BLOCK", "W8A16", "W4AFP8", "NVFP4A16", "MXFP4", "MXFP4A16", "MXFP8")
KV_CACHE = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}


def texts(count=8, length=32, vocabulary=512):
    random = torch.Generator().manual_seed(1)
    rows = torch.randint(100, vocabulary, (count, length), generator=random).tolist()
    return Dataset.from_list([{"input_ids": row, "attention_mask": [1] * length} for row in rows])


def batch(rows):
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


def export(source, out, name):
    model = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.bfloat16)
    scheme, _, option = name.partition("+")
    modifier = GPTQModifier if option == "gptq" else QuantizationModifier
    recipe = modifier(targets="Linear", scheme=scheme, ignore=IGNORE, kv_cache_scheme=KV_CACHE if option == "kv" else None)
    data = {} if scheme in WITHOUT_DATA else dict(dataset=texts(), data_collator=batch, num_calibration_samples=8, max_seq_length=32)
    oneshot(model=model, recipe=recipe, **data)
    model.save_pretrained(out, save_compressed=True)
    AutoProcessor.from_pretrained(source).save_pretrained(out)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    source, out, *names = sys.argv[1:]
    for name in names:
        export(source, Path(out) / name, name)
