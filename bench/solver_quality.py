"""solver_quality.py VISQ: what each solver is worth on the demo model, as the table of docs/solvers.md.

Three calibrations, each with its own half of the calibration samples; KL divergence from the original on the held-out
questions, mean and standard deviation over the three."""
import pathlib
import statistics
import sys
import tempfile

from demo_quality import SEEDS, calibration, evaluate, quantize

FORMATS = ["w4a16", "int4_awq", "int4_awq_full", "int4_gptq", "int4_awq_gptq", "nvfp4", "nvfp4_mse", "nvfp4_local_hessian",
           "nvfp4_four_over_six", "nvfp4_gptq", "nvfp4_awq", "nvfp4_awq_gptq"]


def measure(visq, seed):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        quantize(visq, FORMATS, calibration(seed, folder), folder / "out")
        rows = evaluate(visq, [folder / "out" / name for name in FORMATS])
    return {row["format"]: row for row in rows}


def main():
    results = [measure(sys.argv[1], seed) for seed in range(SEEDS)]
    print("| format | mean KL | spread | accuracy |\n|---|---|---|---|")
    for name in FORMATS:
        kl = [result[name]["mean_kl"] for result in results]
        accuracy = statistics.mean(result[name]["accuracy"] for result in results)
        print(f"| `{name}` | {statistics.mean(kl):.2e} | {statistics.stdev(kl):.1e} | {100 * accuracy:.1f} % |")


main()
