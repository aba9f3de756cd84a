"""Samples with videos, from quantization to answers."""
import json

import pytest

from test_families import toy


@pytest.fixture
def data(tmp_path):
    frames = [f"{index}.png" for index in range(4)]
    for index, name in enumerate(frames):
        toy.write_image(tmp_path / name, 200, 140, index)
    question = [{"type": "video", "frames": frames, "fps": 2}, {"type": "text", "text": "What happens?"}]
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": "A red square."}]
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"messages": messages}) + "\n")
    return path


def test_a_video_calibrates_is_scored_and_asked_about(visq, data, tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "WIDE", True)
    model = toy.save(tmp_path / "model", toy.make_qwen_vl("2.5"), "A")
    out = tmp_path / "out"
    visq("quantize", model, "-f", "fp8", "--calib", data, "-o", out)
    report = json.loads((out / "visq_report.json").read_text())
    assert report["calibration"]["image_tokens"] == 2 * 5 * 7  # two steps in time of 140 x 196 pixels
    rows = visq.json("eval", out, "--against", model, "--data", data, "--max-new-tokens", 4)
    assert 0 < rows[1]["mean_kl"] < 0.5
    frames = [data.parent / f"{index}.png" for index in range(4)]
    ask = ["generate", model, "--max-new-tokens", 4]
    answers = {visq(*ask, "--video-frames", *frames, "--fps", fps, "What happens?").stdout for fps in (2, 0.1)}
    assert len(answers) == 2  # the clock shows in the positions
    result = visq(*ask, "--video-frames", tmp_path / "missing.png", "What happens?", check=False)
    assert result.returncode == 2 and "missing.png: no such file" in result.stderr


def test_a_family_without_videos_refuses_them_in_one_line(visq, data, tmp_path):
    model = toy.save(tmp_path / "model", toy.make_llava("llama", "clip"), "A")
    result = visq("eval", model, "--data", data, check=False)
    assert result.returncode == 2
    assert "data.jsonl:1" in result.stderr and "'llava' reads no videos" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
