"""scripts/huggingface_example.sh as people call it who know the script of the same name."""
import os
import pty
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "huggingface_example.sh"


@pytest.fixture
def run(visq, tmp_path):
    def call(*arguments, check=True, env=None):
        result = subprocess.run([SCRIPT, *map(str, arguments), "--output", tmp_path], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                                env={**os.environ, "VISQ": visq.path, **(env or {})})  # fmt: skip
        assert not check or result.returncode == 0, result.stderr
        return result

    return call


def test_one_command_quantizes_checks_compares_and_says_how_to_serve(run, demo, tmp_path):
    result = run("--model", demo / "model", "--quant=fp8", "--calib_dataset", demo / "calibration.jsonl", "--calib", 32, "--tasks",
                 "build,eval", "--eval_data", demo / "questions.jsonl", "--tp", 2, "--trust_remote_code", "--type", "llava")  # fmt: skip
    out = tmp_path / "saved_models_model_fp8"
    assert "\npassed\n" in result.stdout and "mean KL" in result.stdout
    assert f"\nvLLM: vllm serve {out} --tensor-parallel-size 2 --pipeline-parallel-size 1\n" in result.stdout
    assert "32 samples" in result.stdout
    assert "--trust_remote_code: not needed, ignored" in result.stderr and "--type: not needed, ignored" in result.stderr


def test_checkpoints_of_tensorrt_llm_are_checked_and_compared_too(run, demo, tmp_path):
    few = tmp_path / "few.jsonl"
    few.write_text("".join((demo / "questions.jsonl").read_text().splitlines(keepends=True)[:4]))
    shutil.copytree(demo / "images", tmp_path / "images")
    result = run("--model", demo / "model", "--quant", "int8_sq", "--calib_dataset", demo / "calibration.jsonl", "--calib", 16,
                 "--export_fmt", "tensorrt_llm", "--tp", 2, "--tasks", "build,eval", "--eval_data", few)  # fmt: skip
    out = tmp_path / "saved_models_model_int8_sq_tp2_pp1"
    assert {path.name for path in out.iterdir()} >= {"config.json", "rank0.safetensors", "rank1.safetensors"}
    assert "A9  ok" in result.stdout and "\npassed\n" in result.stdout and "mean KL" in result.stdout
    assert f"trtllm-build --checkpoint_dir {out} --output_dir {out}_engine --workers 2" in result.stdout


def test_models_of_the_cache_are_found_by_name(run, demo, tmp_path):
    cache = tmp_path / "hub" / "models--org--tiny"
    (cache / "snapshots").mkdir(parents=True)
    (cache / "snapshots" / "abc").symlink_to(demo / "model")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    run("--model", "org/tiny", "--quant", "int8_wo", env={"HF_HUB_CACHE": str(tmp_path / "hub")})
    assert (tmp_path / "saved_models_tiny_int8_wo" / "config.json").exists()


@pytest.mark.parametrize("arguments, message", [
    (["--quant", "fp8"], "error: --model is missing"),
    (["--model", "org/absent", "--quant", "fp8"], "error: org/absent is not in "),
    (["--model", "no such/place/at", "--quant", "fp8"], "neither a directory nor ORG/NAME"),
    (["--model", "DEMO", "--quant", "fp9"], "fp9"),
    (["--model", "DEMO", "--quant", "fp8", "--tp", "two"], "error: --tp two: not a number of GPUs"),
    (["--model", "DEMO", "--quant", "fp8", "--tasks", "build,mmlu"], "error: --tasks mmlu: choose of build, eval"),
    (["--model", "DEMO", "--quant", "fp8", "--sparsity", "dense"], "error: --sparsity: no such option"),
    (["--model", "DEMO", "--quant", "int8_wo", "--export_fmt", "onnx"], "error: --export_fmt onnx: choose hf or tensorrt_llm"),
    (["--model", "DEMO", "--quant", "int8_sq", "--for", "tensorrt-llm"], "tensorrt-llm reads it from no layout"),
])  # fmt: skip
def test_what_does_not_work_is_said_in_one_line(run, demo, tmp_path, arguments, message):
    arguments = [demo / "model" if argument == "DEMO" else argument for argument in arguments]
    result = run(*arguments, check=False, env={"HF_HUB_CACHE": str(tmp_path / "hub"), "PATH": "/usr/bin:/bin"})
    assert result.returncode == 2 and message in result.stderr, result.stderr
    assert not list(tmp_path.glob("saved_models_*"))


def test_parallelism_is_asked_for_on_a_terminal_alone(visq, demo, tmp_path):
    terminal, side = pty.openpty()
    process = subprocess.Popen([SCRIPT, "--model", demo / "model", "--quant", "int8_wo", "--output", tmp_path], stdin=side, stderr=side,
                               stdout=subprocess.PIPE, text=True, env={**os.environ, "VISQ": visq.path})  # fmt: skip
    os.write(terminal, b"4\n\n")
    stdout, _ = process.communicate(timeout=120)
    asked = os.read(terminal, 4096).decode()
    assert process.returncode == 0 and "--tp (GPUs) [1]: " in asked and "--pp (GPUs) [1]: " in asked
    assert "--tensor-parallel-size 4 --pipeline-parallel-size 1" in stdout
