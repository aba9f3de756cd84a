"""Bad input: one clear line that names the file and the tensor or option, exit code 2, nothing at the output path."""
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import time

import pytest


@pytest.fixture
def model(demo, tmp_path):
    shutil.copytree(demo / "model", tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def refuses(visq, demo, tmp_path):
    def run(model, *expected, calib=demo / "calibration.jsonl", format="fp8", arguments=(), out=tmp_path / "out"):
        result = visq("quantize", model, "--format", format, "--calib", calib, "--out", out, *arguments, check=False)
        assert result.returncode == 2, result.stdout + result.stderr
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
        for text in expected:
            assert text in lines[0], lines[0]
        assert not (tmp_path / "out").exists()
        assert not list(tmp_path.glob("*.partial"))

    return run


WEIGHTS = "model.safetensors"


def header_of(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write(path, header, body):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


NAME = "language_model.model.layers.0.self_attn.q_proj.weight"


def test_no_such_directory(refuses, tmp_path):
    refuses(tmp_path / "nowhere", "nowhere")


def test_missing_shard(refuses, model):
    (model / WEIGHTS).unlink()
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {NAME: "model-00001-of-00002.safetensors"}}))
    refuses(model, "model-00001-of-00002.safetensors")


def test_index_that_leaves_the_directory(refuses, model):
    (model / WEIGHTS).unlink()
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {NAME: "../../etc/passwd"}}))
    refuses(model, "../../etc/passwd")


def test_truncated_file(refuses, model):
    data = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(data[:-1000])
    refuses(model, WEIGHTS, "tensor", "incomplete")


def test_header_longer_than_the_file(refuses, model):
    data = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(struct.pack("<Q", 1 << 40) + data[8:])
    refuses(model, WEIGHTS, "header")


def test_overlapping_tensors(refuses, model):
    header, body = header_of(model / WEIGHTS)
    names = [name for name in header if name != "__metadata__"]
    first, second = sorted(names, key=lambda name: header[name]["data_offsets"][0])[:2]
    size = header[second]["data_offsets"][1] - header[second]["data_offsets"][0]
    begin = header[first]["data_offsets"][0]
    header[second]["data_offsets"] = [begin, begin + size]
    write(model / WEIGHTS, header, body)
    refuses(model, WEIGHTS)


def test_offsets_outside_the_file(refuses, model):
    header, body = header_of(model / WEIGHTS)
    last = max((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"][1])
    header[last]["data_offsets"][1] = 1 << 50
    write(model / WEIGHTS, header, body)
    refuses(model, WEIGHTS, last)


def test_shape_that_contradicts_the_config(refuses, model):
    config = json.loads((model / "config.json").read_text())
    config["text_config"]["intermediate_size"] *= 2
    (model / "config.json").write_text(json.dumps(config))
    refuses(model, "config.json", "mlp")


def test_nan_in_a_weight(refuses, model):
    header, body = header_of(model / WEIGHTS)
    begin = header[NAME]["data_offsets"][0]
    write(model / WEIGHTS, header, body[:begin] + b"\xc0\x7f" + body[begin + 2 :])
    refuses(model, WEIGHTS, NAME, "NaN")


def test_unknown_architecture(refuses, model):
    config = json.loads((model / "config.json").read_text())
    config["architectures"] = ["GrapefruitForCausalLM"]
    (model / "config.json").write_text(json.dumps(config))
    refuses(model, "GrapefruitForCausalLM", "LlavaForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration")


def test_unknown_preset(refuses, model):
    refuses(model, "int3", "int4_awq", format="int3")


def test_width_not_divisible_by_the_block(refuses, model):
    header, body = header_of(model / WEIGHTS)
    config = json.loads((model / "config.json").read_text())
    width = config["text_config"]["intermediate_size"] - 64
    offset, blocks, new = 0, [], {}
    for name, info in sorted(((n, i) for n, i in header.items() if n != "__metadata__"), key=lambda e: e[1]["data_offsets"][0]):
        begin, end = info["data_offsets"]
        data, shape = body[begin:end], info["shape"]
        if ".mlp." in name and name.startswith("language_model"):
            if "down_proj" in name:
                row = shape[1] * 2
                data = b"".join(data[r * row : r * row + width * 2] for r in range(shape[0]))
                shape = [shape[0], width]
            else:
                data, shape = data[: width * shape[1] * 2], [width, shape[1]]
        new[name] = {"dtype": info["dtype"], "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        blocks.append(data)
    write(model / WEIGHTS, new, b"".join(blocks))
    config["text_config"]["intermediate_size"] = width
    (model / "config.json").write_text(json.dumps(config))
    refuses(model, "down_proj.weight", str(width), "128", format="int4_awq")


def sample(tmp_path, **changes):
    line = {"messages": [{"role": "user", "content": [{"type": "image", "image": "picture.png"}, {"type": "text", "text": "What?"}]},
                         {"role": "assistant", "content": "A thing."}]}
    line.update(changes)
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(line) + "\n")
    return path


def test_image_that_does_not_decode(refuses, model, tmp_path):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n nonsense")
    refuses(model, "picture.png", calib=sample(tmp_path))


def test_missing_image(refuses, model, tmp_path):
    refuses(model, "picture.png", "data.jsonl:1", calib=sample(tmp_path))


def test_image_outside_the_folder(refuses, model, tmp_path):
    path = sample(tmp_path, messages=[{"role": "user", "content": [{"type": "image", "image": "../../etc/passwd"}]}])
    refuses(model, "data.jsonl:1", "../../etc/passwd", calib=path)


def test_sample_without_messages(refuses, model, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "hello"}\n')
    refuses(model, "data.jsonl:1", "messages", calib=path)


def test_calibration_without_images(refuses, model, tmp_path):
    path = sample(tmp_path, messages=[{"role": "user", "content": "Hello?"}])
    refuses(model, "no image token", "--text-only", calib=path)


def test_recipe_that_matches_nothing(refuses, model):
    refuses(model, "matches no linear", "*decoder.block*", arguments=["--only", "*decoder.block*"])


def test_recipe_that_splits_a_fused_group(refuses, model):
    refuses(model, "attn_in", "layer 0", arguments=["--skip", "*layers.0.self_attn.q_proj"])


def test_quantized_checkpoint_as_source(refuses, quantized):
    refuses(quantized / "fp8", "quantized already")


def test_missing_calibration(visq, model, tmp_path):
    result = visq("quantize", model, "--format", "fp8", "--out", tmp_path / "out", check=False)
    assert result.returncode == 2 and "--calib" in result.stderr


def test_output_that_exists(visq, demo, model, tmp_path):
    out = tmp_path / "exists"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    command = ("quantize", model, "--format", "fp8", "--calib", demo / "calibration.jsonl", "--out", out)
    result = visq(*command, check=False)
    assert result.returncode == 2 and str(out) in result.stderr and "--force" in result.stderr
    assert (out / "precious.txt").read_text() == "mine"
    result = visq(*command, "--force", check=False)  # no checkpoint: not visq's to delete
    assert result.returncode == 2 and (out / "precious.txt").exists()
    (out / "config.json").write_text("{}")
    visq(*command, "--force")
    assert (out / "model.safetensors").exists() and not (out / "precious.txt").exists()


def test_output_disk_that_is_full(visq, demo, model, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        result = visq("quantize", model, "--format", "fp8", "--calib", demo / "calibration.jsonl", "--out", disk / "out", check=False)
        assert result.returncode == 2 and "full" in result.stderr and len(result.stderr.strip().splitlines()) == 1
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", disk], check=True)


def test_unknown_flag(visq):
    result = visq("quantize", "--fromat", "fp8", check=False)
    (line,) = result.stderr.splitlines()
    assert result.returncode == 2 and line.startswith("error: --fromat: no such option")


def test_unknown_command(visq):
    result = visq("chekc", "model", check=False)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: chekc: no such command; choose one of ") and " check," in line


def test_unknown_layout(refuses, model):
    refuses(model, "--layout nonsense", "choose auto or one of ", "modelopt", "gguf", "tensorrt-llm", arguments=["--layout", "nonsense"])


def test_interrupt_leaves_nothing(visq, demo, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen([visq.path, "quantize", demo / "model", "--format", "fp8,nvfp4,int4_awq", "--calib",
                                demo / "calibration.jsonl", "--out", out], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(out.glob("*.partial")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert not list(out.glob("*")) if out.exists() else True


def test_damaged_output_fails_the_check(visq, demo, quantized, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(quantized / "nvfp4", broken)
    header, body = header_of(broken / WEIGHTS)
    name = NAME + "_scale"
    begin, end = header[name]["data_offsets"]
    write(broken / WEIGHTS, header, body[:begin] + b"\x7f" * (end - begin) + body[end:])
    result = visq("check", broken, "--source", demo / "model", check=False)
    assert result.returncode == 1 and "C4" in result.stdout and "FAIL" in result.stdout
    both = visq("check", quantized / "fp8", broken, "--json", check=False)
    found = [(result["checkpoint"], result["passed"]) for result in json.loads(both.stdout)]
    assert both.returncode == 1 and found == [(str(quantized / "fp8"), True), (str(broken), False)]
