"""Tiny checkpoints with tokenizers in the shapes of Llama 2 and Qwen2, and texts that are hard to split."""

import json
import random
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "The quick brown fox jumps over the lazy dog. Don't they'll I'm we've you're he'd it's!",
    "def f(x):\n    return x ** 2  # a comment\n\n\nclass A:\n\tpass\r\n",
    "Ein Übergrößenträger, naïve café, año, Ελληνικά, русский язык, עברית, العربية, हिन्दी",
    "中文字符和日本語テキスト、한국어 문장. 12345 67.89 ½ ² Ⅷ ٣٤",
    "emoji 😀👩‍👩‍👧 and marks é à",
] * 4

PIECES = (
    list("abcdefghijklmnop ABC .,;:!?'\"-_/\\()[]{}<>|@#%&*+=~`^$0123456789")
    + [" ", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u0085", "\u2028", "\u3000", "\u200b"]
    + ["\u180e", "\u200d", "\u200c", "\ufeff", "\u0000", "\u0007", "\u007f", "\u00ad"]
    + ["'s", "'S", "'t", "'ll", "'LL", "'re", "'d", "'\u017f", "s\u017f", "\ufb00", "\ufb05", "ß", "İ", "ı"]
    + ["é", "e\u0301", "a\u0323\u0307", "a\u0307\u0323", "\u212b", "\u1100\u1161\u11a8", "가", "\u0344", "\u0958"]
    + ["\u0898", "\u08ca\u0301", "\U00011935\U00011930", "\U00011938", "\u1ac1", "\u1acf", "\U0001e4ec\u0301"]
    + ["中", "日本", "語", "한", "русский", "Ελλ", "עבר", "عرب", "हिन्दी", "ไทย", "\u1c89", "\U00010d50", "\ua7cb"]
    + ["½", "²", "Ⅷ", "٣", "४", "\U0001d7d8", "\U00016d70", "\u2460"]
    + ["😀", "👩‍👩‍👧", "🇩🇪", "👍🏽", "€", "™", "…", "—", "“", "▁", "▁▁", "Ġ", "Ċ", "<0x41>", "\U0010ffff", "\ue000"]
    + ["the ", "quick", " brown", " return", "comment"]
)


def texts(specials: list[str], count: int = 2000) -> list[str]:
    """Curated strings around each special token, then random ones; the same on every call."""
    out = ["", " ", "  ", "\n", "a", " a", "a ", "  a  b  ", "\r\n\r\n", "x'\u017fa", "Hello, world!", "it's 12345."]
    for special in specials:
        out += [special, special * 2, f"a{special}b", f"a {special} b", f" {special} ", f"\n\n{special}\n\n\nb"]
        out += [f"{special}\u3000 a", f"{special} b c", f"1{special}", f"{special}_", f"{special}\u0301", special[:-1]]
    out += [first + second for first in specials for second in specials]
    generator = random.Random(7)
    alphabet = PIECES + specials * 3
    while len(out) < count:
        out.append("".join(generator.choices(alphabet, k=generator.randint(1, 25))))
    return out


def write_checkpoint(folder: Path, tokenizer: Tokenizer, model_type: str, tokenizer_config: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


def special(content: str, **flags) -> AddedToken:
    return AddedToken(content, special=True, normalized=False, **flags)


def llama_tokenizer(byte_fallback: bool = True) -> Tokenizer:
    """Llama 2's tokenizer.json: no pre-tokenizer, so that BPE sees whole stretches."""
    bytes_of_fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=byte_fallback))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=True)
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", "<s>", "</s>"] + bytes_of_fallback, show_progress=False,
        limit_alphabet=90,
    )  # fmt: skip
    tokenizer.train_from_iterator(CORPUS, trainer)
    # The bytes are plain vocabulary, not added tokens: written again from the model alone.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < 3]
    state["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_tokens([special("<image>"), special("<pad>")])
    return tokenizer


LLAMA_TOKENS = [
    AddedToken("<strip>", lstrip=True, rstrip=True, normalized=False),
    AddedToken("<end>", rstrip=True, normalized=False, special=True),
    AddedToken("\n\n", normalized=False),
    AddedToken("quick", single_word=True, normalized=False),
    AddedToken("b c", normalized=True),
    AddedToken("fox", normalized=True, lstrip=True),
]

GPT2_STYLE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level_tokenizer(pre_tokenizer, normalizer=None, ignore_merges: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


QWEN_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>"]


def qwen_tokenizer() -> Tokenizer:
    pattern = GPT2_STYLE.replace("{1,3}", "")
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = byte_level_tokenizer(pre_tokenizers.Sequence([split, byte_level]), normalizers.NFC())
    tokenizer.add_tokens([special(token) for token in QWEN_TOKENS])
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("<box>", normalized=True)])
    return tokenizer
