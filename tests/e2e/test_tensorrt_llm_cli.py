"""TensorRT-LLM's checkpoints as a user makes them, and what is refused; and ModelOpt's own, made here."""
import json
import shutil
import signal
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
sys.path.insert(0, str(Path(__file__).parents[2] / "demo" / "make"))
import compat  # noqa: E402,F401  (before transformers)
import forward_models as toy  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from test_families import write_data  # noqa: E402
from test_quantize import tensors  # noqa: E402
from test_tensorrt_llm import of_file, text_size  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM  # noqa: E402

import trt_rules  # noqa: E402


@pytest.fixture(scope="module")
def quantized(visq, demo, tmp_path_factory):
    """The demo model in three formats, with few samples: quality is not the question."""
    out = tmp_path_factory.mktemp("quantized")
    visq("quantize", demo / "model", "-f", "int8_sq,w4a8_awq,fp8", "--calib", demo / "calibration.jsonl", "--samples", 16, "-o", out)
    return out


@pytest.fixture(scope="module")
def ranks(visq, quantized, tmp_path_factory):
    """The demo model in int8_sq for two GPUs."""
    out = tmp_path_factory.mktemp("trt") / "int8_sq"
    visq("convert", quantized / "int8_sq", "--to", "tensorrt-llm", "--tp", 2, "--out", out)
    return out


@pytest.fixture
def copy(ranks, tmp_path):
    """A copy to damage, and how it is then refused."""
    directory = tmp_path / "damaged"
    shutil.copytree(ranks, directory)
    return directory


def refusal(visq, *arguments, out=None):
    """The one line that a command ends with."""
    result = visq(*arguments, check=False)
    assert result.returncode == 2, result.stdout
    (line,) = result.stderr.strip().splitlines()
    if out is not None:
        assert not out.exists() and not list(out.parent.glob(f"{out.name}.*"))
    return line


def restored_refusal(visq, demo, directory, tmp_path):
    out = tmp_path / "out"
    return refusal(visq, "convert", directory, "--to", "modelopt", "--source", demo / "model", "--out", out, out=out)


def test_one_command_quantizes_to_it(visq, demo, ranks, tmp_path):
    out = tmp_path / "new" / "out"
    result = visq.json("quantize", demo / "model", "-f", "int8_sq", "--layout", "tensorrt-llm", "--tp", 2, "--calib",
                       demo / "calibration.jsonl", "--samples", 16, "--out", out)  # fmt: skip
    (format,) = result["formats"]
    assert (format["layout"], format["directory"], format["linears"]) == ("tensorrt-llm", str(out), 35)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "rank0.safetensors", "rank1.safetensors", "visq_report.json"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]  # nothing else is left
    assert of_file(out / "rank1.safetensors").keys() == of_file(ranks / "rank1.safetensors").keys()


@pytest.mark.parametrize("way", ["quantize", "convert"])
def test_an_interrupted_run_leaves_nothing(visq, demo, quantized, tmp_path, way):
    out = tmp_path / "out"
    if way == "quantize":
        command = ["quantize", demo / "model", "-f", "int8_sq", "--layout", "tensorrt-llm", "--calib", demo / "calibration.jsonl"]
    else:
        command = ["convert", quantized / "int8_sq", "--to", "tensorrt-llm"]
    process = subprocess.Popen([visq.path, *map(str, command), "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(tmp_path.iterdir()):
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    if process.wait() == 0:  # it was faster
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
    else:
        assert process.returncode == 130 and not list(tmp_path.iterdir())


def test_the_check_judges_files_and_numbers_by_the_source(visq, demo, quantized, ranks, tmp_path):
    result = visq("check", ranks, check=False)
    assert result.returncode == 2 and "is a checkpoint of tensorrt-llm: say with --source" in result.stderr
    directories = [ranks]
    for format in ("w4a8_awq", "fp8"):
        visq("convert", quantized / format, "--to", "tensorrt-llm", "--out", tmp_path / format)
        directories.append(tmp_path / format)
    for result in visq.check(directories, "--source", demo / "model", "--for", "tensorrt-llm"):
        checked = {rule["id"]: rule["checked"] for rule in result["rules"]}
        assert (result["layout"], result["engines"], checked["A9"], checked["E1"]) == ("tensorrt-llm", ["tensorrt-llm"], 1, 35)
    result = visq("check", ranks, "--source", demo / "model", "--for", "vllm", check=False)
    assert result.returncode == 1 and "vllm: does not read checkpoints of tensorrt-llm" in result.stdout


def test_a_kv_cache_is_left_out_on_demand(visq, quantized, tmp_path):
    for options, algorithm in (((), "FP8"), (("--drop-kv-cache",), None)):
        out = tmp_path / str(algorithm)
        visq("convert", quantized / "fp8", "--to", "tensorrt-llm", *options, "--out", out)
        assert json.loads((out / "config.json").read_text())["quantization"]["kv_cache_quant_algo"] == algorithm
        assert any("kv_cache" in name for name in load_file(out / "rank0.safetensors")) == (algorithm is not None)


def findings(visq, demo, directory):
    result = visq("check", directory, "--source", demo / "model", "--json", check=False)
    assert result.returncode == 1, result.stderr
    return {finding["rule"]: finding["what"] for rule in json.loads(result.stdout)["rules"] for finding in rule["findings"]}


def test_the_check_names_damaged_files_and_numbers(visq, demo, copy):
    rank = copy / "rank1.safetensors"
    stored = load_file(rank)
    name = "transformer.layers.2.attention.qkv.weights_scaling_factor"
    save_file({**stored, name: stored[name] * 3}, rank)
    assert "layers.2.self_attn.q_proj': relative error" in findings(visq, demo, copy)["E1"]
    rank.write_bytes(rank.read_bytes()[:-100])
    assert set(found := findings(visq, demo, copy)) == {"A9"} and "rank1.safetensors" in found["A9"]


def test_inspect_says_what_is_in_it(visq, ranks):
    said = visq.json("inspect", ranks)
    assert (said["model_format"], said["architecture"], said["format"]) == ("tensorrt-llm", "LlamaForCausalLM", "int8_sq")
    assert said["files"]["rank1.safetensors"] == (ranks / "rank1.safetensors").stat().st_size
    text = visq("inspect", ranks).stdout
    assert "tensor parallel 2" in text and "INT8, one scale a row" in text


def test_it_is_evaluated_with_the_source_and_gives_what_the_original_gives(visq, demo, quantized, ranks):
    rows = visq.json("eval", ranks, quantized / "int8_sq", "--against", demo / "model", "--data", demo / "questions.jsonl", "--samples", 8)
    assert rows[1]["mean_kl"] == rows[2]["mean_kl"] and rows[1]["format"] == "int8_sq"
    answers = [visq("generate", checkpoint, "What is 1 plus 2?", *options).stdout
               for checkpoint, options in ((ranks, ["--source", demo / "model"]), (quantized / "int8_sq", []))]  # fmt: skip
    assert answers[0] == answers[1] != ""
    assert "--source" in refusal(visq, "generate", ranks, "What is 1 plus 2?")


def test_what_gpus_cannot_share_is_refused_before_calibration(visq, demo, quantized, tmp_path):
    out = tmp_path / "out"
    convert = ["convert", quantized / "w4a8_awq", "--to", "tensorrt-llm", "--out", out]
    assert "4 attention heads" in refusal(visq, *convert, "--tp", 3, out=out)
    line = refusal(visq, *convert, "--tp", 4, out=out)
    assert "o_proj.weight" in line and "64 columns" in line and "128" in line
    assert "5 decoder layers" in refusal(visq, *convert, "--pp", 2, out=out)
    line = refusal(visq, "convert", quantized / "w4a8_awq", "--to", "compressed-tensors", "--tp", 2, "--out", out, out=out)
    assert "--tp and --pp are of tensorrt-llm" in line
    # No calibration file is read: there is none.
    quantize = ["quantize", demo / "model", "--calib", "absent.jsonl", "--layout", "tensorrt-llm", "--out", out]
    assert "--pp 2" in refusal(visq, *quantize, "-f", "int8_sq", "--pp", 2, out=out)
    assert "layers.1.self_attn.o_proj' is not quantized" in refusal(visq, *quantize, "-f", "fp8", "--skip", "*layers.1.self_attn.o_proj", out=out)
    assert "does not hold" in refusal(visq, *quantize, "-f", "mxfp8", "--kv-cache", "none", out=out)
    assert "--kv-cache fp8" in refusal(visq, *quantize, "-f", "nvfp4", "--kv-cache", "nvfp4", out=out)
    out.mkdir()
    (out / "file").write_text("")
    assert "--force" in refusal(visq, *quantize, "-f", "int8_sq")


@pytest.mark.parametrize("kind", ["qwen3_vl", "qwen3_vl_moe"])
def test_other_decoders_are_refused_by_name(visq, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "WIDE", True)
    model = toy.save(tmp_path / "model", toy.make_qwen3_vl(kind.endswith("moe")), "A")
    line = refusal(visq, "quantize", model, "-f", "int8_wo", "--kv-cache", "none", "--layout", "tensorrt-llm", "--out",
                   tmp_path / "out", out=tmp_path / "out")  # fmt: skip
    assert f"no place for a {kind} model" in line and "modelopt" in line


def test_the_original_is_needed_and_has_to_be_the_right_one(visq, demo, quantized, ranks, tmp_path):
    out = tmp_path / "out"
    restore = ["convert", ranks, "--to", "modelopt", "--out", out]
    assert "--source" in refusal(visq, *restore, out=out)
    assert "is quantized itself" in refusal(visq, *restore, "--source", quantized / "fp8", out=out)
    other = tmp_path / "other"
    shutil.copytree(demo / "model", other)
    config = json.loads((other / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 4  # of five
    (other / "config.json").write_text(json.dumps(config))
    assert "'num_hidden_layers' is 5, but 4" in refusal(visq, *restore, "--source", other, out=out)
    assert "convert to modelopt first" in refusal(visq, "convert", ranks, "--to", "tensorrt-llm", "--source", demo / "model", "--out", out)


def rewrite(path, change):
    """The file of a rank, with its tensors changed: name → (dtype, shape, bytes)."""
    found = of_file(path)
    change(found)
    header, data = {}, b""
    for name, (dtype, shape, value) in found.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(value)]}
        data += value
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


NORM = "transformer.layers.2.input_layernorm.weight"
SCALE = "transformer.layers.1.attention.qkv.activation_scaling_factor"


def test_damaged_ranks_are_refused_by_name(visq, demo, ranks, copy, tmp_path):
    say = lambda: restored_refusal(visq, demo, copy, tmp_path)  # noqa: E731
    rank = copy / "rank1.safetensors"

    def fresh():
        shutil.copy(ranks / "rank1.safetensors", rank)

    rank.unlink()
    assert "rank1.safetensors: is missing" in say() and "2 ranks" in say()
    rank.write_bytes((ranks / "rank1.safetensors").read_bytes()[:-100])
    assert "rank1.safetensors" in say()
    rank.write_bytes(b"\xff" * 100)
    assert "rank1.safetensors" in say()
    fresh()
    rewrite(rank, lambda found: found.pop(NORM))
    assert f"tensor '{NORM}' is missing" in say()
    fresh()
    rewrite(rank, lambda found: found.update({"transformer.layers.0.mlp.extra": found[NORM]}))
    assert "'transformer.layers.0.mlp.extra'" in say()
    fresh()
    rewrite(rank, lambda found: found.update({NORM: ("BF16", [128], found[NORM][2][:256])}))
    assert f"'{NORM}' is BF16 [128], expected BF16 [256]" in say()
    fresh()
    rewrite(rank, lambda found: found.update({NORM: (*found[NORM][:2], found[NORM][2][::-1])}))
    assert f"'{NORM}'" in say() and "different exports" in say()
    fresh()
    rewrite(rank, lambda found: found.update({SCALE: ("F32", [1], np.float32(0.5).tobytes())}))
    assert "input scale of 'attention.qkv' in layer 1" in say() and "different exports" in say()
    rewrite(rank, lambda found: found.update({SCALE: ("F32", [1], np.float32(np.nan).tobytes())}))
    assert SCALE in say() and "not a positive number" in say()


HOSTILE = [
    ("mapping", {"tp_size": 10**15, "pp_size": 1}, "'tp_size' is"),
    ("mapping", {"tp_size": -2, "pp_size": 1}, "'tp_size' is -2"),
    ("mapping", {"tp_size": 2, "pp_size": 2**40}, "'pp_size' is"),
    ("mapping", {"tp_size": 2, "pp_size": 1, "world_size": 3}, "world_size"),
    ("mapping", [], "tp_size"),
    ("quantization", {"quant_algo": "FP4_FROM_THE_FUTURE"}, "FP4_FROM_THE_FUTURE"),
    ("quantization", {"quant_algo": None}, "quant_algo"),
    ("quantization", {"quant_algo": "W4A16_AWQ", "group_size": 0}, "group_size"),
    ("quantization", {"quant_algo": "W8A8_SQ_PER_CHANNEL", "kv_cache_quant_algo": "INT8"}, "INT8"),
    ("dtype", "complex64", "complex64"),
    ("vocab_size", 10**12, "vocab_size"),
    ("vocab_size", 1000, "'vocab_size' is 1000, but 1024"),
    ("hidden_size", 2**62, "'hidden_size' is"),
    ("num_attention_heads", "four", "num_attention_heads"),
]


@pytest.mark.parametrize("key,value,says", HOSTILE)
def test_a_hostile_config_is_refused(visq, demo, copy, tmp_path, key, value, says):
    config = json.loads((copy / "config.json").read_text())
    config[key] = value
    (copy / "config.json").write_text(json.dumps(config))
    line = restored_refusal(visq, demo, copy, tmp_path)
    assert "config.json" in line and says in line


# ModelOpt's writer, on the text model of a LLaVA model.
MODELOPT = {"int8_sq": "INT8_SMOOTHQUANT_CFG", "fp8": "FP8_DEFAULT_CFG", "int4_awq": "INT4_AWQ_CFG", "w4a8_awq": "W4A8_AWQ_BETA_CFG"}


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def text_model(request, visq, tmp_path_factory):
    """A LLaVA model, and its text model in transformers, with the head that the class of LLaVA has."""
    patch = pytest.MonkeyPatch()
    patch.setattr(toy, "text_size", text_size)
    kind = {"llama": LlamaConfig, "qwen2": Qwen2Config}[request.param]
    config = kind(**text_size(), max_position_embeddings=2048, rms_norm_eps=1e-5, tie_word_embeddings=False)
    patch.setattr(toy, "text_config", lambda _: config)
    made = toy.make_llava(request.param, "clip" if request.param == "llama" else "siglip")
    patch.undo()
    whole = made[0].bfloat16()
    folder = tmp_path_factory.mktemp(request.param)
    model = toy.save(folder / "model", made, "A")
    data = write_data(folder)
    text = {"llama": LlamaForCausalLM, "qwen2": Qwen2ForCausalLM}[request.param](config).bfloat16()
    text.model.load_state_dict(whole.model.language_model.state_dict())
    text.lm_head.load_state_dict(whole.lm_head.state_dict())
    visq("quantize", model, "-f", ",".join(MODELOPT), "--layout", "tensorrt-llm", "--tp", 2, "--kv-cache", "none", "--calib", data,
         "-o", folder / "ours")  # fmt: skip
    return request.param, model, text.eval(), folder


def modelopt_export(text, kind, format, directory):
    import copy as copying

    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_tensorrt_llm_checkpoint

    config = copying.deepcopy(getattr(mtq, MODELOPT[format]))
    config["quant_cfg"].append({"quantizer_name": "*lm_head*", "enable": False})
    text = copying.deepcopy(text)
    text.config.architectures = [type(text).__name__]
    ids = torch.randint(0, 600, (4, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mtq.quantize(text, config, lambda model: model(ids))
        export_tensorrt_llm_checkpoint(text, {"llama": "llama", "qwen2": "qwen"}[kind], torch.bfloat16, directory, inference_tensor_parallel=2)


@pytest.mark.parametrize("format", MODELOPT)
def test_names_types_and_config_are_those_of_modelopts_export(text_model, format, tmp_path):
    kind, _, text, folder = text_model
    modelopt_export(text, kind, format, tmp_path / "theirs")
    for rank in range(2):
        ours, theirs = (of_file(path / f"rank{rank}.safetensors") for path in (folder / "ours" / format, tmp_path / "theirs"))
        assert {name: value[:2] for name, value in ours.items()} == {name: value[:2] for name, value in theirs.items()}
        for name in ("transformer.vocab_embedding.weight", "lm_head.weight"):
            assert ours[name] == theirs[name]
        if kind == "qwen2":
            name = "transformer.layers.1.attention.qkv.bias"
            # Smoothing of o_proj is folded into the values, which come last.
            np.testing.assert_array_equal(*(trt_rules.number(side[name])[:192] for side in (ours, theirs)))
    ours, theirs = (json.loads((path / "config.json").read_text()) for path in (folder / "ours" / format, tmp_path / "theirs"))
    assert ours.keys() >= theirs.keys()
    for key in theirs.keys() - {"producer"}:
        assert ours[key] == theirs[key], key


@pytest.mark.parametrize("format", ["int8_sq", "fp8", "w4a8_awq"])
def test_modelopts_export_is_read(visq, text_model, format, tmp_path):
    kind, model, text, _ = text_model
    modelopt_export(text, kind, format, tmp_path / "theirs")
    back = tmp_path / "back"
    convert = ["convert", tmp_path / "theirs", "--to", "modelopt", "--source", model, "--out", back]
    if format == "w4a8_awq":  # its qkv has real factors of the input, for which modelopt has no place
        assert "pre_quant_scale" in refusal(visq, *convert, out=back)
        return
    visq(*convert)
    files = [of_file(tmp_path / "theirs" / f"rank{rank}.safetensors") for rank in range(2)]
    restored = tensors(back)
    prefix = "language_model.model.layers.1."
    down = np.concatenate([trt_rules.array(file["transformer.layers.1.mlp.proj.weight"]) for file in files], axis=1)
    np.testing.assert_array_equal(trt_rules.array(restored[prefix + "mlp.down_proj.weight"]), down)
    keys = np.concatenate([trt_rules.array(file["transformer.layers.1.attention.qkv.weight"])[128:192] for file in files])
    np.testing.assert_array_equal(trt_rules.array(restored[prefix + "self_attn.k_proj.weight"]), keys)
    if format == "int8_sq":
        factors = trt_rules.number(restored[prefix + "self_attn.q_proj.pre_quant_scale"])
        assert (factors != 1).any()
        np.testing.assert_array_equal(factors, trt_rules.number(files[0]["transformer.layers.1.attention.qkv.prequant_scaling_factor"]))


def test_foreign_checkpoints_whose_queries_and_keys_have_scales_of_their_own_are_refused(visq, quantized, tmp_path):
    """As ModelOpt's FP8 checkpoints on the hub are."""
    foreign = tmp_path / "foreign"
    shutil.copytree(quantized / "fp8", foreign)
    name = "language_model.model.layers.1.self_attn.k_proj.weight_scale"
    rewrite(foreign / "model.safetensors", lambda found: found.update({name: ("F32", [], np.float32(0.25).tobytes())}))
    out = tmp_path / "out"
    line = refusal(visq, "convert", foreign, "--to", "tensorrt-llm", "--out", out, out=out)
    assert "k_proj" in line and "weight scale" in line and "quantize the original" in line
