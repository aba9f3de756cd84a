"""The engines' own loaders (tests/engines/), each a process of .venv-engines."""

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Engine:
    """tests/engines/NAME_loader.py, asked one question after another."""

    def __init__(self, name, log):
        python = ROOT / ".venv-engines" / "bin" / "python"
        assert python.exists(), f"{python} is missing: scripts/engine_environment.sh installs it"
        self.log = log
        script = ROOT / "tests" / "engines" / f"{name}_loader.py"
        self.process = subprocess.Popen([python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("w"), text=True)
        self.answers = {}

    def __call__(self, directory, capability=100, **options):
        """@param options  of the engine's command"""
        if directory not in self.answers:
            question = {"directory": str(directory), "capability": capability, "options": options}
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
            assert line, f"the loader ended: {self.log.read_text()[-2000:]}"
            self.answers[directory] = json.loads(line)
        return self.answers[directory]

    def close(self):
        self.process.stdin.close()
        self.process.wait()
