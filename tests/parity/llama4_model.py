"""A tiny random Llama 4: chunks shorter than the texts, a layer without rope, dense and sparse layers, as Maverick."""

import forward_models as toy
from transformers import Llama4Config, Llama4ForConditionalGeneration
from transformers.models.llama4.processing_llama4 import chat_template

MARKS = ["<|header_start|>", "<|header_end|>", "<|eot|>", "<|image_start|>", "<|image_end|>", "<|tile_x_separator|>",
         "<|tile_y_separator|>", "<|patch|>", "<|image|>"]  # fmt: skip


SCOUT = range(4)  # its layers are all sparse


def make(qk_norm=True, sparse=(1, 3)):
    tokenizer, tokenizer_config = toy.fast_tokenizer(["<|begin_of_text|>", *MARKS])
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
    size = toy.text_size()
    text = dict(
        **{**size, "num_hidden_layers": 4, "intermediate_size": 128 if toy.WIDE else 48}, head_dim=size["hidden_size"] // 4,
        intermediate_size_mlp=size["intermediate_size"], num_local_experts=4, moe_layers=list(sparse), interleave_moe_layer_step=4 // len(sparse), use_qk_norm=qk_norm,
        no_rope_layers=[1, 1, 1, 0], attention_chunk_size=9, floor_scale=5, attn_scale=0.3, rope_parameters=rope,
        bos_token_id=tokenizer.token_to_id("<|begin_of_text|>"), eos_token_id=tokenizer.token_to_id("<|eot|>"),
        pad_token_id=tokenizer.token_to_id("<|endoftext|>"),
    )  # fmt: skip
    config = Llama4Config(
        text_config=text,
        vision_config=dict(hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, image_size=32,
                           patch_size=8, projector_input_dim=80, projector_output_dim=80, vision_output_dim=80,
                           rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
        boi_token_index=tokenizer.token_to_id("<|image_start|>"), eoi_token_index=tokenizer.token_to_id("<|image_end|>"),
        image_token_index=tokenizer.token_to_id("<|patch|>"),
    )  # fmt: skip
    model = toy.randomize(Llama4ForConditionalGeneration(config))
    files = {
        "preprocessor_config.json": {"image_processor_type": "Llama4ImageProcessorFast", "size": {"height": 32, "width": 32},
                                     "max_patches": 4},
        "processor_config.json": {"processor_class": "Llama4Processor", "patch_size": 8, "pixel_shuffle_ratio": 0.5},
        "tokenizer_config.json": {**tokenizer_config, "bos_token": "<|begin_of_text|>", "eos_token": "<|eot|>"},
    }  # fmt: skip
    return model, tokenizer, chat_template, files
