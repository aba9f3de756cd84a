"""A tiny Phi-4-multimodal in the layout of its own repository: base layers, and adapters for vision and speech beside them."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
import forward_models as toy  # noqa: E402

RANKS = {"vision": 6, "speech": 4}
SCALE = 2.0
LINEARS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
RENAMED = [("global_img_feature_extensor", "glb_GN"), ("sub_img_feature_extensor", "sub_GN"),
           ("img_projection_up", "img_projection.0"), ("img_projection_down", "img_projection.2")]  # fmt: skip


class Phi4MM:
    """Takes the place of a transformers model where one is saved: see save()."""

    def __init__(self):
        self.native, self.tokenizer, _, self.files = toy.make_phi4()
        generator = torch.Generator().manual_seed(5)
        self.adapters = {}  # (module, adapter) -> A, B
        for name, module in self.native.named_modules():
            if not name.startswith("model.layers.") or not name.endswith(LINEARS):
                continue
            for adapter, rank in RANKS.items():
                rows, columns = module.weight.shape
                self.adapters[name, adapter] = (0.1 * torch.randn(rank, columns, generator=generator),
                                                0.1 * torch.randn(rows, rank, generator=generator))  # fmt: skip

    def tensors(self):
        tensors = {}
        for name, tensor in self.native.state_dict().items():
            if name == "lm_head.weight":
                continue
            module = name.removesuffix(".weight")
            if (module, "vision") in self.adapters:
                name = module + ".base_layer.weight"
            if ".image_embed." in name:
                for old, new in RENAMED:
                    name = name.replace(old, new)
            tensors[name] = tensor.contiguous()
        for (module, adapter), (a, b) in self.adapters.items():
            tensors |= {f"{module}.lora_A.{adapter}.weight": a, f"{module}.lora_B.{adapter}.weight": b}
        return tensors

    def merged(self):
        """The native model that samples with images see: the vision adapter in its weights."""
        state = self.native.state_dict()
        for (module, adapter), (a, b) in self.adapters.items():
            if adapter == "vision":
                state[module + ".weight"] = state[module + ".weight"] + SCALE * b @ a
        model = type(self.native)._from_config(self.native.config, attn_implementation="eager").eval()
        model.load_state_dict(state)
        return model

    def save(self, folder):
        folder.mkdir()
        save_file(self.tensors(), folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads(self.native.config.to_json_string(use_diff=True))
        toy.older_config(config)
        config |= {"architectures": ["Phi4MMForCausalLM"], "model_type": "phi4mm"}
        config |= {f"{adapter}_lora": {"r": rank, "lora_alpha": SCALE * rank} for adapter, rank in RANKS.items()}
        files = {**self.files, "config.json": config}
        files["preprocessor_config.json"] = {"image_processor_type": "Phi4MMImageProcessor", "dynamic_hd": 2}
        for name, value in files.items():
            (folder / name).write_text(json.dumps(value, indent=1))
        (folder / "chat_template.jinja").write_text(toy.PHI)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        return folder
