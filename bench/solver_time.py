"""solver_time.py VISQ: what calibration and solving cost by the number of calibration tokens, as the table of docs/solvers.md.

A random model and samples with images (make_inputs.py); `visq calibrate` once for each number, then `visq quantize --stats`, in CPU
seconds of the whole process on one thread, which do not depend on what else the machine does. Needs the packages of
tests/requirements.txt (.venv-test/bin/python)."""
import pathlib
import resource
import subprocess
import sys
import tempfile

from demo_quality import run

FORMATS = ["int4_awq", "nvfp4", "int8_sq"]
SAMPLES = [12, 48, 192]  # of about 670 tokens


def make(*arguments):
    script = pathlib.Path(__file__).with_name("make_inputs.py")
    subprocess.run([sys.executable, "-W", "ignore", script, *map(str, arguments)], check=True, stderr=subprocess.DEVNULL)


def cpu_seconds(*arguments):
    """What `visq` says, and what it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = run(*arguments, "--threads", 1)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return output, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    visq = sys.argv[1]
    print("| tokens | calibration | " + " | ".join(f"`{format}`" for format in FORMATS) + " |\n|---|---|" + "---|" * len(FORMATS), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        make("checkpoint", "llava-small", folder / "model")
        make("samples", folder / "samples", "--count", max(SAMPLES))
        for samples in SAMPLES:
            stats = folder / f"stats-{samples}"
            found, seconds = cpu_seconds(visq, "calibrate", folder / "model", "--calib", folder / "samples" / "samples.jsonl", "--samples",
                                         samples, "-o", stats)
            solving = [cpu_seconds(visq, "quantize", folder / "model", "--stats", stats, "-f", format, "-o", folder / "out", "--force")[1]
                       for format in FORMATS]
            cells = [f"{found['text_tokens'] + found['image_tokens']}", *(f"{value:.1f} s" for value in (seconds, *solving))]
            print("| " + " | ".join(cells) + " |", flush=True)


main()
