"""Formats of the KV cache against nvidia-modelopt's quantizers on the CPU, and where those cannot run there, in plain PyTorch."""
import pytest
import torch
from modelopt.torch.quantization.config import QuantizerAttributeConfig
from modelopt.torch.quantization.nn import TensorQuantizer
from scipy.linalg import hadamard

from test_codecs import BF16, pack  # noqa: F401

FP8 = {"num_bits": (4, 3)}
NVFP4 = {"num_bits": (2, 1), "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": (4, 3)}}
BIAS = {"bias": {-2: None, -4: None, "type": "static"}}
# As configs/ptq/units/kv_*.yaml of ModelOpt 0.47 has them.
QUANTIZERS = {
    "fp8": FP8,
    "fp8_cast": {**FP8, "use_constant_amax": True},
    "fp8_affine": {**FP8, **BIAS},
    "nvfp4": NVFP4,
    "nvfp4_affine": {**NVFP4, **BIAS},
}


def states():
    """[tokens, heads, channels]: as keys often are, with channel means and channels that stand out."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    plain = randn(50, 2, 32)
    means = randn(50, 2, 64) + 4 * randn(1, 2, 64)
    outliers = randn(50, 4, 96) * torch.where(torch.arange(96) % 31 == 7, 30.0, 1.0)
    heads = randn(50, 3, 16) * torch.tensor([0.01, 1.0, 100.0])[:, None]
    zeros = torch.zeros(5, 2, 16)
    all_of_them = {"plain": plain, "means": means, "outliers": outliers, "heads": heads, "zeros": zeros}
    return all_of_them | {f"{name}_bf16": x.to(BF16) for name, x in all_of_them.items()}


NAMES = list(states())


@pytest.fixture(scope="module")
def ours(pack):  # noqa: F811
    return pack(states())


def modelopt(x, name):
    """A calibrated quantizer; x as attention has it: [1, heads, tokens, channels]."""
    quantizer = TensorQuantizer(QuantizerAttributeConfig(**QUANTIZERS[name]))
    quantizer.disable_quant()
    quantizer.enable_calib()
    quantizer(x)
    if not QUANTIZERS[name].get("use_constant_amax"):
        quantizer.load_calib_amax()
    if "bias" in QUANTIZERS[name]:
        quantizer.load_calib_bias()
    quantizer.disable_calib()
    quantizer.enable_quant()
    return quantizer


def attention(x):
    return x.transpose(0, 1).unsqueeze(0)


def fp8(x, scale):
    return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale


def nvfp4(x, scale):
    """Blocks of 16 with E4M3 scales under the scale that engines take from k_scale: a sixth of it."""
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    blocks = x.unflatten(-1, (-1, 16))
    amax = blocks.abs().amax(-1, keepdim=True)
    by = (amax / (6 * (scale / 6))).masked_fill(amax == 0, 1).clamp(2**-9, 448).to(torch.float8_e4m3fn).float() * (scale / 6)
    v = (blocks / by).abs()
    bounds = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5])
    code = torch.bucketize(v, bounds) + sum((v == tie).long() for tie in (0.75, 1.75, 3.5))
    return (values[code] * blocks.sign() * by).flatten(-2)


def rotation(width):
    size = width & -width
    return torch.block_diag(*[torch.tensor(hadamard(size), dtype=torch.float64)] * (width // size)) / size**0.5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("format", QUANTIZERS)
def test_calibration_is_modelopts(ours, name, format):
    x = states()[name]
    quantizer = modelopt(attention(x), format)
    scale = ours[f"{name}.{format}.key.scale"]
    assert torch.equal(scale, ours[f"{name}.{format}.value.scale"])
    if format == "fp8_cast":
        assert scale == 1
        return
    if "bias" not in QUANTIZERS[format]:
        amax = quantizer.amax.float()
        assert scale == (amax / 448 if amax > 0 else 1)
        return
    bias, theirs = ours[f"{name}.{format}.key.bias"], quantizer._bias_value[0, :, 0]
    assert bias.dtype == x.dtype and bias.shape == theirs.shape
    # Both are means of the same numbers, added up in another order.
    assert torch.allclose(bias.float(), theirs.float(), rtol=2**-7 if x.dtype == BF16 else 1e-5, atol=1e-6)
    amax = (x.float() - bias.float()).abs().max()
    assert scale == (amax / 448 if amax > 0 else 1)
    assert torch.allclose(amax, quantizer.amax.float(), rtol=2**-7 if x.dtype == BF16 else 1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if "zeros" not in name])
@pytest.mark.parametrize("format", ["fp8", "fp8_cast", "fp8_affine"])
def test_fp8_reads_what_modelopt_simulates(ours, name, format):
    """ModelOpt multiplies by the reciprocal of the scale: a last bit, which now and then is a step of E4M3."""
    if format == "fp8_affine" and name.endswith("bf16"):
        return  # there ModelOpt rounds to bf16 what is left of the mean, too
    x = states()[name]
    theirs = modelopt(attention(x), format)(attention(x)).squeeze(0).transpose(0, 1).float()
    read = ours[f"{name}.{format}.key.read"].float()
    tolerance = 2**-7 if x.dtype == BF16 else 1e-6
    same = torch.isclose(read, theirs, rtol=tolerance, atol=tolerance)
    assert same.float().mean() > 0.99
    assert ((read - theirs).abs() <= x.float().abs().max() / 14).all()


@pytest.mark.parametrize("name", NAMES)
def test_caches_are_read_by_the_formulas(ours, name):
    x = states()[name]
    wide = x.float()
    for format in ("fp8", "fp8_attn_head", "fp8_cast", "fp8_affine", "nvfp4", "nvfp4_cast", "nvfp4_affine", "nvfp4_rotate"):
        scale = ours[f"{name}.{format}.value.scale"]
        if format == "fp8_attn_head":
            amax = wide.abs().amax((0, 2))
            assert torch.equal(scale, torch.where(amax > 0, amax / 448, 1))
            scale = scale[:, None]
        bias = ours[f"{name}.{format}.value.bias"].float() if "affine" in format else torch.zeros(())
        rounded = nvfp4 if format.startswith("nvfp4") else fp8
        expected = (rounded(wide - bias, scale) + bias).to(x.dtype)
        assert torch.equal(ours[f"{name}.{format}.value.read"], expected), format
        if format != "nvfp4_rotate":
            assert torch.equal(ours[f"{name}.{format}.key.read"], expected), format


@pytest.mark.parametrize("name", NAMES)
def test_rotated_keys(ours, name):
    """Rotated, rounded, and rotated back: what queries that are rotated too make of it."""
    x = states()[name].float()
    h = rotation(x.shape[-1])
    rotated = (x.double() @ h).float()
    scale = ours[f"{name}.nvfp4_rotate.key.scale"]
    amax = rotated.abs().max()
    assert torch.allclose(scale, amax / 448 if amax > 0 else torch.ones(()), rtol=1e-6)
    expected = (nvfp4(rotated, scale).double() @ h).float()
    read = ours[f"{name}.nvfp4_rotate.key.read"].float()
    # A rotation in another order of adding is a last bit off, which now and then is a step of E2M1.
    error = (read - expected).norm() / expected.norm().clamp_min(1e-30)
    assert error < 0.02
    queries = torch.randn(7, *x.shape[1:], generator=torch.Generator().manual_seed(1)).double()
    ours_scores = torch.einsum("qhd,khd->qkh", queries, read.double())
    theirs = torch.einsum("qhd,khd->qkh", queries @ h, nvfp4(rotated, scale).double())
    assert torch.allclose(ours_scores, theirs, rtol=0.05, atol=float(0.05 * theirs.abs().max()) + 1e-12)


def test_each_refinement_helps_where_it_should(ours):
    x = states()

    def error(name, format):
        return float((ours[f"{name}.{format}.key.read"] - x[name]).square().mean())

    assert error("means", "fp8_affine") < 0.5 * error("means", "fp8")
    assert error("means", "nvfp4_affine") < 0.5 * error("means", "nvfp4")
    assert error("heads", "nvfp4") > 10 * error("heads", "fp8")
