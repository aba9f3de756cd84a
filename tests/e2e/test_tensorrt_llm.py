"""TensorRT-LLM's checkpoints: what is in them, how they are shared out, and the way back."""
import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
sys.path.insert(0, str(Path(__file__).parents[2] / "demo" / "make"))
import compat  # noqa: E402,F401  (before transformers)
import forward_models as toy  # noqa: E402
import torch  # noqa: E402
from test_families import Phi3Vision, write_data  # noqa: E402
from test_quantize import digest, tensors  # noqa: E402

import trt_rules  # noqa: E402

LAYERS, HIDDEN, INTERMEDIATE, VOCABULARY = 3, 256, 512, 650
# kind → how it is made, name of its decoder at TensorRT-LLM, formats
KINDS = {
    "llama": ((toy.make_llava, "llama", "clip"), "LlamaForCausalLM", ["int8_sq", "fp8", "int4_awq", "w4a8_awq", "nvfp4"]),
    "mistral": ((toy.make_llava_next, "mistral"), "MistralForCausalLM", ["int8_sq", "int4_awq"]),
    "qwen2": ((toy.make_llava, "qwen2", "siglip"), "Qwen2ForCausalLM", ["int8_sq", "w4a8_awq"]),
    "qwen2_5_vl": ((toy.make_qwen_vl, "2.5"), "Qwen2ForCausalLM", ["int8_sq"]),
    "phi3": ((Phi3Vision,), "Phi3ForCausalLM", ["int8_sq", "int4_awq"]),
    "gemma": ((toy.make_paligemma, "gemma"), "GemmaForCausalLM", ["int8_sq"]),
    "gemma2": ((toy.make_paligemma, "gemma2"), "Gemma2ForCausalLM", ["int8_sq"]),
    "gemma3": ((toy.make_gemma3,), "Gemma3ForCausalLM", ["int8_sq", "w4a8_awq"]),
}


class Case:
    """A tiny model, and what it is quantized to, in the modelopt layout."""

    def __init__(self, kind, folder, visq):
        (make, *arguments), self.architecture, self.formats = KINDS[kind]
        self.kind, self.folder, self.visq = kind, folder, visq
        self.heads = 16 if kind in ("phi3", "qwen2_5_vl") else 8  # whose rope is made for heads of 16 channels
        toy.text_size = lambda: text_size(self.heads)  # `sizes` puts the old one back
        made = make(*arguments)
        if isinstance(made, tuple):
            made[0].bfloat16()
            self.model = toy.save(folder / "model", made, "A")
        else:
            self.model = made.save(folder / "model")
        visq("quantize", self.model, "-f", ",".join(self.formats), "--layout", "modelopt", "--calib", write_data(folder),
             "--seq-len", 8192, "-o", folder / "out", *(["--kv-cache", "fp8"]))  # fmt: skip
        self.source = tensors(self.model)
        self.config = json.loads((self.model / "config.json").read_text())
        self.text = {"heads": self.heads, "kv_heads": self.heads // 2, "head_dim": HIDDEN // self.heads, "intermediate": INTERMEDIATE, "fused": kind == "phi3"}
        self.float = self.source[self.name("embed_tokens.weight")][0]
        self.vocabulary = self.source[self.name("embed_tokens.weight")][1][0]
        self.tied = not any(name.endswith("lm_head.weight") for name in self.source)

    def quantized(self, format):
        # One format has no folder of its own.
        return self.folder / "out" / (format if len(self.formats) > 1 else "")

    def name(self, ending):
        """The name in the files of a tensor of the text model."""
        names = [name for name in self.source if name.endswith("." + ending) and "visi" not in name and "visual" not in name]
        assert len(names) == 1, (ending, names)
        return names[0]

    def convert(self, format, tp=1, pp=1):
        out = self.folder / f"trt-{format}-{tp}-{pp}"
        if not out.exists():
            self.visq("convert", self.quantized(format), "--to", "tensorrt-llm", "--tp", tp, "--pp", pp, "--out", out)
        return out

    def files(self, format, tp=1, pp=1):
        out = self.convert(format, tp, pp)
        assert sorted(path.name for path in out.glob("*.safetensors")) == sorted(f"rank{rank}.safetensors" for rank in range(tp * pp))
        return [of_file(out / f"rank{rank}.safetensors") for rank in range(tp * pp)]


def of_file(path):
    """name → (dtype, shape, bytes)"""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    place = lambda info: data[8 + length + info["data_offsets"][0] : 8 + length + info["data_offsets"][1]]  # noqa: E731
    return {name: (info["dtype"], info["shape"], place(info)) for name, info in header.items()}


def text_size(heads=8):
    return dict(vocab_size=VOCABULARY, num_hidden_layers=LAYERS, hidden_size=HIDDEN, intermediate_size=INTERMEDIATE,
                num_attention_heads=heads, num_key_value_heads=heads // 2)  # fmt: skip


@pytest.fixture(scope="module")
def sizes():
    patch = pytest.MonkeyPatch()
    patch.setattr(toy, "WIDE", True)
    patch.setattr(toy, "text_size", text_size)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def cases(sizes, tmp_path_factory, visq):
    made = {}

    def case(kind):
        if kind not in made:
            made[kind] = Case(kind, tmp_path_factory.mktemp(kind), visq)
        return made[kind]

    return case


ALL = [(kind, format) for kind, (_, _, formats) in KINDS.items() for format in formats]


@pytest.mark.parametrize("kind,format", ALL)
def test_the_file_of_one_gpu_has_the_tensors_of_the_format(cases, kind, format):
    case = cases(kind)
    (rank,) = case.files(format)
    vocabulary = -(-case.vocabulary // 64) * 64 if "awq" in format else case.vocabulary
    expected = {"transformer.vocab_embedding.weight": (case.float, [vocabulary, HIDDEN]), "transformer.ln_f.weight": (case.float, [HIDDEN])}
    if not case.tied:
        expected["lm_head.weight"] = (case.float, [vocabulary, HIDDEN])
    shapes = {"attention.qkv": (512, HIDDEN), "attention.dense": (HIDDEN, 256), "mlp.fc": (INTERMEDIATE, HIDDEN),
              "mlp.gate": (INTERMEDIATE, HIDDEN), "mlp.proj": (HIDDEN, INTERMEDIATE)}  # fmt: skip
    if kind == "phi3":
        shapes["mlp.fc"] = (2 * INTERMEDIATE, HIDDEN)
        del shapes["mlp.gate"]
    biases = {"llama": list(shapes), "qwen2": ["attention.qkv"], "qwen2_5_vl": ["attention.qkv"]}.get(kind, [])
    norms = ["input_layernorm", "post_layernorm"]
    norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"] if kind in ("gemma2", "gemma3") else []
    for layer in range(LAYERS):
        prefix = f"transformer.layers.{layer}."
        for linear, (n, k) in shapes.items():
            for suffix, (dtype, shape) in trt_rules.TENSORS[format](n, k).items():
                expected[f"{prefix}{linear}.{suffix}"] = (case.float if dtype == "float" else dtype, shape)
            if linear in biases:
                expected[f"{prefix}{linear}.bias"] = (case.float, [n])
        expected |= {f"{prefix}{norm}.weight": (case.float, [HIDDEN]) for norm in norms}
        if kind == "gemma3":
            expected |= {f"{prefix}attention.{x}_layernorm.weight": (case.float, [32]) for x in "qk"}
        expected |= {f"{prefix}attention.{x}_cache_scaling_factor": ("F32", [1]) for x in ("k", "v", "kv")}
    assert {name: (dtype, shape) for name, (dtype, shape, _) in rank.items()} == expected


@pytest.mark.parametrize("kind,format", ALL)
def test_values_are_those_of_the_modelopt_checkpoint_in_tensorrt_llms_order(cases, kind, format):
    case = cases(kind)
    (rank,) = case.files(format)
    stored = tensors(case.quantized(format))
    module = case.name("layers.1.self_attn.o_proj.weight").removesuffix("self_attn.o_proj.weight")
    value = lambda name: trt_rules.array(stored[module + name])  # noqa: E731
    ours = lambda name: trt_rules.array(rank["transformer.layers.1." + name])  # noqa: E731
    same = lambda name, *parts: np.testing.assert_array_equal(ours(name).view(parts[0].dtype), np.concatenate(parts))  # noqa: E731
    if kind == "phi3":
        fused = value("mlp.gate_up_proj.weight")
        gate, up = np.split(fused, 2)
        same("mlp.fc.weight", up, gate)
        same("attention.qkv.weight", value("self_attn.qkv_proj.weight"))
    else:
        same("mlp.fc.weight", value("mlp.gate_proj.weight"))
        same("mlp.gate.weight", value("mlp.up_proj.weight"))
        same("attention.qkv.weight", *(value(f"self_attn.{x}_proj.weight") for x in "qkv"))
    same("attention.dense.weight", value("self_attn.o_proj.weight"))
    same("mlp.proj.weight", value("mlp.down_proj.weight"))
    if format != "fp8":
        same("mlp.proj.weights_scaling_factor", value("mlp.down_proj.weight_scale"))
    if format not in ("int4_awq", "int8_wo"):
        assert ours("mlp.proj.activation_scaling_factor").item() == value("mlp.down_proj.input_scale").item()
    if format in ("int8_sq", "int4_awq", "w4a8_awq"):
        assert (trt_rules.number(rank["transformer.layers.1.mlp.fc.prequant_scaling_factor"]) == 1).all()
    k, v = (value(f"self_attn.{x}_proj.{x}_scale").item() for x in "kv")
    assert [ours(f"attention.{x}_cache_scaling_factor").item() for x in ("k", "v", "kv")] == [k, v, max(k, v)]

    number = lambda name: trt_rules.number(stored[module + name])  # noqa: E731
    plus = 1.0 if kind.startswith("gemma") else 0.0
    norm = trt_rules.number(rank["transformer.layers.1.input_layernorm.weight"])
    np.testing.assert_allclose(norm, number("input_layernorm.weight") + plus, rtol=2**-8)
    if plus == 0:
        np.testing.assert_array_equal(norm, number("input_layernorm.weight"))
    embedding = trt_rules.array(rank["transformer.vocab_embedding.weight"])
    np.testing.assert_array_equal(embedding[: case.vocabulary], trt_rules.array(case.source[case.name("embed_tokens.weight")]))
    assert not embedding[case.vocabulary :].any()


@pytest.mark.parametrize("kind,format", ALL)
@pytest.mark.parametrize("tp,pp", [(2, 3), (8, 1)])
def test_the_files_of_several_gpus_make_that_of_one(cases, kind, format, tp, pp):
    if tp == 8 and format not in ("int8_sq", "fp8"):
        pytest.skip("a GPU would have part of a block")
    case = cases(kind)
    one = {name: trt_rules.array(tensor) for name, tensor in case.files(format)[0].items()}
    many = trt_rules.merged(case.files(format, tp, pp), case.text, tp, pp, LAYERS)
    if case.tied and pp > 1:  # the last stage has no embedding to share
        np.testing.assert_array_equal(many.pop("lm_head.weight"), many["transformer.vocab_embedding.weight"])
    assert many.keys() == one.keys()
    for name, value in one.items():
        if name in ("transformer.vocab_embedding.weight", "lm_head.weight"):
            assert not many[name][len(value) :].any()
            many[name] = many[name][: len(value)]
        np.testing.assert_array_equal(many[name], value, err_msg=name)


@pytest.mark.parametrize("kind,format", ALL)
def test_there_and_back_gives_the_same_bytes(cases, kind, format, tmp_path):
    case = cases(kind)
    case.visq("convert", case.convert(format, 2, 3), "--to", "modelopt", "--source", case.model, "--out", tmp_path / "back")
    before, after = tensors(case.quantized(format)), tensors(tmp_path / "back")
    assert before.keys() == after.keys()
    for name, value in before.items():
        if kind.startswith("gemma") and name.endswith("norm.weight") and "vision" not in name:
            # TensorRT-LLM stores 1 + w, rounded.
            assert after[name][:2] == value[:2]
            np.testing.assert_allclose(trt_rules.number(after[name]), trt_rules.number(value), atol=2**-7)
        else:
            assert after[name] == value, name
    for file in ("config.json", "hf_quant_config.json", "tokenizer.json"):
        assert (tmp_path / "back" / file).read_bytes() == (case.quantized(format) / file).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_config_says_what_the_builder_needs(cases, kind):
    case = cases(kind)
    format = case.formats[0]
    config = json.loads((case.convert(format, 2, 3) / "config.json").read_text())
    assert config["architecture"] == case.architecture
    assert config["mapping"] == {"world_size": 6, "tp_size": 2, "pp_size": 3}
    assert config["share_embedding_table"] is False  # of three stages
    single = json.loads((case.convert(format) / "config.json").read_text())
    assert single["share_embedding_table"] == case.tied
    assert single["quantization"] == {"quant_algo": "W8A8_SQ_PER_CHANNEL", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    assert (config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]) == (HIDDEN, INTERMEDIATE, LAYERS)
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_size"]) == tuple(
        case.text[key] for key in ("heads", "kv_heads", "head_dim"))
    assert config["vocab_size"] == case.vocabulary
    assert config["dtype"] == ("float32" if kind == "phi3" else "bfloat16")
    assert config["hidden_act"] == {"phi3": "swiglu"}.get(kind, "gelu_pytorch_tanh" if kind.startswith("gemma") else "silu")
    if kind == "llama":
        assert config["rotary_base"] == 500000 and config["rotary_scaling"]["factor"] == 8
        assert config["attn_bias"] and config["mlp_bias"] and config["bias"]
    if kind.startswith("qwen2"):
        assert config["attn_bias"] and not config["bias"]
    if kind == "qwen2_5_vl":
        assert config["position_embedding_type"] == "mrope" and config["rotary_scaling"]["type"] == "mrope"
    if kind == "phi3":
        assert config["position_embedding_type"] == "long_rope" and config["original_max_position_embeddings"] == 64
        np.testing.assert_allclose(config["longrope_scaling_long_factors"], [1 + 0.5 * i for i in range(8)])
    if kind == "gemma2":
        assert (config["query_pre_attn_scalar"], config["attn_logit_softcapping"], config["final_logit_softcapping"]) == (20, 5, 4)
    if kind == "gemma3":
        assert config["rope_local_base_freq"] == 10000 and config["rotary_base"] == 1000000 and config["sliding_window"] == 3
