"""What `visq families` and `visq formats` say, and that README.md says the same."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_matrix_holds_the_promised_families(visq):
    families = visq.json("families")
    assert len(families) >= 14
    assert len({family["family"] for family in families}) == len(families)
    for family in families:
        assert family["architectures"] and family["tested"]
        assert {"fp8", "int8_sq", "int4_awq", "w4a8_awq", "nvfp4"} <= set(family["formats"])
    architectures = [name for family in families for name in family["architectures"]]
    assert len(set(architectures)) == len(architectures)


def test_the_tables_of_the_readme_are_what_the_program_prints(visq):
    result = subprocess.run([sys.executable, ROOT / "scripts" / "readme_tables.py", visq.path, "--check"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
