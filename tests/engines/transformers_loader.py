"""transformers with the packages that it reads AutoAWQ's and GPTQ's layouts through (gptqmodel, optimum): the logits of a checkpoint.

A question is one JSON line on stdin, its answer one on stdout:

  {"directory": checkpoint, "inputs": file of torch.save([{name: tensor}]), "logits": file to write, "by_gptqmodel": by its own loader}
  {"error": None or what was raised, "layers": classes of the quantized linears}
"""

import json
import os
import sys
import traceback
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # compiling takes longer than all logits
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # gptqmodel prints
sys.path.insert(0, str(Path(__file__).parents[2] / "demo" / "make"))
import compat  # noqa: E402,F401  (declares torchvision's operators; before transformers)
import torch  # noqa: E402
from gptqmodel import BACKEND, GPTQModel  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText  # noqa: E402


def load(directory, by_gptqmodel):
    config = AutoConfig.from_pretrained(directory)
    text_config = config.get_text_config()
    # transformers alone has experts in stacks, which gptqmodel's own loader takes apart.
    if by_gptqmodel or hasattr(text_config, "num_experts") or hasattr(text_config, "num_local_experts"):
        # Where linears have settings of their own, it may choose a kernel for all that fits only the others.
        dynamic = getattr(config, "quantization_config", {}).get("dynamic") or {}
        mixed = any(not pattern.startswith("-:") for pattern in dynamic)
        options = {"backend": BACKEND.GPTQ_TORCH, "dtype": torch.bfloat16} if mixed else {"dtype": torch.float32}
        return GPTQModel.load(directory, device="cpu", **options).model.eval()
    kind = AutoModelForCausalLM if config.model_type == "phi4_multimodal" else AutoModelForImageTextToText
    return kind.from_pretrained(directory, dtype=torch.float32, device_map="cpu").eval()


@torch.no_grad()
def answer(question):
    model = load(question["directory"], question["by_gptqmodel"])
    inputs = [{name: tensor.to(model.dtype) if tensor.is_floating_point() else tensor for name, tensor in one.items()}
              for one in torch.load(question["inputs"])]  # fmt: skip
    torch.save([model(**one).logits[0].float() for one in inputs], question["logits"])
    return sorted({type(module).__name__ for module in model.modules() if hasattr(module, "qweight")})


for line in sys.stdin:
    try:
        reply = {"error": None, "layers": answer(json.loads(line))}
    except Exception as error:
        traceback.print_exc()
        reply = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(reply), file=answers, flush=True)
