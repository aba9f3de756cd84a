"""ModelOpt's own exports of a checkpoint: modelopt_exports.py SOURCE OUT NAME... writes OUT/NAME for each of its configurations.

NAME is a configuration without "_CFG", or "NAME+FP8_KV" with that KV cache beside it. Linears of the text model alone, as its
vlm_ptq example has it.
"""

import copy
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "demo" / "make"))
import compat  # noqa: E402,F401  (declares torchvision's operators; before transformers)

warnings.simplefilter("ignore")
import modelopt.torch.quantization as mtq  # noqa: E402
import torch  # noqa: E402
from modelopt.torch.export import export_hf_checkpoint  # noqa: E402
from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: E402


@torch.no_grad()
def export(source, out, name):
    model = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.bfloat16).eval()
    format, _, kv_cache = name.partition("+")
    config = copy.deepcopy(getattr(mtq, format + "_CFG"))
    for part in ("lm_head", "visual", "vision_tower", "multi_modal_projector"):
        config["quant_cfg"].append({"quantizer_name": f"*{part}*", "enable": False})
    if kv_cache:
        config["quant_cfg"] += getattr(mtq, kv_cache + "_CFG")["quant_cfg"]
    tokens = torch.randint(100, 512, (8, 32), generator=torch.Generator().manual_seed(1))
    mtq.quantize(model, config, lambda model: model(input_ids=tokens))
    export_hf_checkpoint(model, export_dir=out)
    AutoProcessor.from_pretrained(source).save_pretrained(out)


if __name__ == "__main__":
    source, out, *names = sys.argv[1:]
    for name in names:
        export(source, Path(out) / name, name)
