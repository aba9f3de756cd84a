"""Tiny random checkpoints of every supported kind, made with transformers and saved in any of the hub's spellings."""

import json
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LightOnOcrConfig,
    LightOnOcrForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    Phi4MultimodalConfig,
    Phi4MultimodalForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

sys.path.insert(0, str(Path(__file__).parent))
from forward_texts import (  # noqa: E402
    GEMMA,
    INTERLEAVE,
    PHI,
    QWEN,
    SMOL,
    VICUNA,
    fast_tokenizer,
    llama_tokenizer,
    qwen_tokenizer,
    special,
)

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
VOCABULARY = 640  # more rows than tokens, as published checkpoints have
WIDE = False  # widths that every format's blocks divide, for the end-to-end tests


def text_size():
    size = dict(vocab_size=VOCABULARY, num_hidden_layers=3)
    if WIDE:
        return dict(**size, hidden_size=128, intermediate_size=256, num_attention_heads=8, num_key_value_heads=4)
    return dict(**size, hidden_size=64, intermediate_size=112, num_attention_heads=4, num_key_value_heads=2)


def odd_head():
    """A head dimension that is not width / heads."""
    return 32 if WIDE else 24


def text_config(kind):
    size = dict(**text_size(), max_position_embeddings=2048, rms_norm_eps=1e-5)  # fmt: skip
    if kind == "llama":
        rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
        return LlamaConfig(**size, rope_parameters=rope, attention_bias=True, mlp_bias=True)
    if kind == "mistral":
        return MistralConfig(**size, head_dim=odd_head(), sliding_window=None)
    return Qwen2Config(**size, tie_word_embeddings=True)


def vision_config(kind):
    size = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, patch_size=14)
    if kind == "clip":
        return CLIPVisionConfig(**size, image_size=42)
    return SiglipVisionConfig(**size, image_size=56)


def randomize(model):
    """Large enough values that every part of the network shows in the logits; norms and biases away from 1 and 0."""
    generator = torch.Generator().manual_seed(11)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_norm = parameter.dim() == 1 and name.endswith("weight")
        parameter.data = 1 + 0.2 * noise if is_norm else (0.2 if parameter.dim() == 1 else 0.12) * noise
    return model.eval()


def make_llava(text, tower):
    qwen = text == "qwen2"
    tokenizer = qwen_tokenizer(["<image>"]) if qwen else llama_tokenizer()
    config = LlavaConfig(
        text_config=text_config(text),
        vision_config=vision_config(tower),
        image_token_index=tokenizer.token_to_id("<image>"),
        vision_feature_layer=-2 if tower == "clip" else [-1, 1],
        vision_feature_select_strategy="default" if tower == "clip" else "full",
        multimodal_projector_bias=tower == "clip",
    )
    model = randomize(LlavaForConditionalGeneration(config))
    side = config.vision_config.image_size
    processor = {
        "image_processor_type": "CLIPImageProcessor" if tower == "clip" else "SiglipImageProcessor",
        "size": {"shortest_edge": side} if tower == "clip" else {"height": side, "width": side},
        "resample": 3,
        "image_mean": MEAN,
        "image_std": STD,
    }
    if tower == "clip":
        processor["crop_size"] = {"height": side, "width": side}
    whole = {
        "processor_class": "LlavaProcessor",
        "patch_size": 14,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "num_additional_image_tokens": 1 if tower == "clip" else 0,
        "image_token": "<image>",
    }
    special_tokens = {"eos_token": "<|im_end|>"} if qwen else {"bos_token": "<s>", "eos_token": "</s>"}
    files = {
        "preprocessor_config.json": processor,
        "processor_config.json": whole,
        "tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer" if qwen else "LlamaTokenizer", **special_tokens},
    }
    return model, tokenizer, INTERLEAVE if qwen else VICUNA, files


def make_llava_next(text):
    qwen = text == "qwen2"
    tokenizer = qwen_tokenizer(["<image>"]) if qwen else llama_tokenizer()
    pinpoints = [[42, 84], [84, 42], [84, 84], [126, 42], [42, 126]]
    language = text_config(text)
    language.tie_word_embeddings = False  # this class heeds the root's alone
    config = LlavaNextConfig(
        text_config=language,
        vision_config=vision_config("clip"),
        image_token_index=tokenizer.token_to_id("<image>"),
        image_grid_pinpoints=pinpoints,
    )
    model = randomize(LlavaNextForConditionalGeneration(config))
    processor = {
        "image_processor_type": "LlavaNextImageProcessor", "size": {"shortest_edge": 42},
        "crop_size": {"height": 42, "width": 42}, "resample": 3, "image_mean": MEAN, "image_std": STD,
        "image_grid_pinpoints": pinpoints,
    }  # fmt: skip
    whole = {
        "processor_class": "LlavaNextProcessor", "patch_size": 14, "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1, "image_token": "<image>",
    }  # fmt: skip
    special_tokens = {"eos_token": "<|im_end|>"} if qwen else {"bos_token": "<s>", "eos_token": "</s>"}
    files = {
        "preprocessor_config.json": processor,
        "processor_config.json": whole,
        "tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer" if qwen else "LlamaTokenizer", **special_tokens},
    }
    return model, tokenizer, INTERLEAVE if qwen else VICUNA, files


def make_llava_onevision():
    """Tiles of 4 x 4 patches and a border of 4 pixels that no patch covers; mosaics of three tiles shrink."""
    tokenizer = qwen_tokenizer(["<image>", "<video>"])
    pinpoints = [[height, width] for height in (60, 120, 180) for width in (60, 120, 180)]
    size = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, patch_size=14)
    config = LlavaOnevisionConfig(
        text_config=text_config("qwen2"),
        vision_config=SiglipVisionConfig(**size, image_size=60, vision_use_head=False),
        image_token_index=tokenizer.token_to_id("<image>"),
        video_token_index=tokenizer.token_to_id("<video>"),
        image_grid_pinpoints=pinpoints,
        vision_aspect_ratio="anyres_max_2",
    )
    model = randomize(LlavaOnevisionForConditionalGeneration(config))
    processor = {
        "image_processor_type": "LlavaOnevisionImageProcessor", "size": {"height": 60, "width": 60}, "resample": 3,
        "image_mean": MEAN, "image_std": STD, "image_grid_pinpoints": pinpoints,
    }  # fmt: skip
    whole = {
        "processor_class": "LlavaOnevisionProcessor", "num_image_tokens": 16, "vision_feature_select_strategy": "full",
        "image_token": "<image>", "video_token": "<video>", "vision_aspect_ratio": "anyres_max_2",
    }  # fmt: skip
    files = {
        "preprocessor_config.json": processor,
        "processor_config.json": whole,
        "video_preprocessor_config.json": {"video_processor_type": "LlavaOnevisionVideoProcessor"},
        "tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"},
    }
    return model, tokenizer, INTERLEAVE, files


def make_internvl(kind):
    """layer: InternViT-300M; rms: InternViT-6B."""
    tokenizer = qwen_tokenizer(["<img>", "</img>", "<IMG_CONTEXT>", "<video>"])
    rms = kind == "rms"
    vision = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, patch_size=14,
                  image_size=56, attention_bias=not rms, use_qk_norm=rms, use_mean_pooling=rms,
                  norm_type="rms_norm" if rms else "layer_norm")  # fmt: skip
    config = InternVLConfig(
        text_config=text_config("qwen2"),
        vision_config=vision,
        image_token_id=tokenizer.token_to_id("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    model = randomize(InternVLForConditionalGeneration(config))
    processor = {
        "image_processor_type": "GotOcr2ImageProcessor", "size": {"height": 56, "width": 56}, "resample": 3,
        "crop_to_patches": True, "min_patches": 1, "max_patches": 6, "image_mean": MEAN, "image_std": STD,
    }  # fmt: skip
    tokens = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
              "video_token": "<video>"}  # fmt: skip
    files = {
        "preprocessor_config.json": processor,
        "processor_config.json": {"processor_class": "InternVLProcessor", "image_seq_length": 4},
        "video_preprocessor_config.json": {"video_processor_type": "InternVLVideoProcessor"},
        "tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>",
                                  "extra_special_tokens": tokens, **tokens},
    }  # fmt: skip
    return model, tokenizer, INTERLEAVE.replace("<image>", "<IMG_CONTEXT>"), files


def make_pixtral(kind):
    """llava: Pixtral; mistral3: Mistral Small 3.1."""
    tokenizer = llama_tokenizer()
    tokenizer.add_tokens([special("[IMG]"), special("[IMG_BREAK]"), special("[IMG_END]")])
    merge = 2 if kind == "mistral3" else 1
    vision = PixtralVisionConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
                                 patch_size=14, image_size=112)  # fmt: skip
    common = dict(text_config=text_config("mistral"), vision_config=vision, vision_feature_layer=-1,
                  image_token_index=tokenizer.token_to_id("[IMG]"))  # fmt: skip
    if kind == "mistral3":
        model = Mistral3ForConditionalGeneration(Mistral3Config(**common, tie_word_embeddings=False))
    else:
        config = LlavaConfig(**common, vision_feature_select_strategy="full")
        model = LlavaForConditionalGeneration(config)
    processor = {
        "image_processor_type": "PixtralImageProcessor", "size": {"longest_edge": 112},
        "patch_size": {"height": 14 * merge, "width": 14 * merge}, "resample": 3, "image_mean": MEAN, "image_std": STD,
    }  # fmt: skip
    whole = {
        "processor_class": "PixtralProcessor", "patch_size": 14, "spatial_merge_size": merge, "image_token": "[IMG]",
        "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]",
    }  # fmt: skip
    files = {
        "preprocessor_config.json": processor,
        "processor_config.json": whole,
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"},
    }
    return randomize(model), tokenizer, VICUNA.replace("<image>", "[IMG]"), files


def make_lighton_ocr():
    marks = {"image_token": "<|image_pad|>", "image_break_token": "<|vision_pad|>", "image_end_token": "<|vision_end|>"}
    tokenizer = qwen_tokenizer(marks.values())
    config = LightOnOcrConfig(
        text_config=dict(model_type="qwen3", **text_size(), head_dim=odd_head()),
        vision_config=dict(model_type="pixtral", hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
                           patch_size=14, image_size=112),
        image_token_id=tokenizer.token_to_id("<|image_pad|>"), tie_word_embeddings=True,
    )  # fmt: skip
    files = {
        "preprocessor_config.json": {"image_processor_type": "PixtralImageProcessor", "size": {"longest_edge": 112},
                                     "patch_size": 14, "resample": 3, "image_mean": MEAN, "image_std": STD},
        "processor_config.json": {"processor_class": "LightOnOcrProcessor", "patch_size": 14, "spatial_merge_size": 2},
        "tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "extra_special_tokens": marks},
    }  # fmt: skip
    template = QWEN.replace("<|vision_start|><|image_pad|><|vision_end|>", "<|image_pad|>")
    return randomize(LightOnOcrForConditionalGeneration(config)), tokenizer, template, files


def make_qwen_vl(kind):
    """2: Qwen2-VL; 2.5: Qwen2.5-VL."""
    tokenizer = qwen_tokenizer(["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"])
    rope = {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [2, 3, 3]}
    text = dict(**text_size(), rope_parameters=rope)  # fmt: skip
    ids = dict(
        image_token_id=tokenizer.token_to_id("<|image_pad|>"),
        video_token_id=tokenizer.token_to_id("<|video_pad|>"),
        vision_start_token_id=tokenizer.token_to_id("<|vision_start|>"),
        vision_end_token_id=tokenizer.token_to_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    if kind == "2":
        vision = dict(depth=3, embed_dim=64, hidden_size=text_size()["hidden_size"], num_heads=4, mlp_ratio=2)
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **ids))
    else:
        vision = dict(depth=3, hidden_size=64, intermediate_size=90, num_heads=4,
                           out_hidden_size=text_size()["hidden_size"],
                      fullatt_block_indexes=[1])  # fmt: skip
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids))
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 100352, "patch_size": 14,
        "temporal_patch_size": 2, "merge_size": 2, "image_mean": MEAN, "image_std": STD,
        "processor_class": "Qwen2VLProcessor" if kind == "2" else "Qwen2_5_VLProcessor",
    }  # fmt: skip
    files = {
        "preprocessor_config.json": processor,
        "tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"},
    }
    if kind == "2":  # the other takes the limits of images, as older files do
        files["video_preprocessor_config.json"] = {"video_processor_type": "Qwen2VLVideoProcessor",
                                                   "size": {"shortest_edge": 3136, "longest_edge": 12544},
                                                   "image_mean": MEAN, "image_std": STD}  # fmt: skip
    return randomize(model), tokenizer, QWEN, files


def make_gemma3():
    marks = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer, tokenizer_config = fast_tokenizer(["<start_of_turn>", "<end_of_turn>", *marks.values()])
    rope = {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}  # fmt: skip
    config = Gemma3Config(
        text_config=dict(**text_size(), head_dim=odd_head(), query_pre_attn_scalar=20,
                         sliding_window=3, max_position_embeddings=2048, rope_parameters=rope,
                         layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                         bos_token_id=tokenizer.token_to_id("<bos>")),
        vision_config=dict(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
                           patch_size=14, image_size=56, vision_use_head=False),
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.token_to_id("<start_of_image>"),
        eoi_token_index=tokenizer.token_to_id("<end_of_image>"),
        image_token_index=tokenizer.token_to_id("<image_soft_token>"),
    )  # fmt: skip
    model = randomize(Gemma3ForConditionalGeneration(config))
    side = {"height": 56, "width": 56}
    files = {
        "preprocessor_config.json": {"image_processor_type": "Gemma3ImageProcessor", "size": side, "resample": 2,
                                     "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        "processor_config.json": {"processor_class": "Gemma3Processor", "image_seq_length": 4},
        "tokenizer_config.json": {**tokenizer_config, "extra_special_tokens": marks},
    }  # fmt: skip
    return model, tokenizer, GEMMA, files


def make_qwen3_vl(moe=False):
    """@param moe  experts in all layers but the second"""
    tokenizer = qwen_tokenizer(["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"])
    rope = {"rope_type": "default", "rope_theta": 500000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    text = dict(**text_size(), head_dim=16, rope_parameters=rope)
    if moe:
        text |= dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=128 if WIDE else 40, mlp_only_layers=[1])
    config = (Qwen3VLMoeConfig if moe else Qwen3VLConfig)(
        text_config=text,
        vision_config=dict(depth=3, hidden_size=64, intermediate_size=90, num_heads=4,
                           out_hidden_size=text_size()["hidden_size"],
                           num_position_embeddings=36, deepstack_visual_indexes=[0, 1]),
        image_token_id=tokenizer.token_to_id("<|image_pad|>"),
        video_token_id=tokenizer.token_to_id("<|video_pad|>"),
        vision_start_token_id=tokenizer.token_to_id("<|vision_start|>"),
        vision_end_token_id=tokenizer.token_to_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )  # fmt: skip
    model = randomize((Qwen3VLMoeForConditionalGeneration if moe else Qwen3VLForConditionalGeneration)(config))
    files = {
        "preprocessor_config.json": {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 16, "merge_size": 2,
                                     "temporal_patch_size": 2, "size": {"shortest_edge": 4096, "longest_edge": 100352},
                                     "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
                                     "processor_class": "Qwen3VLProcessor"},
        "video_preprocessor_config.json": {"video_processor_type": "Qwen3VLVideoProcessor",
                                           "size": {"shortest_edge": 4096, "longest_edge": 40960}},
        "tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"},
    }  # fmt: skip
    return model, tokenizer, QWEN, files


def make_smolvlm(kind):
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    marks = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *rows]
    tokenizer, tokenizer_config = fast_tokenizer(marks)
    config_class, model_class = (
        (SmolVLMConfig, SmolVLMForConditionalGeneration) if kind == "SmolVLM" else (Idefics3Config, Idefics3ForConditionalGeneration)
    )
    config = config_class(
        text_config=dict(model_type="llama", **text_size(), rms_norm_eps=1e-5),
        vision_config=dict(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
                           patch_size=8, image_size=48),
        scale_factor=3,
        image_token_id=tokenizer.token_to_id("<image>"),
        pad_token_id=tokenizer.token_to_id("<|endoftext|>"),
        tie_word_embeddings=False,
    )  # fmt: skip
    model = randomize(model_class(config))
    files = {
        "preprocessor_config.json": {"image_processor_type": f"{kind}ImageProcessor", "do_image_splitting": True, "resample": 1,
                                     "size": {"longest_edge": 144}, "max_image_size": {"longest_edge": 48},
                                     "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        "processor_config.json": {"processor_class": f"{kind}Processor", "image_seq_len": 4},
        "tokenizer_config.json": {
            **tokenizer_config,
            "extra_special_tokens": {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>",
                                     "global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>"},
        },
    }  # fmt: skip
    return model, tokenizer, SMOL, files


def make_phi4():
    marks = {"image_token": "<|endoftext10|>", "audio_token": "<|endoftext11|>"}
    tokenizer, tokenizer_config = fast_tokenizer(["<|user|>", "<|assistant|>", "<|end|>", "<|system|>", *marks.values()])
    pairs = 6  # of a head of 16 channels, of which 12 turn
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 64, "short_factor": [1.0 + 0.1 * i for i in range(pairs)],
            "long_factor": [1.0 + 0.5 * i for i in range(pairs)]}  # fmt: skip
    image = tokenizer.token_to_id("<|endoftext10|>")  # the processor counts on tiles of 448 pixels
    end = tokenizer.token_to_id("<|endoftext|>")
    config = Phi4MultimodalConfig(
        **text_size(), max_position_embeddings=1024, original_max_position_embeddings=64, rope_parameters=rope,
        sliding_window=None, tie_word_embeddings=True, bos_token_id=end, eos_token_id=end, pad_token_id=end,
        vision_config=dict(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, patch_size=14,
                           image_size=448, crop_size=448, image_token_id=image),
        audio_config=dict(hidden_size=16, intermediate_size=16, num_blocks=1, num_attention_heads=2, input_size=8,
                          nemo_conv_channels=16, ext_pw_out_channel=16, bias_max_distance=8,
                          audio_token_id=tokenizer.token_to_id("<|endoftext11|>")),
    )  # fmt: skip
    config._attn_implementation = "eager"  # the tower's SDPA path is causal by mistake
    model = randomize(Phi4MultimodalForCausalLM._from_config(config, attn_implementation="eager"))
    files = {
        "preprocessor_config.json": {"image_processor_type": "Phi4MultimodalImageProcessor", "dynamic_hd": 2, "patch_size": 14,
                                     "size": {"height": 448, "width": 448}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
                                     "feature_extractor_type": "Phi4MultimodalFeatureExtractor",
                                     "processor_class": "Phi4MultimodalProcessor"},
        "tokenizer_config.json": {**tokenizer_config, "extra_special_tokens": marks},
    }  # fmt: skip
    return model, tokenizer, PHI, files


def make_paligemma(text):
    """@param text  gemma2 (PaliGemma 2) or gemma"""
    tokenizer, tokenizer_config = fast_tokenizer(["<image>"])
    sizes = dict(**text_size(), head_dim=odd_head(), bos_token_id=tokenizer.token_to_id("<bos>"), max_position_embeddings=2048)
    if text == "gemma2":
        sizes |= dict(query_pre_attn_scalar=20, sliding_window=9, attn_logit_softcapping=5.0, final_logit_softcapping=4.0)
    config = PaliGemmaConfig(
        text_config=dict(model_type=text, **sizes),
        vision_config=dict(model_type="siglip_vision_model", hidden_size=64, intermediate_size=96, num_hidden_layers=3,
                           num_attention_heads=4, patch_size=14, image_size=56, vision_use_head=False),
        image_token_index=tokenizer.token_to_id("<image>"), projection_dim=text_size()["hidden_size"],
    )  # fmt: skip
    model = randomize(PaliGemmaForConditionalGeneration._from_config(config, attn_implementation="eager"))
    files = {
        "preprocessor_config.json": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 56, "width": 56},
                                     "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_seq_length": 16,
                                     "processor_class": "PaliGemmaProcessor"},
        "tokenizer_config.json": {**tokenizer_config, "extra_special_tokens": {"image_token": "<image>"}},
    }  # fmt: skip
    return model, tokenizer, None, files


def respell(name, prefixes):
    for old, new in prefixes:
        if name.startswith(old):
            return new + name[len(old) :]
    return name


LANGUAGE = [("model.language_model.", "language_model.model."), ("lm_head.", "language_model.lm_head.")]
PROJECTOR = [("model.multi_modal_projector.", "multi_modal_projector.")]
SPELLINGS = {  # from the module tree of transformers 5; A: hub, B: 4.52 and later, C: the tree itself, D: saved by 5
    "llava": {
        "A": [*LANGUAGE, *PROJECTOR, ("model.vision_tower.", "vision_tower.vision_model.")],
        "B": [("model.vision_tower.", "model.vision_tower.vision_model.")],
        "C": [],
        "D": [*LANGUAGE, *PROJECTOR, ("model.vision_tower.", "vision_tower.")],
    },
    "qwen2_5_vl": {
        "A": [("model.language_model.", "model."), ("model.visual.", "visual.")],
        "B": [],
        "C": [],
        "D": [("model.language_model.", "model."), ("model.visual.", "visual.")],
    },
}
SPELLINGS["qwen2_vl"] = SPELLINGS["qwen2_5_vl"]
NEWLINE = [("model.image_newline", "image_newline")]
SPELLINGS["llava_next"] = {key: [*rules, *(NEWLINE if key in "AD" else [])] for key, rules in SPELLINGS["llava"].items()}
SPELLINGS["llava_onevision"] = SPELLINGS["llava_next"]
SPELLINGS["qwen3_vl_moe"] = {"A": [], "D": []}  # A: stacks of [in, out] matrices, as on the hub
PLAIN = [*LANGUAGE, *PROJECTOR, ("model.vision_tower.", "vision_tower.")]  # towers without a vision_model level
SPELLINGS["gemma3"] = SPELLINGS["paligemma"] = SPELLINGS["llava"]
SPELLINGS["phi4_multimodal"] = SPELLINGS["qwen3_vl"] = SPELLINGS["smolvlm"] = SPELLINGS["idefics3"] = {"A": []}
SPELLINGS["llama4"] = {"A": []}  # its tree holds such stacks
SPELLINGS["lighton_ocr"] = {"A": []}
SPELLINGS["mllama"] = {"A": [*LANGUAGE, *PROJECTOR, ("model.vision_model.", "vision_model.")], "C": []}
SPELLINGS["internvl"] = SPELLINGS["mistral3"] = {"A": PLAIN, "B": [], "C": [], "D": PLAIN}


def older_config(config):
    """As files of 4.x spell it: rope_theta and rope_scaling; Qwen2.5-VL's text fields at the root."""
    text = config.get("text_config", config)
    rope = dict(text.pop("rope_parameters", None) or {})
    if "full_attention" in rope:
        text["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    if "rope_theta" in rope:
        text["rope_theta"] = rope.pop("rope_theta")
    if "mrope_section" in rope:
        rope = {**rope, "rope_type": "mrope"}
    if rope.get("rope_type", rope.get("type")) != "default":
        text["rope_scaling"] = rope
    if config["model_type"] in ("qwen2_vl", "qwen2_5_vl"):
        model_type, architectures = config["model_type"], config["architectures"]
        config.update(config.pop("text_config"))
        config.update(model_type=model_type, architectures=architectures)


def save(folder, made, spelling):
    model, tokenizer, template, files = made
    folder.mkdir()
    config = json.loads(model.config.to_json_string(use_diff=True))
    config["architectures"] = [type(model).__name__]
    if spelling == "A":
        older_config(config)
    tied = config.get("tie_word_embeddings") or config.get("text_config", {}).get("tie_word_embeddings")
    pixtral = config["model_type"] == "llava" and config["vision_config"].get("model_type") == "pixtral"
    prefixes = SPELLINGS["mistral3" if pixtral else config["model_type"]][spelling]
    turned = config["model_type"] == "qwen3_vl_moe" and spelling == "A"
    tensors = {
        respell(name, prefixes): (tensor.transpose(1, 2) if ".experts." in name and turned else tensor).contiguous()
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, value in {"config.json": config, **files}.items():
        (folder / name).write_text(json.dumps(value, indent=1))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def write_image(path, width, height, seed):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (5, 7, 3), generator=generator, dtype=torch.uint8)
    Image.fromarray(coarse.numpy()).resize((width, height), Image.BICUBIC).save(path)


SIZES = [(200, 140), (90, 61), (57, 180), (112, 112)]  # the first is 10 x 14 patches for Qwen2.5-VL: ragged windows


def write_samples(folder):
    """Conversations without, with one and with several images of unlike sizes, and one of several turns."""
    for index, (width, height) in enumerate(SIZES):
        write_image(folder / f"{index}.png", width, height, index)
    text = lambda value: {"type": "text", "text": value}  # noqa: E731
    image = lambda index: {"type": "image", "image": f"{index}.png"}  # noqa: E731
    conversations = [
        [{"role": "user", "content": [text("What is two and two?")]}],
        [{"role": "user", "content": [image(0), text("What is in this picture?")]}],
        [{"role": "user", "content": [image(1), image(2), image(0), text("Which of these is red?")]}],
        [
            {"role": "system", "content": [text("Answer briefly.")]},
            {"role": "user", "content": [image(3), text("A square?")]},
            {"role": "assistant", "content": [text("A circle.")]},
            {"role": "user", "content": [text("And here?"), image(1)]},
        ],
    ]
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations))
    return path, conversations
