"""Tiny random VILA checkpoints: a configuration above three folders, llm, vision_tower and mm_projector."""

import json

import forward_models as toy
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    InternVLVisionConfig,
    InternVLVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

# The bundled template "qwen2" of the reference, as training with it saves it into the tokenizer's files.
QWEN2_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{% for message in messages if message['content'] is not none %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

NVILA = {"transformers_version": "4.46.0", "fps": 0.0, "num_time_tokens": 0, "chat_template": "qwen2",
         "image_encoder": json.dumps({"_target_": "llava.model.encoders.BasicImageEncoder"})}  # fmt: skip
S2 = {**NVILA, "image_aspect_ratio": "dynamic_s2", "dynamic_s2": True, "s2_scales": "56,112,168", "max_tiles": 12,
      "s2_resize_output_to_scale_idx": -1}  # fmt: skip
VILA_1_5 = {"transformers_version": "4.36.2", "image_aspect_ratio": "resize"}
FIXED_S2 = {"s2": True, "s2_scales": "112,56,168", "s2_max_split_size": 56}
INTERN = {**VILA_1_5, "mm_vision_select_feature": "patch"}

KINDS = {  # text model, tower and its pixels, projector, keys of the root
    "vila1.5": ("llama", "siglip", 70, "mlp_downsample", VILA_1_5),
    "vila1.5-rows": ("llama", "siglip", 70, "mlp_downsample", {**VILA_1_5, "mm_projector_token_order": "rows"}),
    "vila1.5-pad": ("llama", "clip", 42, "mlp2x_gelu", {**VILA_1_5, "image_aspect_ratio": "pad", "mm_vision_select_feature": "patch"}),
    "vila1.5-linear": ("llama", "siglip", 56, "linear", {**VILA_1_5, "mm_vision_select_layer": -1}),
    "vila1.5-s2": ("llama", "siglip", 56, "mlp_downsample", {**VILA_1_5, **FIXED_S2}),
    "vila1.5-s2-crop": ("llama", "clip", 42, "mlp2x_gelu", {**VILA_1_5, **FIXED_S2, "image_aspect_ratio": None, "s2_scales": "84,126",
                        "s2_max_split_size": 42, "mm_vision_select_feature": "patch"}),
    "vila1.5-intern": ("llama", "intern", 448, "mlp_downsample", INTERN),
    "vila1.5-intern-s2": ("llama", "intern", 224, "mlp_downsample", {**INTERN, **FIXED_S2, "s2_scales": "224,448", "s2_max_split_size": 224}),
    "nvila-s2": ("qwen2", "siglip", 70, "mlp_downsample_3x3_s2", {**NVILA, **FIXED_S2, "image_aspect_ratio": "resize", "s2_scales": "70,140",
                 "s2_max_split_size": 70, "s2_resize_output_to_scale_idx": -1}),
    "nvila": ("qwen2", "siglip", 56, "mlp_downsample", S2),
    "nvila-middle": ("qwen2", "siglip", 56, "mlp_downsample_3x3_s2", {**S2, "s2_resize_output_to_scale_idx": 1, "max_tiles": 9}),
    "nvila-first": ("qwen2", "siglip", 56, "mlp_downsample_3x3_s2_new", {**S2, "s2_resize_output_to_scale_idx": 0}),
    "nvila-two": ("qwen2", "siglip", 56, "mlp_downsample_2x2_fix", {**S2, "s2_scales": "56,112", "max_tiles": 8}),
    "nvila-lite": ("qwen2", "siglip", 56, "mlp_downsample_3x3_fix", {**NVILA, "image_aspect_ratio": "dynamic", "chat_template": None}),
    "nvila-resize": ("qwen2", "siglip", 56, "mlp_downsample", {**NVILA, "image_aspect_ratio": "resize"}),
}  # fmt: skip


def projector(kind, channels, hidden):
    """The reference's Sequential; its parameterless modules stand for activations and cells made one."""

    def steps(side, *widths):
        before, modules = channels * side * side, [nn.Identity()]
        for width in widths:
            modules += [nn.LayerNorm(before), nn.Linear(before, width), nn.GELU()]
            before = width
        return nn.Sequential(*modules, nn.Linear(before, hidden))

    third = channels // 3
    return {
        "linear": lambda: nn.Linear(channels, hidden),
        "mlp2x_gelu": lambda: nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, hidden)),
        "mlp_downsample": lambda: steps(2, hidden),
        "mlp_downsample_2x2_fix": lambda: steps(2, hidden),
        "mlp_downsample_3x3_fix": lambda: steps(3, 3 * channels, hidden),
        "mlp_downsample_3x3_s2": lambda: steps(3, 3 * channels, channels, third, hidden),
        "mlp_downsample_3x3_s2_new": lambda: steps(3, 4 * channels, 2 * channels, channels, third, hidden),
    }[kind]()


def authors_names(tower):
    """InternViT's tensors as its authors spell them, from those of transformers' class."""
    renamed = [("embeddings.cls_token", "embeddings.class_embedding"), ("position_embeddings", "position_embedding"),
               ("patch_embeddings.projection", "patch_embedding"), ("encoder.layer.", "encoder.layers."),
               ("layernorm_before", "norm1"), ("layernorm_after", "norm2"), ("attention.projection_layer", "attn.proj"),
               ("attention.", "attn."), ("lambda_", "ls")]  # fmt: skip
    tensors = {}
    for name, tensor in tower.state_dict().items():
        for old, new in renamed:
            name = name.replace(old, new)
        tensors[name] = tensor
    for query in [name for name in tensors if ".q_proj." in name]:
        parts = [tensors.pop(query.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj")]
        tensors[query.replace("q_proj", "qkv")] = torch.cat(parts)
    return tensors


class Vila:
    def __init__(self, kind):
        text, tower, side, self.projector_type, self.root = KINDS[kind]
        self.kind, self.side, self.legacy = kind, side, kind.startswith("vila1.5")
        self.intern = tower == "intern"
        self.tokenizer = toy.llama_tokenizer() if text == "llama" else toy.qwen_tokenizer(["<image>"])
        if self.intern:  # beside Yi, whose prompts are ChatML
            self.tokenizer.add_special_tokens([toy.special("<|im_start|>"), toy.special("<|im_end|>")])
        # NVILA's embedding ends where the added media tokens begin.
        rows = self.tokenizer.get_vocab_size() if self.intern else self.tokenizer.token_to_id("<image>")
        size = {**toy.text_size(), "vocab_size": rows, "max_position_embeddings": 4096}
        if text == "llama":
            decoder = LlamaForCausalLM(LlamaConfig(**size, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=0))
        else:
            decoder = Qwen2ForCausalLM(Qwen2Config(**size, eos_token_id=self.tokenizer.token_to_id("<|im_end|>")))
        vision = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, patch_size=14, image_size=side)
        if tower == "clip":
            vision_model = CLIPVisionModel(CLIPVisionConfig(**vision))
        elif self.intern:
            vision |= dict(patch_size=56, norm_type="rms_norm", use_qk_norm=True, use_mean_pooling=True, use_mask_token=False)
            vision_model = InternVLVisionModel(InternVLVisionConfig(**vision))
        else:
            vision_model = SiglipVisionModel(SiglipVisionConfig(**vision))
        self.patch = vision.get("patch_size")
        self.decoder, self.tower = toy.randomize(decoder), toy.randomize(vision_model)
        scales = len(self.root["s2_scales"].split(",")) if "s2_scales" in self.root else 1
        self.projector = toy.randomize(projector(self.projector_type, 64 * scales, size["hidden_size"]))
        processor = {"image_processor_type": "SiglipImageProcessor", "size": {"height": side, "width": side}}
        if tower == "clip":
            processor = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": side},
                         "crop_size": {"height": side, "width": side}}  # fmt: skip
        self.processor = {**processor, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}

    def save(self, folder):
        parts = {"llm": self.decoder, "vision_tower": self.tower, "mm_projector": self.projector}
        for name, module in parts.items():
            (folder / name).mkdir(parents=True)
            tensors = {key: tensor.contiguous() for key, tensor in module.state_dict().items() if not key.endswith("position_ids")}
            if name == "mm_projector":
                tensors = {f"layers.{key}": tensor for key, tensor in tensors.items()}
            elif name == "vision_tower" and self.intern:
                tensors = {name: tensor.contiguous() for name, tensor in authors_names(module).items()}
            elif name == "vision_tower":
                tensors = {f"vision_model.{key.removeprefix('vision_model.')}": tensor for key, tensor in tensors.items()}
            if name == "llm":
                save_in_shards(tensors, folder / name)
            else:
                save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
        configs = {}
        for name in ("llm", "vision_tower"):
            configs[name] = json.loads(parts[name].config.to_json_string(use_diff=False))
            configs[name]["architectures"] = [type(parts[name]).__name__]
        if self.intern:
            keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
            configs["vision_tower"] = {key: configs["vision_tower"][key] for key in keys} | {
                "architectures": ["InternVisionModel"], "model_type": "intern_vit_6b", "image_size": self.side, "patch_size": self.patch}  # fmt: skip
        configs["mm_projector"] = {"model_type": "v2l_projector", "mm_projector_type": self.projector_type}
        for name, config in configs.items():
            (folder / name / "config.json").write_text(json.dumps(config, indent=1))
        root = {"architectures": ["LlavaLlamaModel"], "model_type": "llava_llama", "mm_vision_select_feature": "cls_patch",
                "mm_vision_select_layer": -2, **self.root, "vision_tower_cfg": "/train/checkpoints/vision_tower",
                "llm_cfg": {**configs["llm"], "_name_or_path": "/train/llm", "hidden_size": 1},
                "mm_projector_cfg": {"mm_projector_type": "stale"}}  # fmt: skip
        (folder / "config.json").write_text(json.dumps(root, indent=1))
        if not self.intern:  # for which the reference makes one
            (folder / "vision_tower" / "preprocessor_config.json").write_text(json.dumps(self.processor))
        qwen = not self.legacy
        tokens = {"eos_token": "<|im_end|>"} if qwen else {"bos_token": "<s>", "eos_token": "</s>"}
        if self.kind == "nvila-lite":
            tokens["chat_template"] = QWEN2_TEMPLATE
        if self.kind == "vila1.5-intern":
            tokens["chat_template"] = "{{ 'VILA 1.5 does not read this.' }}"
        tokenizer_config = {"tokenizer_class": "Qwen2Tokenizer" if qwen else "LlamaTokenizer", **tokens}
        (folder / "llm" / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
        self.tokenizer.save(str(folder / "llm" / "tokenizer.json"))
        return folder


def save_in_shards(tensors, folder):
    names = sorted(tensors)
    shards = {f"model-{part + 1:05}-of-00002.safetensors": names[part::2] for part in range(2)}
    for shard, own in shards.items():
        save_file({name: tensors[name] for name in own}, folder / shard, metadata={"format": "pt"})
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    weight_map = {name: shard for shard, own in shards.items() for name in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
