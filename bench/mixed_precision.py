"""mixed_precision.py VISQ: mixes against uniform formats on the demo model, as the tables of docs/mixed-precision.md.

Calibrated with 64 samples, 32 of them scored; KL divergence from the original on the held-out questions."""
import json
import pathlib
import subprocess
import sys
import tempfile

DEMO = pathlib.Path(__file__).resolve().parents[1] / "demo"
MODEL = DEMO / "model"
DATA = ["--calib", DEMO / "calibration.jsonl", "--samples", 64, "--kv-cache", "none"]
UNIFORM = ["int4_awq", "nvfp4", "nvfp4_max", "mxfp6", "mxfp8", "mxint8", "int8_wo", "int8_sq", "fp8_pc_pt", "fp8"]
MIXES = {"int4_awq,nvfp4,fp8": [4.5, 5, 6], "nvfp4,fp8": [5, 6], "nvfp4_max,fp8": [5, 6, 7]}


def run(visq, *arguments):
    done = subprocess.run([visq, *map(str, arguments), "--json"], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def measure(visq, folder):
    run(visq, "quantize", MODEL, "-f", ",".join(UNIFORM), *DATA, "-o", folder / "uniform")
    rows, checkpoints, uniform = [], [], {}
    for formats, budgets in MIXES.items():
        for score in ("fisher", "kl") if formats == "nvfp4,fp8" else ("fisher",):
            scores = ["--score", score, "--save-scores", folder / f"{formats}-{score}.json"]
            for bits in budgets:
                out = folder / f"{formats}-{score}-{bits}"
                mixed = run(visq, "quantize", MODEL, "-f", formats, "--bits", bits, *scores, *DATA, "-o", out)["mixed_precision"]
                scores = ["--scores", folder / f"{formats}-{score}.json"]
                rows.append([f"`{formats}`", f"{bits}", score, f"{mixed['bits']:.2f}", f"{mixed['predicted_kl']:.1e}"])
                checkpoints.append(out)
                if score == "fisher":
                    uniform |= {entry["format"]: [f"{entry['bits']:.2f}", f"{entry['predicted_kl']:.1e}"] for entry in mixed["uniform"]}
    for name in UNIFORM:
        rows.append([f"all `{name}`", "", "", *uniform.get(name, ["", ""])])
        checkpoints.append(folder / "uniform" / name)
    measured = run(visq, "eval", *checkpoints, "--against", MODEL, "--data", DEMO / "questions.jsonl")[1:]
    print("| formats | `--bits` | score | bits | predicted KL | measured KL |\n|---|---|---|---|---|---|")
    for row, result in zip(rows, measured):
        print(f"| {' | '.join(row)} | {result['mean_kl']:.1e} |")


with tempfile.TemporaryDirectory() as temporary:
    measure(sys.argv[1], pathlib.Path(temporary))
