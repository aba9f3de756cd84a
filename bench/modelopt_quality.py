"""modelopt_quality.py VISQ [PRESET=FORMAT ...] [--work FOLDER]: presets of visq against ModelOpt's of the same name.

Both quantize the demo model with the same calibration samples; `visq eval` reads both exports, once `visq inspect` has found the
same linears with the same number formats in them. KL divergence from the original on the held-out questions, over three
calibrations, each with its own half of the samples. Needs the packages of tests/requirements.txt (.venv-test/bin/python).

PRESET=FORMAT measures another format or a recipe (FORMAT.yaml) against ModelOpt's PRESET, in place of the presets; several may
stand against one. --work keeps ModelOpt's exports, which take most of the time, for the next run.
"""
import argparse
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

from demo_quality import DEMO, SEEDS, calibration, evaluate, mean_and_spread, quantize, run

PRESETS = ["w4a16_nvfp4", "int4_awq", "nvfp4", "int8_sq", "w4a8_awq", "fp8"]


def modelopt_export(preset, samples, folder):
    if folder.exists():
        return folder
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    subprocess.run([sys.executable, "-W", "ignore", pathlib.Path(__file__).with_name("modelopt_ptq.py"), DEMO / "model", samples,
                    preset, partial], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(DEMO / "model" / name, partial)
    return partial.rename(folder)


def number_formats(visq, directory):
    found = run(visq, "inspect", directory)["quantization"]
    return found["linears"], found["schemes"], found["kv_cache"]


def measure(visq, pairs, seed, work):
    """Of each pair: KL of ModelOpt's and of visq's."""
    samples = calibration(seed, work)
    theirs = {preset: modelopt_export(preset, samples, work / preset) for preset in {preset for preset, _ in pairs}}
    formats = list(dict.fromkeys(format for _, format in pairs))
    ours = {format: work / "visq" / pathlib.Path(format).stem for format in formats}
    if len(formats) == 1:
        ours = {format: work / "visq" for format in formats}
    quantize(visq, formats, samples, work / "visq")
    for preset, format in pairs:
        stored = number_formats(visq, theirs[preset]), number_formats(visq, ours[format])
        assert stored[0] == stored[1], f"{format} is not stored as ModelOpt's {preset}: {stored}"
    directories = [*theirs.values(), *ours.values()]
    kl = {directory: row["mean_kl"] for directory, row in zip(directories, evaluate(visq, directories))}
    return {pair: (kl[theirs[pair[0]]], kl[ours[pair[1]]]) for pair in pairs}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("visq")
    parser.add_argument("pairs", nargs="*", metavar="PRESET=FORMAT")
    parser.add_argument("--work", type=pathlib.Path)
    arguments = parser.parse_intermixed_args()
    pairs = [tuple(pair.split("=", 1)) for pair in arguments.pairs] or [(preset, preset) for preset in PRESETS]
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or pathlib.Path(temporary)
        results = [measure(arguments.visq, pairs, seed, work / str(seed)) for seed in range(SEEDS)]
    print("| ModelOpt's preset | visq's format | KL of ModelOpt | KL of visq | ratio of the means |\n|---|---|---|---|---|")
    for pair in pairs:
        theirs, ours = zip(*(result[pair] for result in results))
        print(f"| `{pair[0]}` | `{pathlib.Path(pair[1]).stem}` | {mean_and_spread(theirs)} | {mean_and_spread(ours)} | "
              f"{statistics.mean(ours) / statistics.mean(theirs):.2f} |")


main()
