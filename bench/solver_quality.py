"""solver_quality.py VISQ: what each solver is worth on the demo model, as the tables of docs/solvers.md.

Three calibrations, each with its own half of the calibration samples; KL divergence from the original on the held-out
questions, mean and standard deviation over the three. A second table takes formats that quantize inputs once more with inputs as they
are: what is left is the weights' part of the divergence. Errors of both are small and independent, so that the rest is the inputs'."""
import pathlib
import statistics
import sys
import tempfile

from demo_quality import SEEDS, calibration, evaluate, mean_and_spread, quantize

FORMATS = ["w4a16", "int4_awq", "int4_awq_lite", "int4_awq_full", "int4_gptq", "nvfp4", "nvfp4_max", "nvfp4_mse", "nvfp4_local_hessian",
           "nvfp4_four_over_six", "nvfp4_gptq", "nvfp4_awq_gptq", "nvfp4_svdquant", "int8", "int8_sq"]
WITH_INPUTS = ["nvfp4_max", "nvfp4", "nvfp4_gptq", "nvfp4_awq_gptq", "int8", "int8_sq"]


def weights_of(format):
    return f"{format}_weights"


def measure(visq, seed):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        recipes = [folder / f"{weights_of(format)}.yaml" for format in WITH_INPUTS]
        for format, recipe in zip(WITH_INPUTS, recipes):
            recipe.write_text(f"rules:\n  - scheme: {format}\n    input: none\n")
        quantize(visq, [*FORMATS, *map(str, recipes)], calibration(seed, folder), folder / "out")
        names = [*FORMATS, *map(weights_of, WITH_INPUTS)]
        return dict(zip(names, evaluate(visq, [folder / "out" / name for name in names])))


def main():
    results = [measure(sys.argv[1], seed) for seed in range(SEEDS)]

    def values(name, key="mean_kl"):
        return [result[name][key] for result in results]

    print("| format | mean KL | accuracy |\n|---|---|---|")
    for name in FORMATS:
        print(f"| `{name}` | {mean_and_spread(values(name))} | {100 * statistics.mean(values(name, 'accuracy')):.1f} % |")
    print("\n| format | mean KL | of the weights | of the inputs |\n|---|---|---|---|")
    for name in WITH_INPUTS:
        whole, weights = statistics.mean(values(name)), statistics.mean(values(weights_of(name)))
        print(f"| `{name}` | {whole:.2e} | {weights:.2e} ({100 * weights / whole:.0f} %) | {whole - weights:.2e} |")


main()
