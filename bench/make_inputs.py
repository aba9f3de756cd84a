"""Random checkpoints of real shapes, and samples to calibrate them with. Usage:

    make_inputs.py checkpoint llava-small|llava-0.5b|qwen2.5-vl-7b DIRECTORY [--device cuda]
    make_inputs.py samples DIRECTORY [--count 128] [--width 448] [--height 336]
"""
import argparse
import json
import pathlib
import random
import shutil
import sys

DEMO = pathlib.Path(__file__).resolve().parents[1] / "demo"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]

# Text and vision sizes.
LLAVA = {
    "llava-small": (dict(hidden_size=384, intermediate_size=1024, num_hidden_layers=3, num_attention_heads=6, vocab_size=1024),
                    dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=4)),
    "llava-0.5b": (dict(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, vocab_size=151936),
                   dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=4, num_attention_heads=12)),
}


def byte_characters():
    """The 256 characters that byte-level tokenizers use for bytes."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    extra = iter(range(0x100, 0x200))
    return [chr(b) if b in plain else chr(next(extra)) for b in range(256)]


def byte_tokenizer(directory):
    """A byte-level tokenizer in the form of Qwen2's, without merges: one token a byte."""
    vocab = {c: i for i, c in enumerate(byte_characters())}
    added = [{"id": len(vocab) + i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, t in enumerate(SPECIAL)]
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    (directory / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}, level]},
        "post_processor": level, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
                  "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": []}}))
    (directory / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "model_max_length": 32768}))
    return {t["content"]: t["id"] for t in added}


def write_checkpoint(name, directory, device):
    sys.path.insert(0, str(DEMO / "make"))
    import compat  # noqa: F401  (before transformers)
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    directory.mkdir(parents=True)
    if name in LLAVA:
        text, vision = LLAVA[name]
        config = AutoConfig.for_model(
            "llava", image_token_index=1000, vision_feature_layer=-2, image_seq_length=576,
            text_config=dict(model_type="qwen2", num_key_value_heads=2, tie_word_embeddings=True, **text),
            vision_config=dict(model_type="clip_vision_model", image_size=336, patch_size=14, **vision))
        for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
            shutil.copy(DEMO / "model" / file, directory / file)
        processor = json.loads((DEMO / "model" / "preprocessor_config.json").read_text())
        processor.update(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
        (directory / "preprocessor_config.json").write_text(json.dumps(processor))
        (directory / "processor_config.json").write_text(json.dumps({
            "processor_class": "LlavaProcessor", "patch_size": 14, "num_additional_image_tokens": 1, "image_token": "<image>",
            "vision_feature_select_strategy": "default"}))
        eos = 2
    else:
        ids = byte_tokenizer(directory)
        eos = ids["<|im_end|>"]
        config = AutoConfig.for_model(
            "qwen2_5_vl", image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
            vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
            text_config=dict(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
                             num_key_value_heads=4, vocab_size=152064, max_position_embeddings=32768,
                             rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}),
            vision_config=dict(depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=3584,
                               fullatt_block_indexes=[7, 15, 23, 31], window_size=112, patch_size=14))
        (directory / "preprocessor_config.json").write_text(json.dumps({
            "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor", "min_pixels": 3136, "max_pixels": 12845056,
            "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}))
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(directory, max_shard_size="5GB")
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))


def write_samples(directory, count, width, height):
    from PIL import Image

    directory.mkdir(parents=True, exist_ok=True)
    source = random.Random(0)
    words = "what does the sign on the left of the picture say about the colour of this thing".split()
    with open(directory / "samples.jsonl", "w") as out:
        for i in range(count):
            noise = Image.frombytes("RGB", (width // 8, height // 8), source.randbytes(3 * (width // 8) * (height // 8)))
            noise.resize((width, height)).save(directory / f"{i}.jpg")
            question = " ".join(source.choices(words, k=40))
            answer = " ".join(source.choices(words, k=20))
            out.write(json.dumps({"messages": [
                {"role": "user", "content": [{"type": "image", "image": f"{i}.jpg"}, {"type": "text", "text": question}]},
                {"role": "assistant", "content": answer}]}) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    checkpoint = commands.add_parser("checkpoint")
    checkpoint.add_argument("name", choices=[*LLAVA, "qwen2.5-vl-7b"])
    checkpoint.add_argument("directory", type=pathlib.Path)
    checkpoint.add_argument("--device", default="cpu")
    samples = commands.add_parser("samples")
    samples.add_argument("directory", type=pathlib.Path)
    samples.add_argument("--count", type=int, default=128)
    samples.add_argument("--width", type=int, default=448)
    samples.add_argument("--height", type=int, default=336)
    arguments = parser.parse_args()
    if arguments.command == "checkpoint":
        write_checkpoint(arguments.name, arguments.directory, arguments.device)
    else:
        write_samples(arguments.directory, arguments.count, arguments.width, arguments.height)


if __name__ == "__main__":
    main()
