"""Parity tests hold visq's probes (tests/probe/) against the reference packages."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "demo" / "make"))
import compat  # noqa: E402,F401  (makes torchvision importable; before transformers)


@pytest.fixture(scope="session")
def probe():
    """probe("codec") is the path of probe_codec in VISQ_BUILD, by default <repository>/build."""
    build = Path(os.environ.get("VISQ_BUILD", Path(__file__).parents[2] / "build"))

    def path(name):
        program = build / f"probe_{name}"
        assert program.exists(), f"{program} is missing: build it, or set VISQ_BUILD"
        return program

    return path


@pytest.fixture(scope="module")
def one_thread():
    """Threads cost more than they bring at the sizes of the toy models."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def packed_zero_points(monkeypatch):
    """Where it only plans a model, compressed-tensors 0.20 forgets that it packs zero points, and then refuses its own checkpoints."""
    import torch
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor

    compress = PackedQuantizationCompressor.compress.__func__

    def planned(cls, state, scheme):
        result = compress(cls, state, scheme)
        zero = result.get("weight_zero_point")
        if zero is not None and zero.is_meta:
            assert zero.shape[0] == state["weight"].shape[0], "mended: this fixture can go"
            result["weight_zero_point"] = torch.empty((-(-zero.shape[0] // 8), zero.shape[1]), dtype=torch.int32, device="meta")
        return result

    monkeypatch.setattr(PackedQuantizationCompressor, "compress", classmethod(planned))


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Path and conversations of forward_models.write_samples()."""
    import forward_models

    return forward_models.write_samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="session")
def engines(tmp_path_factory):
    """engines("vllm"), started when first asked for."""
    from engine_loaders import Engine

    started = {}
    folder = tmp_path_factory.mktemp("engines")

    def engine(name):
        if name not in started:
            started[name] = Engine(name, folder / f"{name}.log")
        return started[name]

    yield engine
    for process in started.values():
        process.close()
