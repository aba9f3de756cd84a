"""Tiny checkpoints whose tokenizer files have the shape that each model family publishes (spec/inputs.md §3.1)."""

import base64
import json
from functools import cache
from pathlib import Path

import inputs_tokenizers as toy
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORD_CASES = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
)
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = toy.GPT2_STYLE
QWEN2 = LLAMA3.replace("{1,3}", "")
TEKKEN = WORD_CASES % ("", "") + r"|\p{N}" + REST
O200K = WORD_CASES % (CONTRACTIONS + "?", CONTRACTIONS + "?") + r"|\p{N}{1,3}" + REST

ADDED = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}


def byte_level(pattern, behavior="isolated", invert=False, **options) -> Tokenizer:
    split = pre_tokenizers.Split(Regex(pattern), behavior, invert=invert)
    bytes_to_characters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return toy.byte_level_tokenizer(pre_tokenizers.Sequence([split, bytes_to_characters]), **options)


def bos_template(tokenizer: Tokenizer, bos: str):
    return processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))])


def with_tokens(tokenizer: Tokenizer, tokens) -> Tokenizer:
    tokenizer.add_tokens([toy.special(token) if isinstance(token, str) else token for token in tokens])
    return tokenizer


def decoder_table(tokenizer: Tokenizer) -> dict:
    """added_tokens_decoder as published in tokenizer_config.json."""
    return {
        str(id): {"content": t.content, "lstrip": t.lstrip, "rstrip": t.rstrip, "single_word": t.single_word,
                  "normalized": t.normalized, "special": t.special}
        for id, t in tokenizer.get_added_tokens_decoder().items()
    }  # fmt: skip


def write(folder, tokenizer, model_type, tokenizer_class, **config) -> Path:
    config = {"tokenizer_class": tokenizer_class, "added_tokens_decoder": decoder_table(tokenizer), **config}
    return toy.write_checkpoint(folder, tokenizer, model_type, config)


# --- SentencePiece style ---


def llava_next(folder):
    """LLaVA 1.6 with Mistral."""
    return write(folder, toy.llama_tokenizer(), "llava_next", "LlamaTokenizer", add_bos_token=True, bos_token="<s>",
                 eos_token="</s>", legacy=True, pad_token="<pad>", unk_token="<unk>")  # fmt: skip


def llava_llama(folder):
    """LLaVA 1.5 as its authors publish it; the same with Mistral."""
    return write(folder, toy.llama_tokenizer(), "llava_llama", "LlamaTokenizer", add_bos_token=True, add_eos_token=False,
                 bos_token="<s>", eos_token="</s>", legacy=False, pad_token="<unk>", unk_token="<unk>")  # fmt: skip


def llava_mistral(folder):
    return write(folder, toy.llama_tokenizer(), "llava_mistral", "LlamaTokenizer", add_bos_token=True, bos_token="<s>",
                 eos_token="</s>", legacy=True, unk_token="<unk>")  # fmt: skip


def phi3_v(folder):
    flags = {"lstrip": False, "rstrip": True, "single_word": False}
    names = ["<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|system|>", "<|end|>", "<|user|>", "<|image|>"]
    tokens = [toy.special(name, **(flags if name not in ("<|endoftext|>", "<|image|>") else {})) for name in names]
    tokenizer = with_tokens(toy.llama_tokenizer(), tokens)
    return write(folder, tokenizer, "phi3_v", "LlamaTokenizer", add_bos_token=False, bos_token="<s>",
                 eos_token="<|endoftext|>", legacy=False, unk_token="<unk>",
                 additional_special_tokens=["<|system|>", "<|end|>", "<|user|>"])  # fmt: skip


def llama_class(folder, **config):
    """The language model's folder of VILA 1.5: the declared class fixes the rules."""
    return write(folder, toy.llama_tokenizer(), "llama", "LlamaTokenizer", **config)


def llama_class_legacy(folder):
    return llama_class(folder, legacy=True, bos_token="<s>", unk_token="<unk>")


def llama_class_without_prefix(folder):
    return llama_class(folder, add_prefix_space=False)


def llama_class_without_byte_fallback(folder):
    tokenizer = toy.llama_tokenizer(byte_fallback=False)
    return toy.write_checkpoint(folder, tokenizer, "llama", {"tokenizer_class": "LlamaTokenizerFast"})


@cache
def gemma_state() -> str:
    """Gemma's file: spaces become marks, then text is split at spaces, of which there are none."""
    tokenizer = toy.llama_tokenizer()
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous", invert=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    renamed = {"<s>": "<bos>", "</s>": "<eos>"}
    state["model"]["vocab"] = {renamed.get(token, token): id for token, id in vocabulary.items()}
    state["added_tokens"], state["post_processor"] = [], None
    tokenizer = Tokenizer.from_str(json.dumps(state))
    runs = [c * n for c in ("\n", "▁", "\t") for n in range(2, 32)]
    tags = [f"<{slash}{tag}>" for tag in ("table", "tr", "td", "h1", "b", "code") for slash in ("", "/")]
    plain = runs + tags + [f"<unused{i}>" for i in range(6300)]
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>",
                "<end_of_image>", "<image_soft_token>"]  # fmt: skip
    with_tokens(tokenizer, specials + [toy.AddedToken(token, normalized=False) for token in plain])
    tokenizer.post_processor = bos_template(tokenizer, "<bos>")
    return tokenizer.to_str()


GEMMA_TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>",
                "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>",
                "image_token": "<image_soft_token>"}  # fmt: skip


def gemma3(folder):
    extra = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    return write(folder, Tokenizer.from_str(gemma_state()), "gemma3", "GemmaTokenizer", add_bos_token=True,
                 clean_up_tokenization_spaces=False, extra_special_tokens=extra, **GEMMA_TOKENS)  # fmt: skip


def paligemma(folder):
    """No class is registered for the model type; the file of an older release splits nothing."""
    tokenizer = Tokenizer.from_str(gemma_state())
    state = json.loads(tokenizer.to_str())
    state["pre_tokenizer"] = None
    config = {"tokenizer_class": "GemmaTokenizerFast", **GEMMA_TOKENS}
    return toy.write_checkpoint(folder, Tokenizer.from_str(json.dumps(state)), "paligemma", config)


def gemma3_declared_generic(folder):
    return write(folder, Tokenizer.from_str(gemma_state()), "gemma3", "PreTrainedTokenizerFast", **GEMMA_TOKENS)


# --- byte level ---


def llama3(pattern=LLAMA3, extra=()) -> Tokenizer:
    tokenizer = byte_level(pattern, ignore_merges=True)
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>",
             "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>", "<|image|>"]  # fmt: skip
    with_tokens(tokenizer, names + list(extra))
    template = bos_template(tokenizer, "<|begin_of_text|>")
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


def mllama(folder):
    return write(folder, llama3(), "mllama", "PreTrainedTokenizerFast", bos_token="<|begin_of_text|>",
                 eos_token="<|eot_id|>", pad_token="<|finetune_right_pad_id|>",
                 clean_up_tokenization_spaces=True)  # fmt: skip


LLAMA4 = ["<|header_start|>", "<|header_end|>", "<|eom|>", "<|eot|>", "<|image_start|>", "<|image_end|>",
          "<|tile_x_separator|>", "<|tile_y_separator|>", "<|patch|>", "<|python_start|>", "<|python_end|>"]  # fmt: skip


def llama4(folder):
    return write(folder, llama3(O200K, extra=LLAMA4), "llama4", "PreTrainedTokenizer", bos_token="<|begin_of_text|>",
                 eos_token="<|eot|>")  # fmt: skip


def llama3_declared_llama(folder):
    """The language model of a VILA with Llama 3: the declared class yields to the byte-level file."""
    return write(folder, llama3(), "llama", "LlamaTokenizerFast", bos_token="<|begin_of_text|>")


IDEFICS = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", "<row_1_col_1>",
           "<row_1_col_2>"]  # fmt: skip


def idefics3(folder):
    return write(folder, llama3(extra=IDEFICS), "idefics3", "PreTrainedTokenizerFast", bos_token="<|begin_of_text|>",
                 eos_token="<|end_of_text|>", additional_special_tokens=IDEFICS[:3])  # fmt: skip


def smollm2() -> Tokenizer:
    digits = pre_tokenizers.Digits(individual_digits=True)
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    tokenizer = toy.byte_level_tokenizer(pre_tokenizers.Sequence([digits, split]))
    tokenizer.post_processor = None
    return with_tokens(tokenizer, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", *IDEFICS])


def smolvlm(folder):
    return write(folder, smollm2(), "smolvlm", "GPT2Tokenizer", add_prefix_space=False, bos_token="<|im_start|>",
                 eos_token="<end_of_utterance>", pad_token="<|im_end|>", unk_token="<|endoftext|>",
                 vocab_size=49152, additional_special_tokens=IDEFICS[:3])  # fmt: skip


def smolvlm_as_idefics3(folder):
    """The first SmolVLM: under this model type the declared class drops the Digits of the file."""
    return write(folder, smollm2(), "idefics3", "GPT2Tokenizer", bos_token="<|im_start|>",
                 unk_token="<|endoftext|>", pad_token="<|im_end|>")  # fmt: skip


def phi4_tokenizer() -> Tokenizer:
    tokenizer = byte_level(O200K, "removed", invert=True)
    tokenizer.post_processor = None
    names = ["<|endoftext|>", "<|endoftext10|>", "<|endoftext11|>", "<|endofprompt|>", "<|assistant|>", "<|end|>",
             "<|user|>", "<|system|>"]  # fmt: skip
    return with_tokens(tokenizer, [names[0], *(toy.special(name, rstrip=name[2:6] == "user") for name in names[1:])])


def phi4_multimodal(folder):
    return write(folder, phi4_tokenizer(), "phi4_multimodal", "PreTrainedTokenizerFast", bos_token="<|endoftext|>",
                 eos_token="<|endoftext|>", pad_token="<|endoftext|>", unk_token="<|endoftext|>")  # fmt: skip


def phi4mm_declared_gpt2(folder):
    return write(folder, phi4_tokenizer(), "phi4mm", "GPT2TokenizerFast", add_prefix_space=False,
                 bos_token="<|endoftext|>", eos_token="<|endoftext|>")  # fmt: skip


def qwen2(folder, model_type="qwen2_vl", declared="Qwen2Tokenizer", extra=(), **config):
    tokenizer = with_tokens(toy.qwen_tokenizer(), extra)
    config = {"add_prefix_space": False, "bos_token": None, "eos_token": "<|im_end|>", "unk_token": None,
              "pad_token": "<|endoftext|>", "additional_special_tokens": toy.QWEN_TOKENS[1:], **config}  # fmt: skip
    return write(folder, tokenizer, model_type, declared, **config)


def qwen3_vl(folder):
    return qwen2(folder, "qwen3_vl", extra=[toy.AddedToken("<think>", normalized=False)])


def qwen3_vl_moe(folder):
    return qwen2(folder, "qwen3_vl_moe", extra=[toy.AddedToken("<think>", normalized=False)])


def qwen2_5_vl(folder):
    return qwen2(folder, "qwen2_5_vl")


def llava_onevision(folder):
    return qwen2(folder, "llava_onevision", extra=["<image>", "<video>"])


def llava_qwen(folder):
    """LLaVA-OneVision and LLaVA-NeXT as their authors publish them: a model type that nothing is registered for."""
    return qwen2(folder, "llava_qwen", extra=["<image>"])


def internvl3(folder):
    names = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"]
    return qwen2(folder, "internvl", extra=names, extra_special_tokens={"context_image_token": "<IMG_CONTEXT>"})


def nvila(folder):
    """llm/ of an NVILA: its own config.json tells the model type of the language model."""
    names = ["<vila/sentinel>", "<image>", "<vila/video>", "<|vila/1|>", "<|vila/2|>", "<|vila/3|>", "<|vila/4|>", "[PAD]"]
    return qwen2(folder, "qwen2", extra=names, pad_token="[PAD]")


def qwen2_declared_otherwise(folder):
    """The registered class counts, whatever the file declares."""
    return qwen2(folder, "qwen2", "PreTrainedTokenizerFast")


def tekken_tokens(count=30) -> list[str]:
    known = {0: "<unk>", 1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]", 10: "[IMG]", 11: "<pad>", 12: "[IMG_BREAK]",
             13: "[IMG_END]"}  # fmt: skip
    return [known.get(i, f"<SPECIAL_{i}>") for i in range(count)]


def tekken_vocabulary() -> list[bytes]:
    """Bytes by rank, as a byte-level tokenizer learns them."""
    tokenizer = byte_level(TEKKEN, ignore_merges=True)
    character_of_byte = {}
    for byte in range(256):
        text = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(chr(byte))[0][0]
        for part, value in zip(text, chr(byte).encode()):
            character_of_byte[part] = value
    for value in range(256):  # the bytes that no character below U+0100 has
        character_of_byte.setdefault(_character(value), value)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    words = [bytes(character_of_byte[c] for c in token) for token, _ in vocabulary]
    return sorted(words, key=lambda word: len(word) > 1)


def _character(value: int) -> str:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return chr(value) if value in printable else chr(0x100 + others.index(value))


def tekken_file(specials: list[str] | None, count: int, pattern=TEKKEN) -> dict:
    words = tekken_vocabulary()
    file = {
        "config": {"pattern": pattern, "num_vocab_tokens": len(words) + 5, "default_num_special_tokens": count,
                   "default_vocab_size": len(words) + count, "version": "v7"},
        "vocab": [{"rank": i, "token_bytes": base64.b64encode(word).decode(), "token_str": None}
                  for i, word in enumerate(words)],
    }  # fmt: skip
    padding = [{"rank": len(words) + i, "token_bytes": "eHh4eA==", "token_str": None} for i in range(5)]
    file["vocab"] += padding
    if specials is not None:
        file["special_tokens"] = [{"rank": i, "token_str": s, "is_control": True} for i, s in enumerate(specials)]
    return file


def tekken(folder, model_type="pixtral", config=None):
    folder.mkdir(parents=True)
    (folder / "tekken.json").write_text(json.dumps(tekken_file(tekken_tokens(20), 30)))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "tokenizer_config.json").write_text(json.dumps(config or {}))
    return folder


def tekken_with_flags(folder):
    return tekken(folder, "mistral3", {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True,
                                       "add_eos_token": True, "pad_token": "<new pad>"})  # fmt: skip


def mistral3(folder, pattern=TEKKEN, size=0, **config):
    """Converted by others: tokenizer.json with the special tokens in front."""
    tokenizer = byte_level(pattern, ignore_merges=True)
    state = json.loads(tokenizer.to_str())
    specials = tekken_tokens()
    words = {token: id + len(specials) for token, id in state["model"]["vocab"].items()}
    filler = {f"<filler {i}>": len(words) + len(specials) + i for i in range(size)}
    state["model"]["vocab"] = {**{token: id for id, token in enumerate(specials)}, **words, **filler}
    tokenizer = with_tokens(Tokenizer.from_str(json.dumps(state)), specials)
    tokenizer.post_processor = bos_template(tokenizer, "<s>")
    return write(folder, tokenizer, "mistral3", "LlamaTokenizer", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
                 unk_token="<unk>", **config)  # fmt: skip


def mistral3_with_the_withdrawn_pattern(folder):
    return mistral3(folder, LLAMA3, size=100_000)


def mistral3_mended(folder):
    return mistral3(folder, LLAMA3, size=100_000, fix_mistral_regex=True)


# --- vocab.json and merges.txt ---


def vocab_and_merges(folder, tokenizer, model_type, config):
    folder.mkdir(parents=True)
    model = json.loads(tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "".join(" ".join(merge) + "\n" for merge in model["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def qwen2_vocab_and_merges(folder):
    tokenizer = toy.qwen_tokenizer()
    config = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": decoder_table(tokenizer),
              "eos_token": "<|im_end|>", "bos_token": "<|im_start|>", "add_bos_token": True}  # fmt: skip
    return vocab_and_merges(folder, tokenizer, "qwen2_vl", config)


def gpt2_vocab_and_merges(folder):
    folder = vocab_and_merges(folder, smollm2(), "gpt2", {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True})
    (folder / "added_tokens.json").write_text(json.dumps({"<extra>": 600}))
    return folder


# --- other components ---


def lowercase_and_strip(folder):
    tokenizer = toy.llama_tokenizer()
    steps = [normalizers.Strip(left=True, right=True), normalizers.Lowercase(), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    return write(folder, tokenizer, "llava", "LlamaTokenizer", bos_token="<s>")


def split_checkpoint(behavior, invert, pattern):
    def make(folder):
        split = pre_tokenizers.Split(pattern, behavior, invert=invert)
        digits = pre_tokenizers.Digits(individual_digits=False)
        bytes_to_characters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer = toy.byte_level_tokenizer(pre_tokenizers.Sequence([split, digits, bytes_to_characters]))
        return write(folder, with_tokens(tokenizer, ["<image>"]), "mllama", "PreTrainedTokenizerFast")

    make.__name__ = f"split_{behavior}{'_inverted' if invert else ''}_{'string' if pattern == ' ' else 'regex'}"
    return make


FAMILIES = [
    llava_next, llava_llama, llava_mistral, llava_qwen, phi3_v, llama_class, llama_class_legacy, llama_class_without_prefix,
    llama_class_without_byte_fallback, gemma3, paligemma, gemma3_declared_generic, mllama, llama4, llama3_declared_llama,
    idefics3, smolvlm, smolvlm_as_idefics3, phi4_multimodal, phi4mm_declared_gpt2, qwen2, qwen2_5_vl, qwen3_vl, qwen3_vl_moe,
    llava_onevision, internvl3, nvila, qwen2_declared_otherwise, tekken, tekken_with_flags, mistral3,
    mistral3_with_the_withdrawn_pattern, mistral3_mended, qwen2_vocab_and_merges, gpt2_vocab_and_merges, lowercase_and_strip,
]  # fmt: skip

SPLITS = [
    split_checkpoint(behavior, invert, pattern)
    for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous")
    for invert, pattern in ((False, " "), (True, Regex(r"[^\s\p{P}]+|\p{P}")))
]
