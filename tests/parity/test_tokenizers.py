"""Every family's tokenizer files against transformers' AutoTokenizer: equal ids, equal decoded text."""

import json
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer, LlamaTokenizer, TokenizersBackend
from transformers.convert_slow_tokenizer import SpmConverter
from transformers.tokenization_utils_base import generate_merges

sys.path.insert(0, str(Path(__file__).parent))
import inputs_tokenizers as toy  # noqa: E402
import tokenizer_families as families  # noqa: E402


def tokenize(probe, folder, texts):
    """What the probe makes of `texts`, and what it logs."""
    inputs, outputs = folder / "texts.in", folder / "texts.out"
    inputs.write_text(json.dumps(texts))
    result = subprocess.run([probe("inputs"), "tokenize", folder, inputs, outputs], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(outputs.read_text()), result.stderr


def some_of(tokens, count=12):
    tokens = sorted(tokens)
    return tokens if len(tokens) <= count else random.Random(3).sample(tokens, count)


def assert_equal(ours, reference, texts):
    assert ours["size"] == max(reference.get_vocab().values()) + 1
    plain = reference(texts, add_special_tokens=False)["input_ids"]
    columns = {
        "ids": plain,
        "ids_with_special": reference(texts)["input_ids"],
        "decoded": reference.batch_decode(plain),
        "decoded_without_special": reference.batch_decode(plain, skip_special_tokens=True),
    }
    for column, expected in columns.items():
        for text, row, value in zip(texts, ours["texts"], expected, strict=True):
            assert row[column] == value, (column, text, reference.convert_ids_to_tokens(row["ids"]))


@pytest.mark.parametrize("make", families.FAMILIES, ids=lambda make: make.__name__)
def test_ids_equal_the_reference(make, probe, tmp_path):
    folder = make(tmp_path / "checkpoint")
    reference = AutoTokenizer.from_pretrained(folder)
    texts = toy.texts(some_of(reference.get_added_vocab()))
    ours, _ = tokenize(probe, folder, texts)
    assert_equal(ours, reference, texts)


@pytest.mark.parametrize("make", families.SPLITS, ids=lambda make: make.__name__)
def test_every_way_to_split_equals_the_reference(make, probe, tmp_path):
    folder = make(tmp_path / "checkpoint")
    texts = toy.texts(["<image>"], count=500)
    ours, _ = tokenize(probe, folder, texts)
    assert_equal(ours, AutoTokenizer.from_pretrained(folder), texts)


@pytest.mark.parametrize("make", [families.llama4, families.smolvlm])
def test_every_character_is_split_like_the_reference(make, probe, tmp_path):
    """Each character of the planes with letters between capitals, small letters and digits."""
    folder = make(tmp_path / "checkpoint")
    points = [c for c in range(0x32000) if not 0xD800 <= c <= 0xDFFF and not 0x4E10 <= c < 0x9F00]
    points = [c for c in points if not 0xAC10 <= c < 0xD780 and not 0x17010 <= c < 0x18700 and not 0x20010 <= c]
    texts = ["".join(f"a{chr(c)}B{chr(c)}1" for c in points[i : i + 4096]) for i in range(0, len(points), 4096)]
    ours, _ = tokenize(probe, folder, texts)
    reference = AutoTokenizer.from_pretrained(folder)
    for i, (row, ids) in enumerate(zip(ours["texts"], reference(texts, add_special_tokens=False)["input_ids"])):
        assert row["ids"] == ids, f"block {i}"


@pytest.mark.parametrize(
    "make, warning",
    [
        (families.llama_class, "normalizer is not used"),
        (families.smolvlm_as_idefics3, "pre_tokenizer is not used"),
        (families.phi4mm_declared_gpt2, "pre_tokenizer is not used"),
        (families.mistral3_with_the_withdrawn_pattern, "fix_mistral_regex"),
        (families.gemma3, None),
        (families.qwen2, None),
        (families.mistral3_mended, None),
    ],
)
def test_rules_that_the_file_does_not_tell_are_announced(make, warning, probe, tmp_path):
    _, log = tokenize(probe, make(tmp_path / "checkpoint"), ["a"])
    if warning:
        assert warning in log
    else:
        assert log == ""


# --- tokenizer.model: the reference needs packages for it that tests do without, so its parts are called here ---


def varint(value):
    out = b""
    value &= (1 << 64) - 1
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def number(field, value):
    return varint(field << 3) + varint(value)


def block(field, data):
    return varint(field << 3 | 2) + varint(len(data)) + data


def sentencepiece_model(pieces, byte_fallback=True):
    """pieces: (text, type) by id. With scores and fields that a reader passes over."""
    out = b""
    for id, (text, kind) in enumerate(pieces):
        score = varint(2 << 3 | 5) + b"\0\0\0" + bytes([id % 256])
        out += block(1, block(1, text.encode()) + score + (number(3, kind) if kind != 1 else b""))
    out += block(2, number(3, 2) + number(35, int(byte_fallback)) + number(40, 0) + number(43, -1) + block(45, b"<unk>"))
    return out + block(3, block(1, b"identity"))


def llama_pieces():
    state = json.loads(toy.llama_tokenizer().to_str())
    vocabulary = sorted(state["model"]["vocab"].items(), key=lambda item: item[1])
    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3}
    bytes_of_fallback = {f"<0x{byte:02X}>" for byte in range(256)}
    pieces = [(text, kinds.get(text, 6 if text in bytes_of_fallback else 1)) for text, _ in vocabulary]
    return pieces + [("[IMG]", 4), ("[CTRL]", 3), ("quick brown", 4)]


def write_model(folder, pieces, model_type, config):
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(pieces))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def set_apart(pieces):
    return [AddedToken(text, normalized=False, special=kind == 3) for text, kind in pieces if kind in (3, 4)]


@pytest.mark.parametrize("flags", [{}, {"add_bos_token": True}, {"add_eos_token": True, "legacy": True}])
def test_a_sentencepiece_model_equals_the_llama_class(flags, probe, tmp_path):
    pieces = llama_pieces()
    folder = write_model(tmp_path / "checkpoint", pieces, "llama", {"tokenizer_class": "LlamaTokenizer", **flags})
    vocabulary = {text: id for id, (text, _) in enumerate(pieces)}
    reference = LlamaTokenizer(
        vocab=vocabulary, merges=generate_merges(vocabulary), additional_special_tokens=set_apart(pieces), **flags
    )
    texts = toy.texts(["<s>", "[IMG]", "[CTRL]", "quick brown"], count=1000)
    ours, _ = tokenize(probe, folder, texts)
    assert_equal(ours, reference, texts)


def test_a_sentencepiece_model_equals_the_generic_class(probe, tmp_path):
    pieces = llama_pieces()
    folder = write_model(tmp_path / "checkpoint", pieces, "llava", {"add_bos_token": True})
    vocabulary = {text: id for id, (text, _) in enumerate(pieces)}
    proto = SimpleNamespace(
        trainer_spec=SimpleNamespace(byte_fallback=True, unk_piece="<unk>", unk_id=0),
        normalizer_spec=SimpleNamespace(precompiled_charsmap=b""),
    )
    inner = SpmConverter.build_tokenizer_from_spm_proto(proto, vocabulary, generate_merges(vocabulary))
    reference = TokenizersBackend(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", add_bos_token=True,
        additional_special_tokens=set_apart(pieces),
    )  # fmt: skip
    texts = toy.texts(["<s>", "[IMG]", "[CTRL]", "quick brown"], count=1000)
    ours, _ = tokenize(probe, folder, texts)
    assert_equal(ours, reference, texts)
