"""A tiny random Llama-3.2-Vision: two cross-attention layers among five; images of one, two and four tiles."""

import forward_models as toy
from transformers import MllamaConfig, MllamaForConditionalGeneration

# Llama-3.2-11B-Vision-Instruct, the branches that text and images reach, without its date.
TEMPLATE = (
    "{{- bos_token }}{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}{%- for content in message['content'] %}"
    "{%- if content['type'] == 'image' %}{{- '<|image|>' }}{%- elif content['type'] == 'text' %}{{- content['text'] | trim }}"
    "{%- endif %}{%- endfor %}{{- '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
GATES = ("gate", "gate_attn", "gate_ffn", "attn_gate", "mlp_gate")


def make():
    tokenizer, tokenizer_config = toy.fast_tokenizer(["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|image|>"])
    image = tokenizer.token_to_id("<|image|>")  # the first row of the embedding that the head lacks
    ids = {name: tokenizer.token_to_id(token) for name, token in
           {"bos_token_id": "<bos>", "eos_token_id": "<|eot_id|>", "pad_token_id": "<|endoftext|>"}.items()}  # fmt: skip
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
    text = {**toy.text_size(), "num_hidden_layers": 5, "vocab_size": image}
    config = MllamaConfig(
        text_config=dict(**text, **ids, cross_attention_layers=[1, 3], rope_parameters=rope, max_position_embeddings=2048),
        vision_config=dict(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_global_layers=2, attention_heads=4,
                           image_size=112, patch_size=28, intermediate_layers_indices=[0, 2], vision_output_dim=192),
        image_token_index=image,
    )  # fmt: skip
    model = toy.randomize(MllamaForConditionalGeneration._from_config(config, attn_implementation="eager"))
    for place, (name, parameter) in enumerate(model.named_parameters()):
        if name.rsplit(".", 1)[-1].removeprefix("cross_attn_") in GATES:
            parameter.data.fill_(0.5 + 0.05 * (place % 7))  # so that what they let through shows
    files = {
        "preprocessor_config.json": {"image_processor_type": "MllamaImageProcessor", "max_image_tiles": 4, "resample": 2,
                                     "size": {"height": 112, "width": 112}, "do_pad": True, "image_mean": toy.MEAN,
                                     "image_std": toy.STD, "processor_class": "MllamaProcessor"},
        "tokenizer_config.json": tokenizer_config,
    }  # fmt: skip
    return model, tokenizer, TEMPLATE, files
