"""The vision adapter of Phi-4-multimodal, put into the weights that are quantized."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
sys.path.insert(0, str(Path(__file__).parents[2] / "demo" / "make"))
import compat  # noqa: E402,F401  (makes torchvision importable; before transformers)
import forward_models as toy  # noqa: E402
from phi4mm_model import SCALE, Phi4MM  # noqa: E402

from test_families import write_data  # noqa: E402
from test_quantize import tensors  # noqa: E402

FLAG = "--merge-vision-adapter"


class Merged(Phi4MM):
    """What the flag has to make of a Phi4MM before it is quantized."""

    def tensors(self):
        tensors = super().tensors()
        for (module, adapter), (a, b) in self.adapters.items():
            if adapter == "vision":
                tensors[module + ".base_layer.weight"] = tensors[module + ".base_layer.weight"] + SCALE * (b @ a)
                tensors[f"{module}.lora_B.vision.weight"] = torch.zeros_like(b)
        return tensors


def with_exact_products(model):
    """Adapters whose products have no rounding, so that the order of additions does not matter."""
    for key, matrices in model.adapters.items():
        model.adapters[key] = tuple((matrix * 32).round().clamp(-3, 3) / 32 for matrix in matrices)
    return model


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Directories of a checkpoint, and of the same one merged by hand."""
    monkeypatch.setattr(toy, "WIDE", True)
    return [with_exact_products(kind()).save(tmp_path / kind.__name__) for kind in (Phi4MM, Merged)]


def test_outputs_are_those_of_the_checkpoint_merged_by_hand(visq, models, tmp_path):
    model, by_hand = models
    data, formats = write_data(tmp_path), ["fp8", "int4_awq"]
    arguments = ["-f", ",".join(formats), "--calib", data, "--seq-len", 8192, "-o"]
    visq("quantize", model, FLAG, *arguments, tmp_path / "merged")
    visq("quantize", by_hand, *arguments, tmp_path / "expected")
    visq("quantize", model, *arguments, tmp_path / "kept")
    for format in formats:
        merged, expected, kept = (tensors(tmp_path / name / format) for name in ("merged", "expected", "kept"))
        assert merged.keys() == expected.keys()
        # A of an adapter that adds nothing may be smoothed or not.
        assert not [name for name in merged if merged[name] != expected[name] and ".lora_A.vision." not in name]
        assert any(merged[name] != kept[name] for name in merged if ".base_layer.weight" in name)
        result = visq.json("check", tmp_path / "merged" / format, "--source", model)
        assert result["passed"], [rule for rule in result["rules"] if rule["violations"]]
        report = json.loads((tmp_path / "merged" / format / "visq_report.json").read_text())
        assert report["merged_adapter"] == "vision"
        assert "merged_adapter" not in json.loads((tmp_path / "kept" / format / "visq_report.json").read_text())
    source, fp8 = tensors(model), tensors(tmp_path / "merged" / "fp8")
    speech = [name for name in source if ".speech." in name]
    assert speech and all(fp8[name] == source[name] for name in speech)
    rows = visq.json("eval", tmp_path / "merged" / "fp8", "--against", by_hand, "--data", data, "--max-new-tokens", 4)
    assert rows[1]["mean_kl"] < 0.5


def test_without_data_and_in_linears_that_are_left_out(visq, models, tmp_path):
    model, by_hand = models
    skipped = ["--skip", "*.layers.1.*"]
    visq("quantize", model, FLAG, "-f", "w4a16", *skipped, "-o", tmp_path / "merged")
    visq("quantize", by_hand, "-f", "w4a16", *skipped, "-o", tmp_path / "expected")
    merged = tensors(tmp_path / "merged")
    assert merged == tensors(tmp_path / "expected")
    left_out = [name for name in merged if ".layers.1." in name and name.endswith("base_layer.weight")]
    assert len(left_out) == 4 and all(merged[name] != tensors(model)[name] for name in left_out)
    assert visq.json("check", tmp_path / "merged", "--source", model)["passed"]


def test_check_finds_a_merge_that_is_not_one(visq, models, tmp_path):
    """B is zero, as if merged, but the weights are not the merged ones."""
    model, by_hand = models
    visq("quantize", by_hand, "-f", "fp8_pc_pt", "-o", tmp_path / "merged")
    assert visq.json("check", tmp_path / "merged", "--source", model)["passed"]

    class Lost(Phi4MM):
        def tensors(self):
            tensors = super().tensors()
            return {name: torch.zeros_like(tensor) if ".lora_B.vision." in name else tensor for name, tensor in tensors.items()}

    lost = with_exact_products(Lost()).save(tmp_path / "lost-source")
    visq("quantize", lost, "-f", "fp8_pc_pt", "-o", tmp_path / "lost")
    result = visq("check", tmp_path / "lost", "--source", model, "--json", check=False)
    broken = {rule["id"] for rule in json.loads(result.stdout)["rules"] if rule["violations"]}
    assert broken == {"E1"}


@pytest.mark.parametrize("make", [lambda: toy.make_llava("llama", "clip"), toy.make_phi4])
def test_models_without_such_an_adapter_are_refused(visq, make, tmp_path):
    model = toy.save(tmp_path / "model", make(), "A")
    result = visq("quantize", model, FLAG, "-f", "w4a16", "-o", tmp_path / "out", check=False)
    assert result.returncode == 2 and not (tmp_path / "out").exists()
    assert "has no adapter for images" in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_unknown_architectures_are_refused(visq, models, tmp_path):
    model = models[0]
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "architectures": ["SomethingElse"]}))
    result = visq("quantize", model, FLAG, "-f", "w4a16", "-o", tmp_path / "out", check=False)
    assert result.returncode == 2 and "does not know this architecture" in result.stderr
