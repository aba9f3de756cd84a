#!/usr/bin/env python3
"""Fills the tables of README.md and docs/ from the program: scripts/readme_tables.py build/visq [--check]"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(text, visq):
    def fill(match):
        table = subprocess.run([visq, *match["arguments"].split()], capture_output=True, text=True, check=True).stdout
        return f"<!-- visq {match['arguments']} -->\n{table}<!-- end -->"

    return re.sub(r"<!-- visq (?P<arguments>[\w -]+?) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


if __name__ == "__main__":
    for page in PAGES:
        before = page.read_text()
        after = filled(before, sys.argv[1])
        if "--check" in sys.argv and before != after:
            sys.exit(f"{page.relative_to(ROOT)}: its tables are not what the program prints; run scripts/readme_tables.py build/visq")
        page.write_text(after)
