"""What the benchmarks of quality share: calibrations of the demo model and KL divergence on its held-out questions."""
import json
import pathlib
import random
import shutil
import statistics
import subprocess

DEMO = pathlib.Path(__file__).resolve().parents[1] / "demo"
SEEDS = 3


def run(visq, *arguments):
    done = subprocess.run([visq, *map(str, arguments), "--json"], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def calibration(seed, folder):
    """A seed's half of the calibration samples, as a file in `folder` beside their images."""
    lines = (DEMO / "calibration.jsonl").read_text().splitlines()
    random.Random(seed).shuffle(lines)
    shutil.copytree(DEMO / "images", folder / "images", dirs_exist_ok=True)
    file = folder / "calibration.jsonl"
    file.write_text("\n".join(lines[: len(lines) // 2]) + "\n")
    return file


def quantize(visq, formats, samples, out):
    """@param formats  at least two, so that each has a directory in `out` of its name"""
    run(visq, "quantize", DEMO / "model", "-f", ",".join(formats), "--calib", samples, "--kv-cache", "none", "-o", out, "--force")


def evaluate(visq, directories):
    """Rows of `visq eval` against the original, in the order of `directories`."""
    return run(visq, "eval", *directories, "--against", DEMO / "model", "--data", DEMO / "questions.jsonl")[1:]


def mean_and_spread(values):
    return f"{statistics.mean(values):.2e} ± {statistics.stdev(values):.1e}"
