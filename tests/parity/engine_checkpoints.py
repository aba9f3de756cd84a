"""Tiny checkpoints of every family, quantized in every way that test_engine_loaders.py asks the engines about."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import forward_models as toy

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
from test_families import KINDS, write_data  # noqa: E402

MIXED = """
rules:
  - {sites: "*", scheme: nvfp4}
  - {sites: "*_attn.*", scheme: fp8}
"""
# What to quantize to, and how. Formats of one line share a run of visq. Data: two conversations with images.
CASES = {
    "fp8_pc_pt": [],
    "fp8_pb_wo": [],
    "int8_wo": [],
    "w4a16": [],
    "w4a16_asym": [],
    "w4a16_nvfp4_max": [],
    "mxfp8": [],
    "nf4": [],
    "fp8_pb_wo@compressed-tensors": [],
    "fp8_pc_pt@modelopt": [],
    "w4a16_nvfp4_max@compressed-tensors": [],
    "w4a16@autoawq": [],
    "w4a16_asym@autoawq": [],
    "w4a16@gptq": [],
    "int8_wo@gptq": [],
    "w4a16-layer@autoawq": ["--skip", "*.layers.1.*"],
    "w4a16-layer@gptq": ["--skip", "*.layers.1.*"],
    "w4a16-layer": ["--skip", "*.layers.1.*"],
    "w4a16-down": ["--skip", "*.down_proj"],
    "w4a16_nvfp4_max-layer": ["--skip", "*.layers.1.*"],
    "w4a16_nvfp4_max-down": ["--skip", "*.down_proj"],
    "fp8_pb_wo-layer": ["--skip", "*.layers.1.*"],
    "fp8_pb_wo-down": ["--skip", "*.down_proj"],
    "fp8": None,
    "nvfp4": None,
    "int8_sq": None,
    "nvfp4@compressed-tensors": None,
    "fp8-alone": ["--kv-cache", "none"],
    "nvfp4-alone": ["--kv-cache", "none"],
    "mixed": None,
}  # None: needs data, and has the KV cache that is quantized with it; so have those of the same formats
# Without those whose engines have no class, build towers of one size, or ask for configurations that the toys lack.
ELSEWHERE = ("vila", "nvila", "phi3_v", "phi4_multimodal", "phi4mm", "nemotron_vl", "llava_original")
FAMILIES = [kind for kind in KINDS if not kind.startswith(ELSEWHERE)]


def wide_text_size(size=toy.text_size):
    """Widths of which each part of a fused matrix has whole blocks of 128, as engines ask of FP8 in blocks."""
    return {**size(), "hidden_size": 256, "num_attention_heads": 16, "num_key_value_heads": 8}


def sparse_throughout(text_config, config=toy.Qwen3VLMoeConfig, **rest):
    """As the published ones are: SGLang knows no dense layers of this family."""
    return config(text_config=text_config | {"mlp_only_layers": []}, **rest)


def publish(model):
    """Fields of config.json that published checkpoints have and transformers does not write, or writes for another version."""
    path = model / "config.json"
    config = json.loads(path.read_text())
    text = config.get("text_config", {})
    if config["model_type"] == "qwen2_vl":
        config["vision_config"]["in_chans"] = 3
    if config["model_type"].startswith("qwen3_vl"):
        text["rope_scaling"]["rope_type"] = "default"
    if config["model_type"] == "qwen3_vl_moe":
        text["norm_topk_prob"] = True
    path.write_text(json.dumps(config, indent=1))
    return model


class NotHeld(Exception):
    pass


class Checkpoints:
    """Sources and outputs, made when asked for."""

    def __init__(self, folder):
        self.folder = folder
        build = Path(os.environ.get("VISQ_BUILD", Path(__file__).parents[2] / "build"))
        self.program = build / "visq"

    def visq(self, *arguments):
        result = subprocess.run([self.program, *map(str, arguments)], capture_output=True, text=True, timeout=300)
        if "this layout does not hold" in result.stderr:
            raise NotHeld
        assert result.returncode == 0, f"{arguments}:\n{result.stdout}\n{result.stderr}"
        return result.stdout

    @functools.cache
    def source(self, kind):
        make, *arguments = KINDS[kind]
        (self.folder / kind).mkdir()
        before = toy.WIDE, toy.text_size, toy.Qwen3VLMoeConfig
        toy.WIDE, toy.text_size, toy.Qwen3VLMoeConfig = True, wide_text_size, sparse_throughout
        try:
            made = make(*arguments)
            model = self.folder / kind / "source"
            model = toy.save(model, made, "A") if isinstance(made, tuple) else made.save(model)
        finally:
            toy.WIDE, toy.text_size, toy.Qwen3VLMoeConfig = before
        return publish(model)

    @functools.cache
    def data(self):
        (self.folder / "data").mkdir()
        return write_data(self.folder / "data")

    @functools.cache
    def output(self, kind, case):
        out = self.folder / kind / case
        if "-" not in case and "@" not in case and case != "mixed":
            self.run_of(kind, CASES[case] is None)
            return out
        name, _, layout = case.partition("@")
        name = name.partition("-")[0]
        options = ["--layout", layout] if layout else []
        if case == "mixed":
            name = self.folder / kind / "mixed.yaml"
            name.write_text(MIXED)
        options += CASES[case] or []
        if name not in CASES or CASES[name] is None:
            options += ["--calib", self.data(), "--seq-len", 8192]
        self.visq("quantize", self.source(kind), "-f", name, *options, "-o", out)
        return out

    @functools.cache
    def run_of(self, kind, calibrated):
        """All formats in the layout that visq chooses."""
        names = [case for case, options in CASES.items()
                 if (options is None) == calibrated and not options and "@" not in case and case != "mixed"]  # fmt: skip
        options = ["--calib", self.data(), "--seq-len", 8192] if calibrated else []
        self.visq("quantize", self.source(kind), "-f", ",".join(names), *options, "-o", self.folder / kind)

    @functools.cache
    def claimed(self, kind, case):
        """The engines that visq says read the output; none where the layout does not hold the format."""
        try:
            output = self.output(kind, case)
        except NotHeld:
            return []
        return json.loads(self.visq("inspect", output, "--json"))["quantization"]["engines"]
