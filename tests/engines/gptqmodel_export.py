"""gptqmodel's own exports of a checkpoint: gptqmodel_export.py SOURCE OUT NAME... writes OUT/NAME for each of EXPORTS. A few texts for data."""

import os
import sys
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"
os.environ["GPTQMODEL_CPU_WORKERS"] = "2"  # it asks for as many
sys.path.insert(0, str(Path(__file__).parents[2] / "demo" / "make"))
import compat  # noqa: E402,F401  (declares torchvision's operators; before transformers)
import torch  # noqa: E402
from gptqmodel import GPTQModel  # noqa: E402
from gptqmodel.quantization.config import AWQConfig, GPTQConfig  # noqa: E402

EXPORTS = {
    "GPTQ": (GPTQConfig, dict(bits=4, group_size=128)),
    "GPTQ-asym": (GPTQConfig, dict(bits=4, group_size=128, sym=False)),
    "GPTQ-8bit": (GPTQConfig, dict(bits=8, group_size=128)),
    "GPTQ-v2": (GPTQConfig, dict(bits=4, group_size=128, sym=False, format="gptq_v2")),
    "GPTQ-order": (GPTQConfig, dict(bits=4, group_size=128, desc_act=True)),
    "GPTQ-mixed": (GPTQConfig, dict(bits=4, group_size=128, dynamic={r"+:.*\.1\..*": {"bits": 8}})),
    "AWQ": (AWQConfig, dict(bits=4, group_size=128, sym=False)),
    "AWQ-sym": (AWQConfig, dict(bits=4, group_size=128)),
}


TEXTS = ["Is it a cat?", "The quick brown fox jumps over the lazy dog.", "What colour is the object at the top, and what is below?",
         "Four score and seven years ago our fathers brought forth, on this continent, a new nation."]  # fmt: skip
CONVERSATIONS = [[{"role": "user", "content": [{"type": "text", "text": text * 4}]}] for text in TEXTS]


def export(source, out, name):
    kind, options = EXPORTS[name]
    model = GPTQModel.load(source, kind(**options, offload_to_disk=False), device="cpu", dtype=torch.bfloat16)
    model.quantize(CONVERSATIONS, batch_size=1)
    model.save(str(out))


if __name__ == "__main__":
    source, out, *names = sys.argv[1:]
    source, out = Path(source).resolve(), Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(out)  # it writes logs to where it runs
    for name in names:
        export(str(source), out / name, name)
