import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = ROOT / "demo"


class Visq:
    """Runs the program as a user would."""

    def __init__(self, path):
        self.path = path

    def __call__(self, *arguments, check=True, **options):
        result = subprocess.run([self.path, *map(str, arguments)], capture_output=True, text=True, timeout=300, **options)
        if check and result.returncode != 0:
            raise AssertionError(f"{arguments} ended with {result.returncode}:\n{result.stdout}\n{result.stderr}")
        return result

    def json(self, *arguments):
        return json.loads(self(*arguments, "--json").stdout)

    def check(self, directories, *options):
        """What `visq check` says of each directory; they all pass. One process for all, because starting one is most of its cost."""
        results = self.json("check", *directories, *options)
        results = results if isinstance(results, list) else [results]
        assert [result["checkpoint"] for result in results] == [str(directory) for directory in directories]
        for result in results:
            assert result["passed"], [rule for rule in result["rules"] if rule["violations"]]
        return results


@pytest.fixture(scope="session")
def visq():
    build = pathlib.Path(os.environ.get("VISQ_BUILD", ROOT / "build"))
    return Visq(str(build / "visq"))


@pytest.fixture(scope="session")
def demo():
    return DEMO


from formats import FORMATS  # noqa: E402


@pytest.fixture(scope="session")
def quantized(visq, demo, tmp_path_factory):
    """The demo model in all five formats, from one calibration."""
    out = tmp_path_factory.mktemp("quantized")
    visq("quantize", demo / "model", "--format", ",".join(FORMATS), "--calib", demo / "calibration.jsonl", "--out", out,
         "--force")
    return out
