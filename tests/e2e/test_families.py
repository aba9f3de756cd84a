"""Every family to every format, on tiny random checkpoints in the hub's spelling: quantize, check, eval."""
import json
import math
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
sys.path.insert(0, str(Path(__file__).parents[2] / "demo" / "make"))
import compat  # noqa: E402,F401  (makes torchvision importable; before transformers)
import forward_models as toy  # noqa: E402
import llama4_model  # noqa: E402
import mllama_model  # noqa: E402
from llava_original_models import OriginalLlava  # noqa: E402
from nemotron_model import NemotronVL  # noqa: E402
from phi4mm_model import Phi4MM  # noqa: E402
from test_phi3_vision import make as make_phi3_vision  # noqa: E402
from vila_models import Vila  # noqa: E402

import engine_rules  # noqa: E402
from formats import DATA_FREE, FORMATS  # noqa: E402
from test_quantize import tensors  # noqa: E402


class Phi3Vision:
    def save(self, folder):
        make_phi3_vision(folder, crops=2)  # 457 tokens an image; with four crops 757
        return folder


KINDS = {
    "llava": (toy.make_llava, "llama", "clip"),
    "llava-pixtral": (toy.make_pixtral, "llava"),
    "llava_next": (toy.make_llava_next, "mistral"),
    "llava_onevision": (toy.make_llava_onevision,),
    "qwen2_vl": (toy.make_qwen_vl, "2"),
    "qwen2_5_vl": (toy.make_qwen_vl, "2.5"),
    "qwen3_vl": (toy.make_qwen3_vl,),
    "qwen3_vl_moe": (toy.make_qwen3_vl, True),
    "internvl": (toy.make_internvl, "layer"),
    "mistral3": (toy.make_pixtral, "mistral3"),
    "lighton_ocr": (toy.make_lighton_ocr,),
    "gemma3": (toy.make_gemma3,),
    "paligemma": (toy.make_paligemma, "gemma2"),
    "idefics3": (toy.make_smolvlm, "Idefics3"),
    "smolvlm": (toy.make_smolvlm, "SmolVLM"),
    "phi3_v": (Phi3Vision,),
    "phi4_multimodal": (toy.make_phi4,),
    "phi4mm": (Phi4MM,),
    "mllama": (mllama_model.make,),
    "llama4": (llama4_model.make,),
    "vila1.5": (Vila, "vila1.5"),
    "vila1.5-s2": (Vila, "vila1.5-s2"),
    "vila1.5-intern": (Vila, "vila1.5-intern"),
    "nvila": (Vila, "nvila"),
    "nemotron_vl": (NemotronVL,),
    "llava_original": (OriginalLlava, "llava_next-mistral"),
    "llava_original-padded": (OriginalLlava, "llava-llama"),
    "llava_original-onevision": (OriginalLlava, "llava_onevision"),
}


def check_ledger(report, model):
    """Each token of a sparse layer reaches as many experts as config.json says, and all experts are accounted for."""
    text = json.loads((model / "config.json").read_text()).get("text_config", {})
    if "num_experts_per_tok" not in text:
        return
    of_experts = [group for group in report["groups"] if "expert" in group and group["group"] == "mlp_in"]
    experts = [group for group in of_experts if group["layer"] == of_experts[0]["layer"]]
    assert len(experts) == text.get("num_experts", text.get("num_local_experts"))
    for kind in ("text_tokens", "image_tokens"):
        assert sum(group[kind] for group in experts) == text["num_experts_per_tok"] * report["calibration"][kind]


STACK = re.compile(r"\.experts\.(gate_up|down)_proj$")
LAYER = r"(^|\.)layers\.\d+\."
LINEAR = re.compile(LAYER + r"((self|cross)_attn|(mlp|feed_forward)(\.experts\.\d+|\.shared_expert)?)\.\w+_proj(\.base_layer)?$")
TOWER = re.compile(r"(?<!lora_[AB]\.)(vision|visual|image_embed)")
# What smoothing passes its factors on to: norms, the routers and adapters behind them, and biases.
FOLDED = re.compile(LAYER + r"(\w+_layernorm\.weight|mlp\.gate\.weight|feed_forward\.router\.weight|.*\.lora_[AB]\..*|.*_proj(\.base_layer)?\.bias)$")


def check_what_is_quantized(source, output, folder, smoothed):
    """All linears of the text model and no others; the rest is the source's; every engine would take it so.

    @param folder  of the output's text model
    """
    level = "llm." if folder.name == "llm" else ""
    linears = {re.sub(r"\.weight(_packed)?$", "", name) for name, (_, shape, _) in output.items()
               if re.search(r"\.weight(_packed)?$", name) and len(shape) == 2 and "embed" not in name.split(".")[-2]}  # fmt: skip
    quantized = {module for module in linears if {f"{module}.weight_scale", f"{module}.weight_scale_inv"} & output.keys()}
    assert quantized == {module for module in linears if LINEAR.search(module) and not TOWER.search(module)}
    assert len(quantized) >= 7
    own = [{module.removeprefix(level) for module in modules if module.startswith(level)} for modules in (linears, quantized)]
    assert not engine_rules.wrongly_judged(folder, *own)

    for name, value in source.items():
        if name.removesuffix(".weight") in quantized:
            assert output.get(name) != value, name
        elif not STACK.search(name) and not (smoothed and FOLDED.search(name) and not TOWER.search(name)):
            assert output[name] == value, name


def text_folder(folder):
    return folder / "llm" if (folder / "llm").exists() else folder


def write_data(folder):
    _, conversations = toy.write_samples(folder)
    lines = [[*messages, {"role": "assistant", "content": "A red square."}] for messages in conversations]
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in lines))
    return path


def test_every_family_is_here(visq):
    families = [entry["family"] for entry in visq.json("families")]
    assert not [family for family in families if not any(kind.startswith(family) for kind in KINDS)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_of_a_family_is_whole(visq, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "WIDE", True)
    make, *arguments = KINDS[kind]
    made = make(*arguments)
    model = toy.save(tmp_path / "model", made, "A") if isinstance(made, tuple) else made.save(tmp_path / "model")
    data = write_data(tmp_path)
    out = tmp_path / "out"
    visq("quantize", model, "-f", ",".join(FORMATS), "--calib", data, "--seq-len", 8192, "-o", out)

    visq.check([out / format for format in FORMATS], "--source", model)
    source = tensors(model)
    for format in FORMATS:
        report = json.loads((out / format / "visq_report.json").read_text())
        assert report["calibration"]["text_tokens"] > 0 and report["calibration"]["image_tokens"] > 0
        output = tensors(out / format)
        check_what_is_quantized(source, output, text_folder(out / format), smoothed=format != "fp8")
        check_ledger(report, model)

        if make is Vila:  # everything but the text model's weights and configuration is a copy of the files
            names = [path.relative_to(model) for path in model.rglob("*") if path.is_file()]
            copies = [name for name in names if name.parts[0] != "llm" or "tokenizer" in name.name]
            assert len(copies) >= 7 and Path("config.json") in copies
            assert all((out / format / name).read_bytes() == (model / name).read_bytes() for name in copies)
            assert visq.json("inspect", out / format)["quantization"]["format"] == format

    rows = visq.json("eval", *(out / format for format in FORMATS), "--against", model, "--data", data, "--max-new-tokens", 4)
    # Random models say little about quality, but a scale that went astray shows in one format and not in the others.
    kl = {row["format"]: row["mean_kl"] for row in rows[1:]}
    assert all(math.isfinite(row["perplexity"]) for row in rows)
    assert kl["int8_sq"] < kl["fp8"] < 0.5
    assert max(kl.values()) < 20 * kl["fp8"], kl


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_without_data_of_a_family_is_whole(visq, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "WIDE", True)
    make, *arguments = KINDS[kind]
    made = make(*arguments)
    model = toy.save(tmp_path / "model", made, "A") if isinstance(made, tuple) else made.save(tmp_path / "model")
    out = tmp_path / "out"
    visq("quantize", model, "-f", ",".join(DATA_FREE), "-o", out)

    visq.check([out / format for format in DATA_FREE], "--source", model)
    source = tensors(model)
    for format in DATA_FREE:
        output = tensors(out / format)
        check_what_is_quantized(source, output, text_folder(out / format), smoothed=False)

    data = write_data(tmp_path)
    rows = visq.json("eval", *(out / format for format in DATA_FREE), "--against", model, "--data", data, "--max-new-tokens", 4)
    kl = {row["format"]: row["mean_kl"] for row in rows[1:]}
    assert list(kl) == DATA_FREE and all(math.isfinite(value) for value in kl.values())
    assert 0 < kl["int8_wo"] < min(kl["fp8_pc_pt"], kl["fp8_pb_wo"], kl["w4a16"], kl["w4a16_nvfp4"])
    assert max(kl["fp8_pc_pt"], kl["fp8_pb_wo"]) < 0.5, kl


def test_without_images_the_layers_that_read_them_must_be_left_out(visq, tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "WIDE", True)
    model = toy.save(tmp_path / "model", mllama_model.make(), "A")
    data, out = tmp_path / "text.jsonl", tmp_path / "out"
    data.write_text(json.dumps({"messages": [{"role": "user", "content": "What is two and two?"}]}) + "\n")
    quantize = ["quantize", model, "--calib", data, "--text-only", "-o", out]
    skipped = ["--skip", "*.layers.1.*", "--skip", "*.layers.3.*"]
    for options in (["-f", "fp8"], ["-f", "int4_awq", "--kv-cache", "none"], ["-f", "fp8", *skipped]):
        result = visq(*quantize, *options, check=False)
        assert result.returncode == 2 and not out.exists()
        assert "layer 'language_model.model.layers.1'" in result.stderr and "--kv-cache none" in result.stderr
        assert result.stderr.count("error: ") == 1 and "\n" not in result.stderr[result.stderr.index("error: ") :].strip()
    visq(*quantize, "-f", "fp8", *skipped, "--kv-cache", "none")
    assert visq.json("check", out, "--source", model)["passed"]
    assert tensors(out)["language_model.model.layers.1.mlp.up_proj.weight"] == tensors(model)["language_model.model.layers.1.mlp.up_proj.weight"]
