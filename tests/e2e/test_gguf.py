"""GGUF files, read by the format's own Python package and by transformers."""
import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
sys.path.insert(0, str(Path(__file__).parents[2] / "demo" / "make"))
import compat  # noqa: E402,F401  (makes torchvision importable; before transformers)
import forward_models as toy  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer  # noqa: E402

from test_phi3_vision import make as make_phi3_vision  # noqa: E402

gguf = pytest.importorskip("gguf")

TEXTS = ["What is in this image?", "A red square, 12 of 345.", "two  spaces", "naïve façade — 東京", "line\nbreak\n\n"]
LINEARS = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "qkv_proj": "attn_qkv", "o_proj": "attn_output",
           "gate_proj": "ffn_gate", "up_proj": "ffn_up", "gate_up_proj": "ffn_up", "down_proj": "ffn_down"}  # fmt: skip


def rounded(weight, format):
    """What the weight is in blocks of 32 with an F16 scale."""
    blocks = weight.float().view(weight.shape[0], -1, 32)
    largest, least, most = {"q8_0": (127, -128, 127), "q4_0": (7, -8, 7)}[format]
    scale = (blocks.abs().amax(-1, keepdim=True) / largest).half().float()
    return ((blocks / scale).round().clamp(least, most) * scale).view(weight.shape)


def values(file):
    """The file's tensors as torch has them, dequantized by the package, with their types."""
    tensors = {}
    for tensor in gguf.GGUFReader(file).tensors:
        value = np.array(gguf.dequantize(tensor.data, tensor.tensor_type))
        shape = [int(extent) for extent in reversed(tensor.shape)]
        tensors[tensor.name] = (torch.from_numpy(value.copy()).reshape(shape), tensor.tensor_type.name)
    return tensors


def metadata(file):
    return {key: field.contents() for key, field in gguf.GGUFReader(file).fields.items()}


def interleaved(rows, heads):
    return rows.view(heads, 2, -1, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def to_gguf(visq, model, format, out, *options):
    visq("quantize", model, "--format", format, "--layout", "gguf", "--out", out, *options)
    return out


def tensors_of(folder):
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


@pytest.fixture(scope="module", params=["q8_0", "q4_0"])
def converted(request, visq, demo, tmp_path_factory):
    return request.param, to_gguf(visq, demo / "model", request.param, tmp_path_factory.mktemp("gguf") / request.param)


def test_the_package_reads_the_numbers_that_the_format_says(converted, demo):
    format, folder = converted
    found, source = values(folder / "model.gguf"), tensors_of(demo / "model")
    assert sorted(path.name for path in folder.iterdir()) == ["mmproj.gguf", "model.gguf", "visq_report.json"]
    seen = 0
    for name, weight in source.items():
        if ".layers." not in name or "language_model" not in name:
            continue
        layer, module = name.split(".layers.")[1].split(".")[0], name.split(".")[-2]
        if module not in LINEARS:
            continue
        expected = rounded(weight, format)
        if module in ("q_proj", "k_proj"):
            expected = interleaved(expected, 4 if module == "q_proj" else 2)
        value, kind = found[f"blk.{layer}.{LINEARS[module]}.weight"]
        assert kind == format.upper() and torch.equal(value, expected), name
        seen += 1
    assert seen == 35
    by_end = {name.split("language_model.")[-1]: value for name, value in source.items()}
    norm, kind = found["output_norm.weight"]
    assert kind == "F32" and torch.equal(norm, by_end["model.norm.weight" if "model.norm.weight" in by_end else "norm.weight"].float())
    assert found["token_embd.weight"][1] == "BF16" and found["output.weight"][0].shape == (1024, 256)


def test_metadata_says_what_the_configuration_says(converted, demo):
    format, folder = converted
    data, text = metadata(folder / "model.gguf"), json.loads((demo / "model" / "config.json").read_text())["text_config"]
    assert data["general.architecture"] == "llama" and data["general.type"] == "model"
    assert data["general.file_type"] == {"q8_0": 7, "q4_0": 2}[format]
    for key, own in {"context_length": "max_position_embeddings", "embedding_length": "hidden_size", "vocab_size": "vocab_size",
                     "block_count": "num_hidden_layers", "feed_forward_length": "intermediate_size",
                     "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
                     "attention.key_length": "head_dim", "rope.dimension_count": "head_dim", "rope.freq_base": "rope_theta"}.items():  # fmt: skip
        assert data[f"llama.{key}"] == text[own], key
    assert data["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(text["rms_norm_eps"])
    assert data["tokenizer.ggml.model"] == "llama" and len(data["tokenizer.ggml.tokens"]) == 1024
    assert data["tokenizer.ggml.token_type"][:4] == [2, 3, 3, 6] and data["tokenizer.ggml.token_type"][-1] == 5
    assert (data["tokenizer.ggml.bos_token_id"], data["tokenizer.ggml.eos_token_id"]) == (1, 2)
    assert data["tokenizer.ggml.add_bos_token"] and not data["tokenizer.ggml.add_eos_token"]
    assert data["tokenizer.chat_template"] == (demo / "model" / "chat_template.jinja").read_text()


def compare_in_transformers(model, folder, format):
    """Logits and token ids of the file are those of the checkpoint with its linears rounded."""
    whole = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            if "language_model" in name and ".layers." in name and name.split(".")[-2] in LINEARS and parameter.dim() == 2:
                parameter.copy_(rounded(parameter, format))
        original = AutoTokenizer.from_pretrained(model)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")
        text = AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.float32).eval()
        for line in TEXTS:
            ids = original(line, return_tensors="pt").input_ids
            assert tokenizer(line).input_ids == ids[0].tolist(), line
            expected, found = whole(input_ids=ids).logits, text(input_ids=ids).logits
            assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_transformers_computes_the_same_logits_and_token_ids(converted, demo):
    format, folder = converted
    compare_in_transformers(demo / "model", folder, format)


def test_the_vision_file_holds_the_tower_and_the_projector(converted, demo):
    found, source = values(converted[1] / "mmproj.gguf"), tensors_of(demo / "model")
    data = metadata(converted[1] / "mmproj.gguf")
    assert data["general.architecture"] == "clip" and data["clip.projector_type"] == "mlp"
    assert data["clip.vision.block_count"] == 3 and data["clip.vision.feature_layer"] == [3]  # of four: the last but one
    assert data["clip.vision.projection_dim"] == 256 and data["clip.vision.image_size"] == 64
    assert data["clip.vision.image_mean"] == pytest.approx(json.loads((demo / "model/preprocessor_config.json").read_text())["image_mean"])
    assert "clip.use_gelu" not in data and "v.blk.3.ln1.weight" not in found and "v.post_ln.weight" not in found

    def own(end):
        (name,) = [name for name in source if name.endswith(end)]
        return source[name].float()

    names = {"v.patch_embd.weight": "patch_embedding.weight", "v.position_embd.weight": "position_embedding.weight",
             "v.pre_ln.weight": "pre_layrnorm.weight", "v.class_embd": "class_embedding",
             "v.blk.2.ffn_up.weight": "layers.2.mlp.fc1.weight", "v.blk.2.ffn_down.bias": "layers.2.mlp.fc2.bias",
             "v.blk.1.attn_out.weight": "layers.1.self_attn.out_proj.weight", "v.blk.0.ln2.bias": "encoder.layers.0.layer_norm2.bias",
             "mm.0.weight": "linear_1.weight", "mm.2.bias": "linear_2.bias"}  # fmt: skip
    for name, end in names.items():
        assert torch.equal(found[name][0], own(end)), name


def test_rows_with_one_scale_become_blocks_with_the_same(visq, demo, tmp_path):
    """A scale of BF16, as compressed-tensors has it, is an F16 number too unless it is very small."""
    visq("quantize", demo / "model", "-f", "int8_wo", "--kv-cache", "none", "-o", tmp_path / "ct")
    visq("convert", tmp_path / "ct", "--to", "gguf", "-o", tmp_path / "gguf")
    scales = {name: value for name, value in tensors_of(tmp_path / "ct").items() if name.endswith("weight_scale")}
    found = values(tmp_path / "gguf" / "model.gguf")
    name, scale = next((name, value) for name, value in scales.items() if "o_proj" in name)
    layer = name.split(".layers.")[1].split(".")[0]
    value, kind = found[f"blk.{layer}.attn_output.weight"]
    codes = value / scale.float().view(-1, 1)
    assert kind == "Q8_0" and torch.equal(codes, codes.round()) and codes.abs().max() <= 128


@pytest.fixture(scope="module")
def fp4(visq, demo, tmp_path_factory):
    """{format: (checkpoint in modelopt's layout, the same in GGUF)}"""
    out = tmp_path_factory.mktemp("fp4")
    visq("quantize", demo / "model", "-f", "nvfp4,w4a16_nvfp4_max", "--calib", demo / "calibration.jsonl", "--samples", 16,
         "--kv-cache", "none", "-o", out / "modelopt")  # fmt: skip
    for format in ("nvfp4", "w4a16_nvfp4_max"):
        visq("convert", out / "modelopt" / format, "--to", "gguf", "-o", out / format)
    return {format: (out / "modelopt" / format, out / format) for format in ("nvfp4", "w4a16_nvfp4_max")}


@pytest.mark.parametrize("format", ["nvfp4", "w4a16_nvfp4_max"])
def test_nvfp4_keeps_its_numbers_and_its_scales(visq, fp4, demo, tmp_path, format):
    modelopt, folder = fp4[format]
    found, source = values(folder / "model.gguf"), tensors_of(modelopt)
    assert metadata(folder / "model.gguf")["general.file_type"] == 39
    levels = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    seen = 0
    for name, codes in source.items():
        if not name.endswith("_proj.weight") or codes.dtype != torch.uint8:
            continue
        module = name.removesuffix(".weight")
        stem = f"blk.{name.split('.layers.')[1].split('.')[0]}.{LINEARS[module.split('.')[-1]]}"
        pairs = torch.stack([levels[(codes & 15).long()], levels[(codes >> 4).long()]], -1).view(codes.shape[0], -1, 16)
        expected = (pairs * source[f"{module}.weight_scale"].float()[..., None]).view(codes.shape[0], -1)
        heads = {"attn_q": 4, "attn_k": 2}.get(stem.split(".")[-1])
        value, kind = found[f"{stem}.weight"]
        assert kind == "NVFP4" and torch.equal(value, interleaved(expected, heads) if heads else expected), name
        assert found[f"{stem}.scale"][0].tolist() == [source[f"{module}.weight_scale_2"].item()]
        if format == "nvfp4":
            assert found[f"{stem}.input_scale"][0].tolist() == [source[f"{module}.input_scale"].item()]
        seen += 1
    assert seen == 35 and (f"{stem}.input_scale" in found) == (format == "nvfp4")
    visq("convert", folder, "--to", "modelopt", "--source", demo / "model", "-o", tmp_path / "back")
    back = tensors_of(tmp_path / "back")
    assert back.keys() == source.keys()
    for name, value in back.items():
        assert value.dtype == source[name].dtype and value.shape == source[name].shape, name
        assert torch.equal(value.reshape(-1).view(torch.uint8), source[name].reshape(-1).view(torch.uint8)), name
    visq("convert", tmp_path / "back", "--to", "gguf", "-o", tmp_path / "again")
    assert (tmp_path / "again" / "model.gguf").read_bytes() == (folder / "model.gguf").read_bytes()
    rows = visq.json("eval", modelopt, folder, "--source", demo / "model", "--data", demo / "questions.jsonl", "--samples", 16)
    assert rows[0]["perplexity"] == rows[1]["perplexity"]


def test_nvfp4_is_quantized_to_gguf_at_once(visq, fp4, demo, tmp_path):
    visq("quantize", demo / "model", "-f", "nvfp4", "--calib", demo / "calibration.jsonl", "--samples", 16, "--layout", "gguf",
         "-o", tmp_path / "out")  # fmt: skip
    assert (tmp_path / "out" / "model.gguf").read_bytes() == (fp4["nvfp4"][1] / "model.gguf").read_bytes()


@pytest.mark.parametrize("value, says", [(0.0, "not one positive F32 number"), (float("nan"), "not one positive F32 number")])
def test_scales_of_scales_are_checked(visq, fp4, demo, tmp_path, value, says):
    data = bytearray((fp4["nvfp4"][1] / "model.gguf").read_bytes())
    (tensor,) = [tensor for tensor in gguf.GGUFReader(fp4["nvfp4"][1] / "model.gguf").tensors if tensor.name == "blk.1.ffn_up.scale"]
    data[tensor.data_offset : tensor.data_offset + 4] = struct.pack("<f", value)
    (tmp_path / "model.gguf").write_bytes(data)
    result = visq("generate", tmp_path / "model.gguf", "--source", demo / "model", "Hello", check=False)
    assert result.returncode == 2 and "blk.1.ffn_up.scale" in result.stderr and says in result.stderr


def test_a_kv_cache_is_left_out_on_demand(visq, quantized, fp4, tmp_path):
    result = visq("convert", quantized / "nvfp4", "--to", "gguf", "-o", tmp_path / "out", check=False)
    assert result.returncode == 2 and "no place for a KV cache of fp8" in result.stderr and "--drop-kv-cache" in result.stderr
    visq("convert", quantized / "nvfp4", "--to", "gguf", "--drop-kv-cache", "-o", tmp_path / "out")
    visq("convert", quantized / "nvfp4", "--to", "modelopt", "--drop-kv-cache", "-o", tmp_path / "without")
    visq("convert", tmp_path / "without", "--to", "gguf", "-o", tmp_path / "again")
    assert (tmp_path / "out" / "model.gguf").read_bytes() == (tmp_path / "again" / "model.gguf").read_bytes()


def test_formats_that_gguf_has_no_place_for_are_refused_by_name(visq, quantized, tmp_path):
    for format, why in {"fp8": "GGUF has", "int4_awq": "GGUF has", "int8_sq": "GGUF has"}.items():
        result = visq("convert", quantized / format, "--to", "gguf", "-o", tmp_path / format, check=False)
        assert result.returncode == 2 and why in result.stderr and result.stderr.count("\n") == 1, result.stderr
        assert not (tmp_path / format).exists()


def test_it_answers_with_the_original_beside_it(visq, converted, demo, tmp_path):
    folder = converted[1]
    visq("convert", folder, "--to", "compressed-tensors", "--source", demo / "model", "--out", tmp_path / "other")
    (row,), (other,) = (visq.json("eval", directory, *options, "--data", demo / "questions.jsonl", "--max-new-tokens", 2)
                        for directory, options in ((folder, ("--source", demo / "model")), (tmp_path / "other", ())))  # fmt: skip
    assert row["accuracy"] == other["accuracy"] > 0.9 and row["perplexity"] == pytest.approx(other["perplexity"])
    asked = (folder, "--source", demo / "model", "--image", demo / "images" / "q0001.png", "How many yellow objects are there?")
    assert visq("generate", *asked).stdout.strip() == "1"
    result = visq("generate", folder, "Hello", check=False)
    assert result.returncode == 2 and "--source" in result.stderr


def test_the_check_judges_files_and_numbers_by_the_source(visq, converted, fp4, demo, tmp_path):
    result = visq("check", converted[1], check=False)
    assert result.returncode == 2 and "is a checkpoint of gguf: say with --source" in result.stderr
    for result in visq.check([converted[1], fp4["nvfp4"][1], fp4["w4a16_nvfp4_max"][1]], "--source", demo / "model"):
        checked = {rule["id"]: rule["checked"] for rule in result["rules"]}
        assert result["layout"] == "gguf" and checked["A9"] == 1 and checked["C1"] > 0 and checked["E1"] == 35
    data = bytearray((converted[1] / "model.gguf").read_bytes())
    (tensor,) = [tensor for tensor in gguf.GGUFReader(converted[1] / "model.gguf").tensors if tensor.name == "blk.1.ffn_down.weight"]
    data[tensor.data_offset : tensor.data_offset + tensor.n_bytes] = bytes(int(tensor.n_bytes))
    (tmp_path / "model.gguf").write_bytes(data)
    result = visq("check", tmp_path / "model.gguf", "--source", demo / "model", check=False)
    assert result.returncode == 1 and "down_proj': relative error 1.000" in result.stdout
    (tmp_path / "model.gguf").write_bytes(data[:-1000])
    result = visq("check", tmp_path / "model.gguf", "--source", demo / "model", check=False)
    assert result.returncode == 1 and "A9  FAIL" in result.stdout and "model.gguf" in result.stdout


def test_inspect_says_what_is_in_a_file(visq, converted):
    format, folder = converted
    text, = [file for file in visq.json("inspect", folder) if file["architecture"] == "llama"]
    assert text["types"][format.upper()]["tensors"] == 35 and text["metadata"]["llama.block_count"] == 5
    assert format.upper() in visq("inspect", folder / "model.gguf").stdout


# --- families ---


def gemma3():
    model, tokenizer, template, files = toy.make_gemma3()
    config = model.config
    config.text_config.num_hidden_layers = 6
    config.text_config.layer_types = ["sliding_attention"] * 5 + ["full_attention"]
    config.text_config.head_dim = config.text_config.query_pre_attn_scalar = 256  # what transformers assumes of a GGUF
    config.text_config.sliding_window = 512
    config.text_config.rope_parameters["full_attention"] = {"rope_type": "default", "rope_theta": 1000000.0}
    return toy.randomize(type(model)(config)), tokenizer, template, files


FAMILIES = {
    "llava-llama3-rope": (toy.make_llava, ("llama", "clip"), "llama", "mlp"),
    "llava-qwen2": (toy.make_llava, ("qwen2", "clip"), "qwen2", "mlp"),
    "qwen2_vl": (toy.make_qwen_vl, ("2",), "qwen2vl", "qwen2vl_merger"),
    "qwen2_5_vl": (toy.make_qwen_vl, ("2.5",), "qwen2vl", "qwen2.5vl_merger"),
    "qwen3_vl": (toy.make_qwen3_vl, (), "qwen3vl", "qwen3vl_merger"),
    "gemma3": (gemma3, (), "gemma3", "gemma3"),
    "llava_next": (toy.make_llava_next, ("mistral",), "llama", None),
}


@pytest.fixture(scope="module")
def families(visq, tmp_path_factory):
    made = {}

    def get(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(toy, "WIDE", True)
                make, arguments, *_ = FAMILIES[kind]
                toy.save(folder / "model", make(*arguments), "A")
            made[kind] = folder, to_gguf(visq, folder / "model", "q8_0", folder / "gguf")
        return made[kind]

    return get


@pytest.mark.parametrize("kind", FAMILIES)
def test_names_and_shapes_are_those_of_the_architecture(families, kind):
    _, _, architecture, projector = FAMILIES[kind]
    folder, out = families(kind)
    arch = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    data, found = metadata(out / "model.gguf"), values(out / "model.gguf")
    assert data["general.architecture"] == architecture

    def known(number, layers):
        names = [gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[number]]
        return {name.format(bid=layer) for name in names for layer in range(layers)}

    assert not {name.rsplit(".", 1)[0] for name in found} - known(arch[architecture], data[f"{architecture}.block_count"])
    assert len(data["tokenizer.ggml.tokens"]) == found["token_embd.weight"][0].shape[0] == 640
    assert (out / "mmproj.gguf").exists() == (projector is not None)
    if projector is None:
        return
    vision, tensors = metadata(out / "mmproj.gguf"), values(out / "mmproj.gguf")
    assert vision["clip.projector_type"] == projector
    stems = {name.removesuffix(".1").removesuffix(".weight").removesuffix(".bias") for name in tensors}
    assert not stems - known(gguf.MODEL_ARCH.MMPROJ, 8)
    assert vision["clip.vision.projection_dim"] == data[f"{architecture}.embedding_length"]


@pytest.mark.parametrize("kind", FAMILIES)
def test_there_and_back_gives_equal_bytes(visq, families, tmp_path, kind):
    folder, out = families(kind)
    visq("convert", out, "--to", "compressed-tensors", "--source", folder / "model", "--out", tmp_path / "back")
    visq.check([tmp_path / "back"], "--source", folder / "model")
    visq("convert", tmp_path / "back", "--to", "gguf", "--out", tmp_path / "again")
    for path in out.glob("*.gguf"):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("kind", ["llava-qwen2", "gemma3"])
def test_transformers_runs_other_architectures(families, kind):
    folder, out = families(kind)
    compare_in_transformers(folder / "model", out, "q8_0")


def test_rope_of_llama_3_becomes_divisors(families):
    folder, out = families("llava-llama3-rope")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder / "model").text_config
    stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = config.rope_parameters["rope_theta"] ** -(torch.arange(0, 16, 2) / 16)
    assert torch.allclose(values(out / "model.gguf")["rope_freqs.weight"][0], plain / stretched, rtol=1e-5)


def test_sections_of_mrope_and_halves_of_the_patches(families):
    folder, out = families("qwen2_5_vl")
    assert metadata(out / "model.gguf")["qwen2vl.rope.dimension_sections"] == [2, 3, 3, 0]
    vision, tensors, source = metadata(out / "mmproj.gguf"), values(out / "mmproj.gguf"), tensors_of(folder / "model")
    assert vision["clip.vision.n_wa_pattern"] == 2 and vision["clip.use_silu"]
    patch = source["visual.patch_embed.proj.weight"].float()
    for frame, name in enumerate(["v.patch_embd.weight", "v.patch_embd.weight.1"]):
        assert torch.equal(tensors[name][0], patch[:, :, frame])
    queries, keys, _ = source["visual.blocks.1.attn.qkv.weight"].float().chunk(3)
    assert torch.equal(tensors["v.blk.1.attn_q.weight"][0], queries)
    assert torch.equal(tensors["v.blk.1.attn_k.weight"][0], keys)
    assert torch.equal(tensors["v.post_ln.weight"][0], source["visual.merger.ln_q.weight"].float())


def test_norms_of_gemma_hold_one_more(families):
    folder, out = families("gemma3")
    source, found = tensors_of(folder / "model"), values(out / "model.gguf")
    (name,) = [name for name in source if name.endswith("layers.2.pre_feedforward_layernorm.weight")]
    assert torch.equal(found["blk.2.ffn_norm.weight"][0], source[name].float() + 1)
    assert metadata(out / "model.gguf")["gemma3.attention.sliding_window"] == 512


def test_a_tower_that_is_not_known_is_left_out_with_a_warning(visq, families, tmp_path):
    folder, out = families("llava_next")
    result = visq("quantize", folder / "model", "-f", "q8_0", "--layout", "gguf", "-o", tmp_path / "out")
    assert "mmproj.gguf" in result.stderr and "llava_next" in result.stderr


def test_phi3_has_fused_linears_and_two_sets_of_factors(visq, tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "WIDE", True)
    make_phi3_vision(tmp_path / "model", crops=2)
    out = to_gguf(visq, tmp_path / "model", "q8_0", tmp_path / "gguf")
    found, source, data = values(out / "model.gguf"), tensors_of(tmp_path / "model"), metadata(out / "model.gguf")
    assert torch.equal(found["blk.1.attn_qkv.weight"][0], rounded(source["model.layers.1.self_attn.qkv_proj.weight"], "q8_0"))
    assert torch.equal(found["blk.1.ffn_up.weight"][0], rounded(source["model.layers.1.mlp.gate_up_proj.weight"], "q8_0"))
    factors = json.loads((tmp_path / "model/config.json").read_text())["rope_scaling"]
    assert found["rope_factors_long.weight"][0].tolist() == pytest.approx(factors["long_factor"])
    assert data["phi3.rope.scaling.original_context_length"] == 64 and data["phi3.attention.sliding_window"] == 0


def test_what_an_architecture_does_not_compute_is_refused_before_work(visq, tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "WIDE", True)
    toy.save(tmp_path / "model", toy.make_gemma3(), "A")
    result = visq("quantize", tmp_path / "model", "-f", "q8_0", "--layout", "gguf", "-o", tmp_path / "out", check=False)
    assert result.returncode == 2 and "query_pre_attn_scalar" in result.stderr and "gemma3" in result.stderr
    assert not (tmp_path / "out").exists()


# --- hostile files ---


def text(value):
    return struct.pack("<Q", len(value)) + value


def header(tensors=0, keys=0, version=3, magic=b"GGUF"):
    return magic + struct.pack("<IQQ", version, tensors, keys)


ARCHITECTURE = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")


def tensor(name=b"a", extents=(32,), kind=0, offset=0, dimensions=None):
    count = len(extents) if dimensions is None else dimensions
    return text(name) + struct.pack("<I", count) + struct.pack(f"<{len(extents)}Q", *extents) + struct.pack("<IQ", kind, offset)


def padded(head, data=b""):
    return head + bytes(-len(head) % 32) + data


HOSTILE = {
    "truncated": header(1, 1) + ARCHITECTURE[:20],
    "an old version": header(version=1),
    "big-endian": b"GGUF" + struct.pack(">I", 3) + bytes(16),
    "more keys than bytes": header(0, 1 << 60),
    "more tensors than bytes": header(1 << 60, 0),
    "a key longer than the file": header(0, 1) + struct.pack("<Q", 1 << 40) + b"a",
    "a text longer than the file": header(0, 1) + text(b"a") + struct.pack("<IQ", 8, 1 << 62),
    "a list longer than the file": header(0, 1) + text(b"a") + struct.pack("<IIQ", 9, 0, 1 << 62),
    "lists of lists of lists": header(0, 1) + text(b"a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 100000,
    "an unknown type of value": header(0, 1) + text(b"a") + struct.pack("<II", 77, 0),
    "a truth value of 2": header(0, 1) + text(b"a") + struct.pack("<IB", 7, 2),
    "a key twice": header(0, 2) + ARCHITECTURE + ARCHITECTURE,
    "an odd alignment": header(0, 1) + text(b"general.alignment") + struct.pack("<II", 4, 24),
    "no alignment": header(0, 1) + text(b"general.alignment") + struct.pack("<II", 4, 0),
    "an unknown type of tensor": padded(header(1, 1) + ARCHITECTURE + tensor(kind=99), bytes(128)),
    "a removed type of tensor": padded(header(1, 1) + ARCHITECTURE + tensor(kind=4), bytes(128)),
    "five dimensions": padded(header(1, 1) + ARCHITECTURE + tensor(extents=(1, 1, 1, 1, 1)), bytes(128)),
    "extents that overflow": padded(header(1, 1) + ARCHITECTURE + tensor(extents=(1 << 32, 1 << 32)), bytes(128)),
    "a negative extent": padded(header(1, 1) + ARCHITECTURE + tensor(extents=(1 << 63,)), bytes(128)),
    "no extent": padded(header(1, 1) + ARCHITECTURE + tensor(extents=(0,)), bytes(128)),
    "half a block": padded(header(1, 1) + ARCHITECTURE + tensor(extents=(48,), kind=8), bytes(128)),
    "data that is not there": padded(header(1, 1) + ARCHITECTURE + tensor(extents=(64,)), bytes(128)),
    "an offset far away": padded(header(1, 1) + ARCHITECTURE + tensor(offset=1 << 62), bytes(128)),
    "tensors that overlap": padded(header(2, 1) + ARCHITECTURE + tensor() + tensor(b"b", offset=64), bytes(256)),
    "an offset between": padded(header(2, 1) + ARCHITECTURE + tensor(extents=(8,)) + tensor(b"b", offset=36), bytes(256)),
    "a tensor twice": padded(header(2, 1) + ARCHITECTURE + tensor() + tensor(offset=128), bytes(256)),
    "one part of several": header(0, 2) + ARCHITECTURE + text(b"split.count") + struct.pack("<IH", 2, 3),
}


@pytest.mark.parametrize("defect", HOSTILE)
def test_a_hostile_file_ends_in_one_line(visq, tmp_path, defect):
    (tmp_path / "bad.gguf").write_bytes(HOSTILE[defect])
    result = visq("inspect", tmp_path / "bad.gguf", check=False)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "bad.gguf" in result.stderr, result.stderr


def test_a_small_sound_file_is_read(visq, tmp_path):
    """What the hostile ones are made of."""
    (tmp_path / "good.gguf").write_bytes(padded(header(2, 1) + ARCHITECTURE + tensor() + tensor(b"b", offset=128), bytes(256)))
    assert visq.json("inspect", tmp_path / "good.gguf")["types"] == {"F32": {"tensors": 2, "bytes": 256}}
