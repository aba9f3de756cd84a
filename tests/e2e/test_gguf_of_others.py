"""GGUF files with types that visq does not write, K-quants above all, as most published ones have them: run with the numbers that the format's own package reads."""
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

gguf = pytest.importorskip("gguf")

LINEARS = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
           "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}  # fmt: skip
OTHERS = {"embed_tokens": "token_embd", "lm_head": "output"}


def halves(numbers):
    return np.ascontiguousarray(numbers.astype(np.float16)).view(np.uint8)


def scales_in_12_bytes(scales, minima):
    def low(part):
        return part[:, :4] | (part[:, 4:] >> 4) << 6

    return np.concatenate([low(scales), low(minima), (scales[:, 4:] & 15) | (minima[:, 4:] & 15) << 4], axis=1)


def to_q4_or_q5_k(weight, largest):
    blocks = weight.reshape(-1, 8, 32)
    least = np.maximum(-blocks.min(2), 0)
    step = (blocks.max(2).clip(min=0) + least) / largest
    scale, offset = ((part.max(1, keepdims=True) / 63).astype(np.float16).astype(np.float32) for part in (step, least))
    scales, minima = ((part / unit).round().clip(0, 63).astype(np.uint8) for part, unit in ((step, scale), (least, offset)))
    steps = np.maximum(scale * scales, 1e-30)[..., None]
    codes = ((blocks + (offset * minima)[..., None]) / steps).round().clip(0, largest).astype(np.uint8)
    pairs = (codes & 15).reshape(-1, 4, 2, 32)
    parts = [halves(scale), halves(offset), scales_in_12_bytes(scales, minima)]
    if largest == 31:
        parts.append(np.bitwise_or.reduce((codes >> 4) << np.arange(8, dtype=np.uint8)[:, None], axis=1))
    return np.concatenate([*parts, (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)], axis=1)


def to_q6_k(weight):
    blocks = weight.reshape(-1, 16, 16)
    step = np.abs(blocks).max(2) / 31
    scale = (step.max(1, keepdims=True) / 127).astype(np.float16).astype(np.float32)
    scales = (step / scale).round().astype(np.int8)
    codes = ((blocks / np.maximum(scale * scales, 1e-30)[..., None]).round().clip(-32, 31) + 32).astype(np.uint8).reshape(-1, 2, 4, 32)
    low = np.concatenate([(codes[:, :, i] & 15) | (codes[:, :, i + 2] & 15) << 4 for i in (0, 1)], axis=2).reshape(-1, 128)
    high = np.bitwise_or.reduce((codes >> 4) << np.arange(0, 8, 2, dtype=np.uint8)[:, None], axis=2).reshape(-1, 64)
    return np.concatenate([low, high, scales.view(np.uint8), halves(scale)], axis=1)


TYPES = {"Q4_K": lambda weight: to_q4_or_q5_k(weight, 15), "Q5_K": lambda weight: to_q4_or_q5_k(weight, 31), "Q6_K": to_q6_k,
         "IQ3_S": lambda weight: np.zeros((weight.size // 256, 110), np.uint8)}  # fmt: skip
TYPES |= {kind: lambda weight, kind=kind: gguf.quantize(weight, gguf.GGMLQuantizationType[kind]) for kind in ("Q8_0", "Q5_0", "Q5_1")}


def any_blocks(kind):
    """The package writes no such blocks: random bytes, with factors of which the numbers are small."""
    size, places = {"Q2_K": (84, (80, 82)), "Q3_K": (110, (108,)), "IQ4_NL": (18, (0,)), "IQ4_XS": (136, (0,))}[kind]
    factor = {"Q2_K": 0.002, "Q3_K": 0.0005, "IQ4_NL": 0.0005, "IQ4_XS": 0.00002}[kind]

    def make(weight):
        count = weight.size // (32 if kind == "IQ4_NL" else 256)
        random = np.random.default_rng(weight.size)
        blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
        for at in places:
            blocks[:, at : at + 2] = halves(random.uniform(0.5, 1, (count, 1)) * factor)
        return blocks

    return make


ANY = ("Q2_K", "Q3_K", "IQ4_NL", "IQ4_XS")
TYPES |= {kind: any_blocks(kind) for kind in ANY}


def type_of(name):
    """As llama.cpp mixes them for Q4_K_M, with one of each other kind."""
    if not name.startswith("blk."):
        return {"token_embd": "Q8_0", "output": "Q6_K"}.get(name.removesuffix(".weight"))
    stem = name.split(".")[2]
    return {"attn_v": "Q6_K", "ffn_down": "Q6_K", "attn_output": "Q5_K", "ffn_gate": "Q8_0"}.get(stem, "Q4_K") if stem in LINEARS.values() else None


def rewrite(source, out, type_of):
    """@return the file's tensors that have become another type, as the package reads them"""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type)
    read = {}
    for tensor in reader.tensors:
        data, kind, wanted = tensor.data, tensor.tensor_type, type_of(tensor.name)
        if wanted:
            weight = np.array(gguf.dequantize(data, kind), dtype=np.float32)
            kind = gguf.GGMLQuantizationType[wanted]
            data = TYPES[wanted](weight).reshape(weight.shape[0], -1)
            read[tensor.name] = torch.from_numpy(gguf.dequantize(data, kind).reshape(weight.shape).copy())
            assert wanted in (*ANY, "IQ3_S") or (read[tensor.name].numpy() - weight).std() < 0.2 * weight.std()
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read


def separated(rows, heads):
    return rows.view(heads, -1, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def both(demo, source, folder, type_of):
    """A GGUF file in `folder`/gguf, and a checkpoint of the same real numbers in `folder`/plain."""
    (folder / "gguf").mkdir()
    read = rewrite(source, folder / "gguf" / "model.gguf", type_of)
    plain = shutil.copytree(demo / "model", folder / "plain")
    tensors = load_file(plain / "model.safetensors")
    with safe_open(plain / "model.safetensors", "pt") as file:
        file_metadata = file.metadata()
    seen = set()
    for name in tensors:
        module = name.split(".")[-2]
        if "vision" in name or "projector" in name or module not in {**LINEARS, **OTHERS}:
            continue
        own = f"blk.{name.split('.layers.')[1].split('.')[0]}.{LINEARS[module]}.weight" if module in LINEARS else f"{OTHERS[module]}.weight"
        if own in read:
            heads = {"q_proj": 4, "k_proj": 2}.get(module)
            tensors[name] = separated(read[own], heads) if heads else read[own]
            seen.add(own)
    save_file(tensors, plain / "model.safetensors", file_metadata)
    assert seen == set(read)
    return folder


@pytest.fixture(scope="module")
def q8_0(visq, demo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("q8_0")
    visq("quantize", demo / "model", "-f", "q8_0", "--layout", "gguf", "-o", folder / "gguf")
    return folder / "gguf" / "model.gguf"


@pytest.fixture(scope="module")
def files(demo, q8_0, tmp_path_factory):
    return both(demo, q8_0, tmp_path_factory.mktemp("k_quants"), type_of)


def test_its_numbers_are_those_of_the_package(visq, files, demo):
    rows = visq.json("eval", files / "gguf", files / "plain", "--source", demo / "model", "--data", demo / "questions.jsonl",
                     "--samples", 40, "--max-new-tokens", 2)  # fmt: skip
    assert rows[0]["perplexity"] == rows[1]["perplexity"] and rows[0]["accuracy"] == rows[1]["accuracy"] > 0.9
    assert rows[0]["format"] == "Q4_K + Q5_K + Q6_K + Q8_0" 
    tower = sum(tensor.nbytes for name, tensor in load_file(demo / "model" / "model.safetensors").items()
                if "language_model" not in name)  # fmt: skip
    assert rows[0]["bytes"] == (files / "gguf" / "model.gguf").stat().st_size + tower


def test_so_are_those_of_other_types(visq, q8_0, demo, tmp_path):
    kinds = {"attn_q": "Q5_0", "attn_k": "Q5_1", "attn_v": "IQ4_NL", "attn_output": "IQ4_XS", "ffn_gate": "Q3_K", "ffn_up": "Q4_K",
             "ffn_down": "Q2_K"}  # fmt: skip
    folder = both(demo, q8_0, tmp_path, lambda name: kinds.get(name.split(".")[-2]) if name.startswith("blk.") else None)
    rows = visq.json("eval", folder / "gguf", folder / "plain", "--source", demo / "model", "--data", demo / "questions.jsonl",
                     "--samples", 12, "--max-new-tokens", 2)  # fmt: skip
    assert rows[0]["perplexity"] == rows[1]["perplexity"] > 2  # random weights answer nothing, but the same


def test_a_file_of_one_type_is_read(visq, q8_0, demo, tmp_path):
    """No linear is left that a layout holds."""
    rewrite(q8_0, tmp_path / "model.gguf", lambda name: type_of(name) and "Q4_K")
    (row,) = visq.json("eval", tmp_path / "model.gguf", "--source", demo / "model", "--data", demo / "questions.jsonl", "--samples", 40)
    assert row["format"] == "Q4_K" and row["accuracy"] > 0.9
    question = ("--image", demo / "images" / "q0001.png", "How many yellow objects are there?")
    assert visq("generate", tmp_path / "model.gguf", "--source", demo / "model", *question).stdout.strip() == "1"
    assert visq.json("inspect", tmp_path / "model.gguf")["types"]["Q4_K"]["tensors"] == 37


def test_no_layout_holds_them(visq, files, demo, tmp_path):
    result = visq("convert", files / "gguf", "--to", "compressed-tensors", "--source", demo / "model", "-o", tmp_path / "out", check=False)
    assert result.returncode == 2 and "blocks that no layout holds" in result.stderr and not (tmp_path / "out").exists()


def test_the_check_says_that_it_does_not_judge_their_numbers(visq, files, demo):
    result = visq("check", files / "gguf", "--source", demo / "model")
    assert "A9  ok" in result.stdout and "E1  skip" in result.stdout and "no format that visq has" in result.stdout


def test_other_kinds_are_named(visq, q8_0, demo, tmp_path):
    rewrite(q8_0, tmp_path / "model.gguf", lambda name: "IQ3_S" if name == "blk.2.ffn_up.weight" else None)
    result = visq("eval", tmp_path / "model.gguf", "--source", demo / "model", "--data", demo / "questions.jsonl", check=False)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "tensor 'blk.2.ffn_up.weight' is IQ3_S, which visq does not read" in result.stderr


def test_scales_that_are_not_finite_are_named(visq, files, demo, tmp_path):
    data = bytearray((files / "gguf" / "model.gguf").read_bytes())
    (tensor,) = [tensor for tensor in gguf.GGUFReader(files / "gguf" / "model.gguf").tensors if tensor.name == "blk.3.attn_v.weight"]
    at = tensor.data_offset + 210 - 2  # of the first block of Q6_K
    data[at : at + 2] = np.float16(np.inf).tobytes()
    (tmp_path / "model.gguf").write_bytes(data)
    result = visq("generate", tmp_path / "model.gguf", "--source", demo / "model", "Hello", check=False)
    assert result.returncode == 2 and "tensor 'blk.3.attn_v.weight' has a scale that is not finite" in result.stderr


def test_a_scale_beside_another_type_is_named(visq, q8_0, demo, tmp_path):
    """llama.cpp would multiply with it."""
    reader = gguf.GGUFReader(q8_0)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.add_tensor("blk.1.ffn_up.scale", np.array([2.0], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    result = visq("generate", tmp_path / "model.gguf", "--source", demo / "model", "Hello", check=False)
    assert result.returncode == 2 and "'blk.1.ffn_up.weight' is Q8_0 and has a scale beside it" in result.stderr, result.stderr
