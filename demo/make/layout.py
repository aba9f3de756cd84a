"""What the model is: sizes, special tokens, prompt, and the small files of a LLaVA 1.5 checkpoint as hubs have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

UNK, BOS, EOS, IMAGE, PAD = "<unk>", "<s>", "</s>", "<image>", "<pad>"
UNK_ID, BOS_ID, EOS_ID = 0, 1, 2
# As in LLaVA 1.5 (32000, 32001 of 32064 rows): the two added tokens follow the text vocabulary, then unused rows.
TEXT_VOCAB = 1000
IMAGE_ID, PAD_ID = TEXT_VOCAB, TEXT_VOCAB + 1
VOCAB_ROWS = 1024

IMAGE_SIDE = 64
PATCH = 8
IMAGE_TOKENS = (IMAGE_SIDE // PATCH) ** 2

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]

# LLaVA 1.5's template (images first, then texts, one space after each text), extended by plain-string contents.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] + ' ' }}"
    "{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' ' }}{% endfor %}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def model_config() -> dict[str, Any]:
    """config.json. Widths are multiples of 128, so that every group size and packed layout fits."""
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_seq_length": IMAGE_TOKENS,
        "image_token_index": IMAGE_ID,
        "model_type": "llava",
        "multimodal_projector_bias": True,
        "pad_token_id": PAD_ID,
        "projector_hidden_act": "gelu",
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "bos_token_id": BOS_ID,
            "eos_token_id": EOS_ID,
            "head_dim": 64,
            "hidden_act": "silu",
            "hidden_size": 256,
            "initializer_range": 0.02,
            "intermediate_size": 768,
            "max_position_embeddings": 512,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": 4,
            "num_hidden_layers": 5,
            "num_key_value_heads": 2,
            "pad_token_id": PAD_ID,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "vocab_size": VOCAB_ROWS,
        },
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vision_config": {
            "attention_dropout": 0.0,
            "hidden_act": "quick_gelu",
            "hidden_size": 256,
            "image_size": IMAGE_SIDE,
            "intermediate_size": 512,
            "layer_norm_eps": 1e-05,
            "model_type": "clip_vision_model",
            "num_attention_heads": 4,
            "num_channels": 3,
            "num_hidden_layers": 4,
            "patch_size": PATCH,
            "projection_dim": 256,
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }


def tokenizer_config() -> dict[str, Any]:
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": BOS,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS,
        "extra_special_tokens": {"image_token": IMAGE},
        "image_token": IMAGE,
        "legacy": False,
        "model_max_length": 512,
        "pad_token": PAD,
        "padding_side": "left",
        "processor_class": "LlavaProcessor",
        "tokenizer_class": "LlamaTokenizerFast",
        "unk_token": UNK,
    }


def preprocessor_config() -> dict[str, Any]:
    return {
        "crop_size": {"height": IMAGE_SIDE, "width": IMAGE_SIDE},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": CLIP_MEAN,
        "image_processor_type": "CLIPImageProcessor",
        "image_std": CLIP_STD,
        "processor_class": "LlavaProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": IMAGE_SIDE},
    }


def processor_config() -> dict[str, Any]:
    return {
        "image_token": IMAGE,
        "num_additional_image_tokens": 1,
        "patch_size": PATCH,
        "processor_class": "LlavaProcessor",
        "vision_feature_select_strategy": "default",
    }


def small_files() -> dict[str, Any]:
    """Every JSON file of the checkpoint but tokenizer.json."""
    return {
        "config.json": model_config(),
        "generation_config.json": {
            "_from_model_config": True,
            "bos_token_id": BOS_ID,
            "eos_token_id": EOS_ID,
            "max_new_tokens": 32,
            "pad_token_id": PAD_ID,
        },
        "preprocessor_config.json": preprocessor_config(),
        "processor_config.json": processor_config(),
        "special_tokens_map.json": {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD, "unk_token": UNK},
        "tokenizer_config.json": tokenizer_config(),
    }


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_small_files(directory: Path) -> None:
    """Writes the configuration files and the chat template into a checkpoint directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, value in small_files().items():
        write_json(directory / name, value)
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def hub_name(name: str) -> str:
    """The published spelling of a tensor that transformers 5.x calls `name` in its module tree."""
    if name.startswith("model.language_model."):
        return name.replace("model.language_model.", "language_model.model.", 1)
    if name == "lm_head.weight":
        return "language_model.lm_head.weight"
    if name.startswith("model.vision_tower."):
        rest = name.removeprefix("model.vision_tower.").removeprefix("vision_model.")
        return f"vision_tower.vision_model.{rest}"
    if name.startswith("model.multi_modal_projector."):
        return name.removeprefix("model.")
    raise ValueError(f"tensor '{name}' has no published spelling")
