"""solver_time.py VISQ: seconds of calibration and of solving by the number of calibration tokens, as the table of docs/solvers.md.

A random model and samples with images (make_inputs.py); `visq calibrate` once for each number, then `visq quantize --stats`. Needs the
packages of tests/requirements.txt (.venv-test/bin/python)."""
import pathlib
import subprocess
import sys
import tempfile

from demo_quality import run

FORMATS = ["int4_awq", "nvfp4_awq_gptq", "int8_sq"]
SAMPLES = [10, 40, 160]  # of about 800 tokens


def make(*arguments):
    script = pathlib.Path(__file__).with_name("make_inputs.py")
    subprocess.run([sys.executable, "-W", "ignore", script, *map(str, arguments)], check=True, stderr=subprocess.DEVNULL)


def main():
    visq = sys.argv[1]
    print("| tokens | calibration | " + " | ".join(f"`{format}`" for format in FORMATS) + " |\n|---|---|" + "---|" * len(FORMATS))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        model = folder / "model"
        make("checkpoint", "llava-small", model)
        make("samples", folder / "samples", "--count", max(SAMPLES))
        for samples in SAMPLES:
            stats = folder / f"stats-{samples}"
            calibration = run(visq, "calibrate", model, "--calib", folder / "samples" / "samples.jsonl", "--samples", samples, "-o", stats)
            solved = run(visq, "quantize", model, "--stats", stats, "-f", ",".join(FORMATS), "-o", folder / "out", "--force")
            seconds = {entry["format"]: entry["seconds"] for entry in solved["formats"]}
            print(f"| {calibration['text_tokens'] + calibration['image_tokens']} | {calibration['seconds']:.1f} s | "
                  + " | ".join(f"{seconds[format]:.1f} s" for format in FORMATS) + " |", flush=True)


main()
