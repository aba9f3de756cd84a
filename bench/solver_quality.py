"""solver_quality.py VISQ: what each solver is worth on the demo model, as the table of docs/solvers.md.

Three calibrations, each with its own half of the calibration samples; KL divergence from the original on the held-out
questions, mean and standard deviation over the three."""
import json
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile

DEMO = pathlib.Path(__file__).resolve().parents[1] / "demo"
FORMATS = ["w4a16", "int4_awq", "int4_awq_full", "int4_gptq", "int4_awq_gptq", "nvfp4", "nvfp4_mse", "nvfp4_local_hessian",
           "nvfp4_four_over_six", "nvfp4_gptq", "nvfp4_awq", "nvfp4_awq_gptq",
           "nvfp4_svdquant"]
SEEDS = 3


def run(visq, *arguments):
    done = subprocess.run([visq, *map(str, arguments), "--json"], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def measure(visq, seed, folder):
    lines = (DEMO / "calibration.jsonl").read_text().splitlines()
    random.Random(seed).shuffle(lines)
    shutil.copytree(DEMO / "images", folder / "images")
    (folder / "calibration.jsonl").write_text("\n".join(lines[: len(lines) // 2]) + "\n")
    run(visq, "quantize", DEMO / "model", "-f", ",".join(FORMATS), "--calib", folder / "calibration.jsonl", "--kv-cache", "none",
        "-o", folder / "out")
    rows = run(visq, "eval", *(folder / "out" / name for name in FORMATS), "--against", DEMO / "model", "--data",
               DEMO / "questions.jsonl")
    return {row["format"]: row for row in rows if "mean_kl" in row}


def main():
    results = []
    for seed in range(SEEDS):
        folder = pathlib.Path(tempfile.mkdtemp())
        results.append(measure(sys.argv[1], seed, folder))
        shutil.rmtree(folder)
    print("| format | mean KL | spread | accuracy |\n|---|---|---|---|")
    for name in FORMATS:
        kl = [result[name]["mean_kl"] for result in results]
        accuracy = statistics.mean(result[name]["accuracy"] for result in results)
        print(f"| `{name}` | {statistics.mean(kl):.2e} | {statistics.stdev(kl):.1e} | {100 * accuracy:.1f} % |")


main()
