"""A tiny random Llama-Nemotron-VL: transformers' Llama and RADIO, in the names of the checkpoint's own repository."""

import json

import forward_models as toy
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, RadioConfig, RadioModel

# Llama 3.1's way of turns, which cuts spaces and line breaks off a message's ends.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
TOKENS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<img>", "</img>", "<image>"]
SIDE, PATCH, TILES = 56, 14, 6
RENAMED = [("embeddings.patch_projection", "model.patch_generator.embedder"), ("embeddings.position_embedding", "model.patch_generator.pos_embed"),
           ("embeddings.cls_register_token", "model.patch_generator.cls_token.token"), ("encoder.layer.", "model.blocks."),
           ("attention.o_proj", "attn.proj"), ("attention.", "attn.")]  # fmt: skip


class NemotronVL:
    """@param version  of the pixel shuffle; @param table  patches a side of the table of positions"""

    def __init__(self, version="v2", table=9, thumbnail=True):
        self.version, self.thumbnail, self.table = version, thumbnail, table
        self.tokenizer, self.tokenizer_config = toy.fast_tokenizer(TOKENS)
        self.decoder = toy.randomize(LlamaForCausalLM(toy.text_config("llama")))
        config = RadioConfig(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, mlp_ratio=1.5, patch_size=PATCH,
                             max_img_size=table * PATCH, num_cls_tokens=3, num_registers=2)  # fmt: skip
        self.tower = toy.randomize(RadioModel(config))
        for name, parameter in self.tower.named_parameters():
            if "layer_scale" in name:  # RADIO has none
                parameter.data.fill_(1)
        between, hidden = 48, self.decoder.config.hidden_size
        self.projector = toy.randomize(nn.Sequential(nn.LayerNorm(256), nn.Linear(256, between), nn.GELU(), nn.Linear(between, hidden)))

    def tensors(self):
        tensors = {f"language_model.{name}": tensor for name, tensor in self.decoder.state_dict().items()}
        tensors |= {f"mlp1.{name}": tensor for name, tensor in self.projector.state_dict().items()}
        tower = {name: tensor for name, tensor in self.tower.state_dict().items() if "layer_scale" not in name}
        for name in [name for name in tower if ".q_proj." in name]:
            parts = [tower.pop(name.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj")]
            tower[name.replace("q_proj", "qkv")] = torch.cat(parts)
        for name, tensor in tower.items():
            for old, new in RENAMED:
                name = name.replace(old, new)
            tensors[f"vision_model.radio_model.{name}"] = tensor
        return {name: tensor.contiguous() for name, tensor in tensors.items()}

    def config(self):
        text = json.loads(self.decoder.config.to_json_string(use_diff=False))
        toy.older_config(text)
        args = {"model": "vit_huge_patch16_224", "cpe_max_size": self.table * PATCH, "cls_token_per_teacher": True, "register_multiple": 5,
                "teachers": [{"name": "clip"}, {"name": "siglip"}, {"name": "clip"}, {"name": "sam", "use_summary": False}],
                "model_kwargs": {"embed_dim": 64, "depth": 3, "num_heads": 4, "mlp_ratio": 1.5}}  # fmt: skip
        return {"architectures": ["Llama_Nemotron_Nano_VL"], "model_type": "Llama_Nemotron_Nano_VL", "downsample_ratio": 0.5,
                "force_image_size": SIDE, "image_tag_type": "internvl", "llm_config": text, "patch_size": PATCH,
                "projector_hidden_size": 48, "ps_version": self.version, "vit_hidden_size": 64,
                "vision_config": {"args": args, "patch_size": PATCH, "max_resolution": 2048, "adaptor_names": None}}  # fmt: skip

    def save(self, folder):
        folder.mkdir(parents=True)
        save_file(self.tensors(), folder / "model.safetensors", metadata={"format": "pt"})
        files = {
            "config.json": self.config(),
            "preprocessor_config.json": {"image_processor_type": "LlamaNemotronNanoVLImageProcessor", "image_size": SIDE,
                                         "max_num_tiles": TILES, "use_thumbnail": self.thumbnail, "do_rescale": True},
            "tokenizer_config.json": {**self.tokenizer_config, "chat_template": TEMPLATE},
        }  # fmt: skip
        for name, value in files.items():
            (folder / name).write_text(json.dumps(value, indent=1))
        self.tokenizer.save(str(folder / "tokenizer.json"))
        return folder

    def chat(self, conversation, image):
        """@param conversation  of texts; @return the prompt"""
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=self.tokenizer, bos_token="<bos>")
        messages = [
            {"role": message["role"], "content": "".join(part["text"] if part["type"] == "text" else image for part in message["content"])}
            for message in conversation
        ]
        return tokenizer.apply_chat_template(messages, chat_template=TEMPLATE, tokenize=False, add_generation_prompt=True)
