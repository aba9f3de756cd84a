"""Parity tests hold visq's probes (tests/probe/) against the reference packages."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def probe():
    """probe("codec") is the path of probe_codec in VISQ_BUILD, by default <repository>/build."""
    build = Path(os.environ.get("VISQ_BUILD", Path(__file__).parents[2] / "build"))

    def path(name):
        program = build / f"probe_{name}"
        assert program.exists(), f"{program} is missing: build it, or set VISQ_BUILD"
        return program

    return path
