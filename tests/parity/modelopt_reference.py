"""The demo model in transformers, and ModelOpt's simulation of it: what the quality tests compare with."""
import copy
import json
import pathlib
import sys

import torch

DEMO = pathlib.Path(__file__).resolve().parents[2] / "demo"
sys.path.insert(0, str(DEMO / "make"))
import compat  # noqa: E402,F401  (declares torchvision's operators; before transformers)
from PIL import Image  # noqa: E402
from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: E402

# ModelOpt's presets; NVFP4 calibrates on a CPU but cannot be simulated there.
CONFIGS = {"fp8": "FP8_DEFAULT_CFG", "int8_sq": "INT8_SMOOTHQUANT_CFG", "int4_awq": "INT4_AWQ_CFG",
           "w4a8_awq": "W4A8_AWQ_BETA_CFG", "nvfp4": "NVFP4_DEFAULT_CFG"}


class Demo:
    def __init__(self, directory=DEMO / "model"):
        self.processor = AutoProcessor.from_pretrained(directory)
        self.directory = directory

    def model(self, dtype=torch.float32):
        return AutoModelForImageTextToText.from_pretrained(self.directory, dtype=dtype).eval()

    def encode(self, sample, with_answer=True):
        """Inputs, and how many of the tokens are the prompt's."""
        user, answer = sample["messages"][0], sample["messages"][-1]["content"]
        parts = user["content"] if isinstance(user["content"], list) else [{"type": "text", "text": user["content"]}]
        images = [Image.open(DEMO / part["image"]) for part in parts if part["type"] == "image"] or None
        prompt = "USER: " + "<image>\n" * len(images or []) + "".join(p["text"] + " " for p in parts if p["type"] == "text")
        prompt += "ASSISTANT:"
        length = self.processor(images=images, text=prompt, return_tensors="pt")["input_ids"].shape[1]
        text = f"{prompt} {answer}</s>" if with_answer else prompt
        return self.processor(images=images, text=text, return_tensors="pt"), length


def samples(name, limit=None):
    lines = (DEMO / name).read_text().splitlines()
    return [json.loads(line) for line in lines[:limit]]


def batches(encoded):
    """(places in `encoded`, their inputs as one batch): of equal length, so that nothing is padded. ModelOpt's simulation quantizes
    all weights anew in each pass, AWQ's search eleven times."""
    alike = {}
    for place, (inputs, _) in enumerate(encoded):
        alike.setdefault(tuple((name, tensor.shape) for name, tensor in inputs.items()), []).append(place)
    for places in alike.values():
        yield places, {name: torch.cat([encoded[place][0][name] for place in places]) for name in encoded[places[0]][0]}


@torch.no_grad()
def answer_log_probabilities(model, encoded):
    """Per question: log-probabilities at the positions that predict the answer's tokens."""
    rows = [None] * len(encoded)
    for places, inputs in batches(encoded):
        for place, logits in zip(places, model(**inputs).logits):
            rows[place] = torch.log_softmax(logits[encoded[place][1] - 1 : -1].double(), -1)
    return rows


def kl_per_question(reference, other):
    """Mean KL over the answer tokens of each question."""
    return torch.stack([(p.exp() * (p - q)).sum(-1).mean() for p, q in zip(reference, other)])


def modelopt_quantize(model, name, encoded):
    import modelopt.torch.quantization as mtq

    def forward_loop(m):
        for _, inputs in batches(encoded):
            m(**inputs)

    config = copy.deepcopy(getattr(mtq, CONFIGS[name]))
    config["quant_cfg"].append({"quantizer_name": "*lm_head*", "enable": False})
    with torch.no_grad():
        return mtq.quantize(model, config, forward_loop)
