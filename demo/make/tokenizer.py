"""Trains the tokenizer: byte-pair pieces in the style of Llama 2 (SentencePiece with byte fallback), as tokenizer.json.

usage: tokenizer.py OUTPUT_DIRECTORY
"""

from __future__ import annotations

import json
import random
import re
import string
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

import world
from layout import BOS, BOS_ID, EOS, EOS_ID, IMAGE, IMAGE_ID, PAD, PAD_ID, TEXT_VOCAB, UNK, UNK_ID
from layout import write_json, write_small_files

SPACE = "▁"  # U+2581 stands for a space inside pieces
# Words outside the world's questions, so that free questions of a user do not fall apart into letters.
MORE_TEXT = """Please look at the picture and tell me what you see. Is there anything else in this image? Can you say
which one is the largest, and how far it is from the others? Answer the question using a single word or phrase. The
small shapes are close to each other, but they never touch. Give a short answer, then explain why. Are there more
circles than squares? Do not guess if you cannot know. Thank you, that was very helpful. Hello, who are you and what
can you do? These photos were taken by our friends with an old camera during their holiday near the sea."""


def corpus(seed: int) -> list[str]:
    """Questions and answers as they appear in prompts: one per line, a question's first word without a space."""
    rng = random.Random(f"tokenizer-{seed}")
    lines = MORE_TEXT.split("\n") * 2
    for question in world.facts():
        lines += [f"{question.text} ASSISTANT: {question.answer}", f"USER: {question.text}"]
    for _ in range(1500):
        scene = world.draw_scene(rng, "train")
        for category in world.ASKERS:
            if question := world.ask(rng, scene, category):
                lines.append(f"{question.text} ASSISTANT: {question.answer} USER: {question.text}")
    return lines


def words(lines: list[str]) -> Counter[str]:
    """Word counts, a word starting with SPACE unless it starts its line. Counts are flattened (fourth root): the words
    of the few question forms would otherwise claim every piece."""
    counts: Counter[str] = Counter()
    for line in lines:
        first, *rest = re.findall(r"▁?[^▁]+", line.replace(" ", SPACE))
        counts.update([first, SPACE + first, *rest])
    return Counter({word: round(10 * count**0.25) for word, count in counts.items()})


def learn_merges(counts: Counter[str], pieces: int) -> list[tuple[str, str]]:
    """`pieces` merges, none of which crosses the start of a word: the pieces then need no pre-tokenizer."""
    alphabet = [SPACE, *string.printable[:95].replace(" ", "")]
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\n", behavior="removed")
    trainer = trainers.BpeTrainer(vocab_size=len(alphabet) + 1 + pieces, special_tokens=[UNK], show_progress=False,
                                  initial_alphabet=alphabet, limit_alphabet=len(alphabet))  # fmt: skip
    tokenizer.train_from_iterator(("\n".join([word] * count) for word, count in sorted(counts.items())), trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges]


def build_vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """Llama's order: specials, bytes, merged pieces by rank, single characters."""
    characters = [SPACE, *sorted(string.printable[:95].replace(" ", ""))]
    pieces = [UNK, BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [left + right for left, right in merges] + characters
    return {piece: i for i, piece in enumerate(pieces)}


def added_token(token_id: int, content: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": content, **flags}


def tokenizer_json(merges: list[tuple[str, str]], vocabulary: dict[str, int]) -> dict[str, Any]:
    specials = ((UNK_ID, UNK), (BOS_ID, BOS), (EOS_ID, EOS), (IMAGE_ID, IMAGE), (PAD_ID, PAD))
    begin = {"SpecialToken": {"id": BOS, "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(*special) for special in specials],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                begin,
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": BOS, "type_id": 1}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {BOS: {"id": BOS, "ids": [BOS_ID], "tokens": [BOS]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": UNK,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [f"{left} {right}" for left, right in merges],
        },
    }


def main() -> None:
    directory = Path(sys.argv[1])
    base = 3 + 256 + 95  # specials, bytes, characters
    merges = learn_merges(words(corpus(seed=1)), TEXT_VOCAB - base)
    vocabulary = build_vocabulary(merges)
    if len(vocabulary) != TEXT_VOCAB:
        raise SystemExit(f"the corpus gives {len(vocabulary)} pieces where {TEXT_VOCAB} are wanted")
    write_small_files(directory)
    write_json(directory / "tokenizer.json", tokenizer_json(merges, vocabulary))
    Tokenizer.from_file(str(directory / "tokenizer.json"))  # refuses a malformed file
    print(f"{directory}/tokenizer.json: {len(vocabulary)} pieces, {len(merges)} merges")


if __name__ == "__main__":
    main()
