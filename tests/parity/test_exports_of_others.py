"""What ModelOpt, llm-compressor and gptqmodel write passes visq check, or docs/check.md lists the defect; and vLLM's and SGLang's own loaders agree.

Each tool's package exports each of its formats in the test. A finding must be in the table of docs/check.md, and each row of the table be
found. Where visq says that an engine reads an export, the engine's loader must load it; where visq says that an engine stumbles, it must.
"""

import fcntl
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from engine_checkpoints import Checkpoints
from test_engine_loaders import OPTIONAL

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    "ModelOpt": [ROOT / ".venv-test" / "bin" / "python", ROOT / "tests" / "parity" / "modelopt_exports.py"],
    "llm-compressor": [ROOT / ".venv-engines" / "bin" / "python", ROOT / "tests" / "engines" / "llm_compressor.py"],
    "gptqmodel": [ROOT / ".venv-engines" / "bin" / "python", ROOT / "tests" / "engines" / "gptqmodel_export.py"],
}
ALL = {
    "ModelOpt": """FP8_DEFAULT FP8_DEFAULT+FP8_KV FP8_2D_BLOCKWISE_WEIGHT_ONLY FP8_PER_CHANNEL_PER_TOKEN INT8_SMOOTHQUANT
INT8_WEIGHT_ONLY INT4_AWQ W4A8_AWQ_BETA NVFP4_DEFAULT NVFP4_DEFAULT+FP8_KV NVFP4_DEFAULT+NVFP4_KV W4A16_NVFP4 NVFP4_MLP_ONLY
MXFP8_DEFAULT W4A8_NVFP4_FP8 W4A8_MXFP4_FP8""".split(),
    "llm-compressor": """FP8_DYNAMIC FP8 FP8+kv FP8_BLOCK W8A8 W8A16 W4A16 W4A16_ASYM W4A16+gptq W4A8 W4AFP8 NVFP4 NVFP4A16 MXFP4
MXFP4A16 MXFP8""".split(),
    "gptqmodel": ["GPTQ", "GPTQ-asym", "GPTQ-8bit", "GPTQ-v2", "GPTQ-order", "GPTQ-mixed", "AWQ", "AWQ-sym"],
}
SOME = {"ModelOpt": ["FP8_DEFAULT", "W4A16_NVFP4"], "llm-compressor": ["FP8_DYNAMIC", "NVFP4A16"]}
KINDS = {"qwen2_5_vl": ALL, "llava": {"gptqmodel": ["GPTQ", "AWQ"]}, "gemma3": SOME, "mistral3": SOME, "qwen3_vl_moe": SOME}
CASES = [(tool, kind, name) for kind, tools in KINDS.items() for tool, names in tools.items() for name in names]
# vLLM's methods for one GPU alone: everything else is asked about compute capability 10.0.
CAPABILITIES = {"W4AFP8": 90}


class Exports:
    """Of each tool for each kind of model, and what visq check says of them; made once for all processes that run these tests."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, tool, kind):
        """@return the source, and by an export's name what check --json says, whose "checkpoint" is its directory"""
        folder = self.folder / f"{tool}-{kind}"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "checked.json").exists():
                (folder / "checked.json").write_text(json.dumps(self.make(folder, tool, kind)))
        return json.loads((folder / "checked.json").read_text())

    def make(self, folder, tool, kind):
        checkpoints = Checkpoints(folder)
        source, names = checkpoints.source(kind), KINDS[kind][tool]
        result = subprocess.run([*PROGRAMS[tool], source, folder, *names], capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr[-2000:]
        checked = subprocess.run([checkpoints.program, "check", "--json", *(folder / name for name in names)],
                                 capture_output=True, text=True, timeout=300)  # fmt: skip
        assert checked.returncode in (0, 1), checked.stderr
        return str(source), {Path(one["checkpoint"]).name: one for one in json.loads(checked.stdout)}


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    return Exports((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exports")


def findings_of(checked):
    return [finding for rule in checked["rules"] for finding in rule["findings"]]


def documented():
    """{(tool, export): {(rule, engine, severity)}} for qwen2_5_vl, and with the kind where the row names others"""
    text = (ROOT / "docs" / "check.md").read_text().partition("## Exports of other tools")[2].partition("\n## ")[0]
    rows = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 5 or cells[0] not in PROGRAMS:
            continue
        tool, names, kinds, rules, _ = cells
        for kind in re.findall(r"`(.*?)`", kinds):
            for name in re.findall(r"`(.*?)`", names):
                rule, engine, severity = re.fullmatch(r"\*\*(\w+)\*\* ?([\w-]*),? ?(error|warning)", rules).groups()
                rows.setdefault((tool, kind, name), set()).add((rule, engine, severity))
    return rows


@pytest.mark.parametrize("tool, kind, name", CASES)
def test_findings_are_the_documented_defects(exports, tool, kind, name):
    checked = exports(tool, kind)[1][name]
    found = {(finding["rule"], finding["engine"], finding["severity"]) for finding in findings_of(checked)}
    assert found == documented().get((tool, kind, name), set())
    assert checked["passed"] == all(severity == "warning" for _, _, severity in found)


def test_the_table_names_exports_of_these_tests():
    assert set(documented()) <= set(CASES)


def complaints(name, source, output):
    if output["error"]:
        return [output["error"]]
    weight_only = "A16" in name or name.startswith(("W4A16", "FP8_2D"))
    unread = {one for one in set(output["unread"]) - set(source["unread"]) if not one.endswith(".g_idx")}
    unfilled = {one for one in set(output["unfilled"]) - set(source["unfilled"])
                if not OPTIONAL.search(one) and not (weight_only and re.search(r"input_(global_)?scale$", one))}  # fmt: skip
    return [f"{one}: not read" for one in unread] + [f"{one}: not filled" for one in unfilled]


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("tool, kind, name", CASES)
def test_the_engine_agrees(exports, engines, engine, tool, kind, name):
    plain, exported = exports(tool, kind)
    checked = exported[name]
    wrong = [finding["what"] for finding in findings_of(checked)
             if finding["severity"] == "error" and finding["engine"] in ("", engine)]  # fmt: skip
    if engine not in checked["engines"]:
        pytest.skip("visq does not say that this engine reads it")
    if (engine, kind) == ("sglang", "llava"):
        pytest.skip("it builds no model around a CLIP tower on a CPU")
    source, output = (engines(engine)(folder, CAPABILITIES.get(name, 100)) for folder in (plain, checked["checkpoint"]))
    assert not source["error"]
    assert bool(complaints(name, source, output)) == bool(wrong), (complaints(name, source, output), wrong)
