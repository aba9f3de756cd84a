"""int4 with zero points against compressed-tensors' own arithmetic and packing."""
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from compressed_tensors.quantization.utils.helpers import calculate_qparams

from test_codecs import BF16, assert_same_bits, pack, weights  # noqa: F401

ARGUMENTS = QuantizationArgs(num_bits=4, type="int", symmetric=False, strategy="group", group_size=128, dynamic=False)


def matrices():
    """What test_codecs has, in f32, where compressed-tensors rounds nothing else; and blocks that are not centred."""
    generator = torch.Generator().manual_seed(3)
    all_of_them = {name: weight.float() for name, weight in weights().items()}
    all_of_them["shifted"] = torch.randn(32, 256, generator=generator) * 0.02 + 0.05
    all_of_them["above"] = torch.rand(16, 256, generator=generator) + 0.5
    all_of_them["below"] = -torch.rand(16, 256, generator=generator) - 0.5
    return all_of_them


NAMES = list(matrices())


@pytest.fixture(scope="module")
def ours(pack):  # noqa: F811
    return pack(matrices())


def reference(weight):
    """Scale, zero point and codes as compressed-tensors finds them, and which blocks it can do: of a block of zeros the scale is
    an epsilon there and 1 here, below the smallest normal number ours stays above it, and ends beyond f32 are infinite there."""
    blocks = weight.view(weight.shape[0], -1, 128)
    low, high = blocks.amin(-1), blocks.amax(-1)
    scale, zero = calculate_qparams(low, high, ARGUMENTS)
    span = high.clamp_min(0) - low.clamp_max(0)
    sound = (span < 2.0**127) & (span >= torch.finfo(torch.float32).tiny)
    codes = quantize(weight, scale, zero, ARGUMENTS, dtype=torch.int8)
    return scale, zero.to(torch.int8), codes, sound


@pytest.mark.parametrize("name", NAMES)
def test_scales_zero_points_and_codes_equal_compressed_tensors(ours, name):
    weight = matrices()[name]
    scale, zero, codes, sound = reference(weight)
    assert sound.any() or name == "edges"
    assert torch.equal(ours[f"{name}.int4_asym.scale"][sound], scale[sound])
    assert torch.equal(ours[f"{name}.int4_asym.zero_point"][sound], zero[sound])
    rows = sound.repeat_interleave(128, 1)
    assert torch.equal(ours[f"{name}.int4_asym.codes"][rows], codes[rows])
    assert ours[f"{name}.int4_asym.deq"].isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_values_equal_compressed_tensors(ours, name):
    scale, zero, codes = (ours[f"{name}.int4_asym.{part}"] for part in ("scale", "zero_point", "codes"))
    theirs = dequantize(codes, scale, zero, ARGUMENTS)
    # A code that is its zero point: 0 here, and −0 nowhere.
    assert torch.equal(ours[f"{name}.int4_asym.deq"], theirs.float())


def test_zero_blocks(ours):
    weight = matrices()["holes"]
    zeros = (weight.view(weight.shape[0], -1, 128) == 0).all(-1)
    assert zeros.sum() > 2
    assert (ours["holes.int4_asym.scale"][zeros] == 1).all()
    assert (ours["holes.int4_asym.deq"].view(weight.shape[0], -1, 128)[zeros] == 0).all()


def test_a_layer_is_unpacked_by_compressed_tensors(probe, tmp_path):
    """Bytes of a checkpoint through its own decompressor."""
    import subprocess

    from safetensors import safe_open

    from modelopt_reference import DEMO

    subprocess.run([probe("codec").parent / "visq", "-q", "quantize", DEMO / "model", "--format", "w4a16_asym", "--out", tmp_path / "out"],
                   check=True, stdout=subprocess.DEVNULL)  # fmt: skip
    scheme = QuantizationScheme(targets=["Linear"], weights=ARGUMENTS)
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as out, safe_open(DEMO / "model" / "model.safetensors", "pt") as source:
        modules = sorted(name[: -len(".weight_packed")] for name in out.keys() if name.endswith(".weight_packed"))
        assert len(modules) == 35
        for module in modules:
            state = {name[len(module) + 1 :]: out.get_tensor(name) for name in out.keys() if name.startswith(module + ".weight")}
            assert set(state) == {"weight_packed", "weight_scale", "weight_shape", "weight_zero_point"}
            assert state["weight_scale"].dtype == BF16
            restored = PackedQuantizationCompressor.decompress(state, scheme)
            values = restored["weight"].float()
            # Its own compressor makes the same words of these values, scales and zero points.
            again = PackedQuantizationCompressor.compress(restored | {"weight_scale": state["weight_scale"]}, scheme)
            for part in ("weight_packed", "weight_zero_point"):
                assert_same_bits(state[part], again[part])
            weight = source.get_tensor(module + ".weight").float()
            step = state["weight_scale"].float().repeat_interleave(128, 1)
            assert ((values - weight).abs() <= step * 1.02).all()
            assert (values - weight).norm() < 0.13 * weight.norm()
