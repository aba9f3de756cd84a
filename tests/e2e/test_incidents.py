"""visq check names what published checkpoints failed at: incident_cases.py breaks sound ones in the same way."""
import json
import re
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
sys.path.insert(0, str(Path(__file__).parents[2] / "demo" / "make"))
import compat  # noqa: E402,F401  (makes torchvision importable; before transformers)
import forward_models as toy  # noqa: E402

from incident_cases import CASES, Checkpoint  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
NONE = ("--kv-cache", "none")
# Model, then quantized so: name of the base, and what visq quantize is told.
BASES = {
    "llava": ((toy.make_llava, "llama", "clip"), {
        "llava-nvfp4": ("nvfp4", *NONE), "llava-ct-fp8": ("fp8_pc_pt", "--layout", "compressed-tensors", *NONE),
        "llava-ct-fp8-kv": ("fp8_pc_pt", "--layout", "compressed-tensors", "--kv-cache", "fp8"),
        "llava-w4a16": ("w4a16", *NONE), "llava-w4a16-asym": ("w4a16_asym", *NONE),
        "llava-w4a16-nvfp4-ct": ("w4a16_nvfp4", "--layout", "compressed-tensors", *NONE),
        "llava-mixed": ("mixed.yaml", *NONE), "llava-gptq": ("w4a16", "--layout", "gptq", *NONE),
        "llava-int8-modelopt": ("int8_sq", "--layout", "modelopt", *NONE)}),
    "qwen": ((toy.make_qwen_vl, "2.5"), {
        "qwen-fp8": ("fp8", *NONE), "qwen-ct-fp8": ("fp8_pc_pt", "--layout", "compressed-tensors", *NONE),
        "qwen-hf-fp8": ("fp8_pb_wo", "--layout", "hf-fp8", *NONE)}),
    "moe": ((toy.make_qwen3_vl, True), {
        "moe-nvfp4": ("nvfp4_max", *NONE), "moe-ct-fp8": ("fp8_pc_pt", "--layout", "compressed-tensors", *NONE)}),
    "gemma": ((toy.make_gemma3,), {"gemma-ct-fp8": ("fp8_pc_pt", "--layout", "compressed-tensors", *NONE)}),
    "internvl": ((toy.make_internvl, "layer"), {"internvl-ct-fp8": ("fp8_pc_pt", "--layout", "compressed-tensors", *NONE)}),
}  # fmt: skip
UNREAD = ("llava-int8-modelopt",)  # by any engine: its incident is that


@pytest.fixture(scope="module")
def bases(visq, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    data = folder / "data"
    data.mkdir()
    _, conversations = toy.write_samples(data)
    lines = [[*messages, {"role": "assistant", "content": "A red square."}] for messages in conversations]
    (data / "data.jsonl").write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in lines))
    (folder / "mixed.yaml").write_text('extends: nvfp4_max\nrules:\n  - sites: "*.self_attn.*"\n    scheme: fp8\n')
    made = {}
    wide, toy.WIDE = toy.WIDE, True
    try:
        for model, ((make, *arguments), outputs) in BASES.items():
            weights = toy.save(folder / model, make(*arguments), "A") / "model.safetensors"
            published = {name: value.bfloat16() for name, value in load_file(weights).items()}
            save_file(published, weights, {"format": "pt"})
            for name, (format, *options) in outputs.items():
                calibrated = "--kv-cache" in options and "fp8" in options or format in ("nvfp4", "nvfp4_max", "fp8", "int8_sq", "mixed.yaml")
                calibration = ("--calib", data / "data.jsonl", "--seq-len", 8192) if calibrated else ()
                made[name] = folder / name
                visq("quantize", folder / model, "-f", format, *options, *calibration, "-o", made[name], cwd=folder)
    finally:
        toy.WIDE = wide
    return made


@pytest.fixture(scope="module")
def checked(visq, bases, tmp_path_factory):
    """What visq check says of every case, from one run."""
    folder = tmp_path_factory.mktemp("incidents")
    directories = []
    for index, case in enumerate(CASES):
        checkpoint = Checkpoint(bases[case.base], folder / str(index))
        case.edit(checkpoint)
        checkpoint.write()
        directories.append(checkpoint.folder)
    results = run(visq, directories)
    # Engines that do not read the format, or have no class for the model, are not asked unless they are named.
    for engine in {case.engine for case in CASES if case.engine}:
        of_one = [index for index, case in enumerate(CASES) if case.engine == engine]
        asked = run(visq, [directories[index] for index in of_one], "--for", engine)
        for index, result in zip(of_one, asked if isinstance(asked, list) else [asked], strict=True):
            results[index] = result
    return dict(zip((case.incident for case in CASES), results, strict=True))


def run(visq, directories, *options):
    result = visq("check", *directories, *options, "--json", check=False)
    assert result.returncode == 1, result.stderr
    return json.loads(result.stdout)


def lines_of(result, severity):
    return [": ".join(filter(None, (found["engine"], found["what"], found["fix"])))
            for rule in result["rules"] for found in rule["findings"] if found["severity"] == severity]  # fmt: skip


def test_the_sound_ones_pass(visq, bases):
    for result in visq.json("check", *(path for name, path in bases.items() if name not in UNREAD)):
        assert result["passed"] and not lines_of(result, "error"), (result["checkpoint"], lines_of(result, "error"))


def test_incidents_have_names_of_their_own():
    assert len({case.incident for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.incident)
def test_the_check_names(checked, case):
    result = checked[case.incident]
    lines = lines_of(result, "warning" if case.warning else "error")
    assert any(all(part in line for part in case.says) for line in lines), "\n".join([case.what, *lines])
    assert case.warning or not result["passed"]
    assert all("\n" not in line for line in lines)


def test_text_has_one_line_a_finding(visq, bases, tmp_path):
    checkpoint = Checkpoint(bases["llava-nvfp4"], tmp_path / "broken")
    checkpoint.quantize_nvfp4("lm_head")
    checkpoint.write()
    result = visq("check", tmp_path / "broken", "--for", "vllm", check=False)
    assert result.returncode == 1
    (line,) = [line for line in result.stdout.splitlines() if "'language_model.lm_head' is quantized" in line]
    assert line.strip().startswith("vllm: ") and line.endswith("for an engine that reads it quantized")


def test_what_is_no_checkpoint_ends_with_2_and_the_others_are_checked(visq, bases, tmp_path):
    (tmp_path / "empty").mkdir()
    result = visq("check", tmp_path / "empty", tmp_path / "absent", bases["qwen-fp8"], "--json", check=False)
    assert result.returncode == 2 and len(result.stderr.strip().splitlines()) == 2
    empty, absent, sound = json.loads(result.stdout)
    assert "no config.json" in empty["error"] and "no such directory" in absent["error"] and sound["passed"]


def test_hostile_configurations_do_not_stop_the_check(visq, bases, tmp_path):
    """Any value of any key may be anything."""
    directories = []
    for base in ("llava-mixed", "llava-w4a16", "moe-nvfp4", "qwen-hf-fp8"):
        sound = Checkpoint(bases[base], tmp_path / base)
        paths = [(part, key) for part in ("", "quantization_config", "text_config", "vision_config")
                 for key in (sound.config if part == "" else sound.config.get(part, {}))]  # fmt: skip
        for index, (part, key) in enumerate(paths):
            folder = tmp_path / f"{base}-{index}"
            folder.mkdir()
            for path in bases[base].iterdir():
                if path.name != "config.json":
                    (folder / path.name).hardlink_to(path)
            config = json.loads((bases[base] / "config.json").read_text())
            (config if part == "" else config[part])[key] = (None, [], {"x": [{}]}, -(2**40), "\u001b[2J", [["re:("], 7])[index % 6]
            (folder / "config.json").write_text(json.dumps(config))
            directories.append(folder)
    result = visq("check", *directories, "--json", check=False)
    assert result.returncode == 1 and result.stderr == ""
    found = json.loads(result.stdout)
    assert len(found) == len(directories) > 100 and not any("error" in entry for entry in found)


@pytest.mark.parametrize("base", ["llava-nvfp4", "llava-ct-fp8-kv", "llava-w4a16-asym", "llava-mixed", "llava-gptq", "qwen-hf-fp8", "moe-nvfp4"])
def test_what_a_lost_file_held_is_not_called_missing(visq, bases, tmp_path, base):
    """A shard is cut off, the only file, or the index: that is the one finding, with the source beside it or without."""
    directories = []

    def damaged(name, file, shards=None):
        checkpoint = Checkpoint(bases[base], tmp_path / name)
        checkpoint.shards = shards or {}
        checkpoint.write()
        path = tmp_path / name / file
        path.write_bytes(path.read_bytes()[:-20])
        directories.append(tmp_path / name)

    names = sorted(Checkpoint(bases[base], tmp_path / "names").tensors)
    neighbours = {f"model-{i}.safetensors": names[i * len(names) // 6 : (i + 1) * len(names) // 6] for i in range(6)}
    scattered = {f"model-{i}.safetensors": names[i::7] for i in range(7)}
    for kind, shards in {"neighbours": neighbours, "scattered": scattered}.items():
        for file in shards:
            damaged(f"{kind}-{file}", file, shards)
    damaged("single", "model.safetensors")
    damaged("index", "model.safetensors.index.json", neighbours)
    model = next(model for model, (_, outputs) in BASES.items() if base in outputs)
    for options in [(), ("--source", bases[base].parent / model)]:
        for result in run(visq, directories, *options):
            found = {(rule["id"], line) for rule in result["rules"] for line in rule["violations"]}
            assert {rule for rule, _ in found} <= {"A5", "A7"} and "A7" in {rule for rule, _ in found}, (result["checkpoint"], found)


@pytest.mark.parametrize("damage", ["header", "length", "dtype", "empty", "shape"])
def test_hostile_weights_do_not_stop_the_check(visq, bases, tmp_path, damage):
    Checkpoint(bases["llava-nvfp4"], tmp_path / "broken").write()
    path = tmp_path / "broken" / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length]
    path.write_bytes({
        "header": data[:8] + b"[" + data[9:],
        "length": (2**62).to_bytes(8, "little") + data[8:],
        "dtype": data[:8] + header.replace(b'"F8_E4M3"', b'"F9_E9M9"') + data[8 + length :],
        "empty": b"",
        "shape": data[:8] + header.replace(b"[128,64]", b"[64,128]") + data[8 + length :],
    }[damage])  # fmt: skip
    result = visq("check", tmp_path / "broken", "--json", check=False)
    assert result.returncode == 1 and result.stderr == "" and not json.loads(result.stdout)["passed"]


def test_documentation_lists_every_case_and_every_rule(visq, bases):
    text = (ROOT / "docs" / "check.md").read_text()
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.+?) \|$", text, re.MULTILINE))
    for case in CASES:
        assert rows.get(case.incident) == case.what, f"docs/check.md lacks: | `{case.incident}` | {case.what} |"
    rules = {rule["id"] for rule in visq.json("check", bases["qwen-fp8"])["rules"]}
    for rule in rules:
        assert f"| **{rule}** |" in text, rule
    assert rows.keys() - rules == {case.incident for case in CASES}
