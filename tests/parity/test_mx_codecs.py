"""Formats with blocks of 32: against nvidia-modelopt's own export on the CPU, and where it has none, in plain PyTorch."""

import modelopt.torch.quantization as mtq
import pytest
import torch
from modelopt.torch.quantization.qtensor import MXFP4QTensor, MXFP8QTensor

import test_codecs
from test_codecs import BF16, NAMES, assert_same_bits, bits, modelopt_export, ours, pack, weights  # noqa: F401

test_codecs.CONFIGS |= {
    "w4a8_nvfp4_fp8": mtq.W4A8_NVFP4_FP8_CFG,
    "mxfp4": mtq.MXFP4_DEFAULT_CFG,
    "w4a8_mxfp4_fp8": mtq.W4A8_MXFP4_FP8_CFG,
    "mxfp8": mtq.MXFP8_DEFAULT_CFG,
}
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
E3M2 = torch.cat([torch.arange(4) / 16, (torch.arange(4) + 4).repeat(7) * 2.0 ** (torch.arange(7) - 4).repeat_interleave(4)]).double()
LARGEST = {"mxfp4": 6, "mxfp6": 28, "mxfp8": 448, "mxint8": 127}


def exact_exponents(weight, largest):
    """⌈log2(amax / largest)⌉ of blocks of 32, at least −127, from the bits of the f32 quotient."""
    ratio = weight.float().view(weight.shape[0], -1, 32).abs().amax(-1) / largest
    mantissa, exponent = torch.frexp(ratio.double())  # in [0.5, 1)
    return torch.where(mantissa == 0.5, exponent - 1, exponent).masked_fill(ratio == 0, -127).clamp(-127, 127)


def scaled(weight, exponents):
    """The values of an element's range: f64 of what f32 gives."""
    by = torch.ldexp(torch.ones_like(exponents, dtype=torch.float64), exponents).repeat_interleave(32, 1)
    return (weight.double() / by).float().double()


def nearest(v, values):
    """Codes without sign, halves to the even one."""
    distance = (v.abs().unsqueeze(-1) - values).abs()
    code = distance.argmin(-1)  # the first of two
    following = (code + 1).clamp_max(len(values) - 1)
    tie = (distance.gather(-1, code.unsqueeze(-1)) == distance.gather(-1, following.unsqueeze(-1))).squeeze(-1)
    return torch.where(tie & (code % 2 == 1), following, code)


def split_sixes(packed):
    three = packed.long().view(packed.shape[0], -1, 3)
    word = three[..., 0] | three[..., 1] << 8 | three[..., 2] << 16
    return torch.stack([word >> shift & 63 for shift in (0, 6, 12, 18)], -1).flatten(1)


@pytest.mark.parametrize("name", NAMES)
def test_w4a8_nvfp4_equals_modelopt(ours, name):  # noqa: F811
    theirs = modelopt_export(weights()[name], "w4a8_nvfp4_fp8")
    for part in ("scale_2", "scale", "codes"):
        assert_same_bits(ours[f"{name}.w4a8_nvfp4_fp8.{part}"], theirs[part])
    assert ours[f"{name}.w4a8_nvfp4_fp8.scale"].float().max() == 72
    packed = mtq.qtensor.NVFP4QTensor(weights()[name].shape, torch.float32, theirs["codes"])
    values = packed.dequantize(torch.float32, scale=theirs["scale"], double_scale=theirs["scale_2"], block_sizes={-1: 32})
    assert torch.equal(ours[f"{name}.w4a8_nvfp4_fp8.deq"], values)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("preset", ["mxfp4", "w4a8_mxfp4_fp8", "mxfp8"])
def test_mx_equals_modelopt(ours, name, preset):  # noqa: F811
    theirs = modelopt_export(weights()[name], preset)
    codec = "mxfp8" if preset == "mxfp8" else "mxfp4"
    assert_same_bits(ours[f"{name}.{codec}.scale"], theirs["scale"])
    assert_same_bits(ours[f"{name}.{codec}.codes"], theirs["codes"])
    assert theirs["scale_2"] is None

    if codec == "mxfp8":
        values = MXFP8QTensor(weights()[name].shape, torch.float32, theirs["codes"]).dequantize(torch.float32, scale=theirs["scale"])
    else:
        packed = MXFP4QTensor(weights()[name].shape, torch.float32, theirs["codes"])
        values = packed.dequantize(torch.float32, scale=theirs["scale"], block_sizes={-1: 32})
    assert torch.equal(ours[f"{name}.{codec}.deq"], values)


@pytest.mark.parametrize("name", NAMES)
def test_elements_that_modelopt_cannot_export(ours, name):  # noqa: F811
    weight = weights()[name]
    exponents = exact_exponents(weight, 28)
    assert torch.equal(ours[f"{name}.mxfp6.scale"].int(), exponents + 127)
    v = scaled(weight, exponents)
    assert torch.equal(split_sixes(ours[f"{name}.mxfp6.codes"]), nearest(v, E3M2) + 32 * v.signbit())

    exponents = exact_exponents(weight, 127)
    assert torch.equal(ours[f"{name}.mxint8.scale"].int(), exponents + 127)
    codes = scaled(weight, exponents).round().clamp(-127, 127)
    assert torch.equal(ours[f"{name}.mxint8.codes"].double(), codes)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("codec", LARGEST)
def test_inputs_are_rounded_to_the_nearest_element(ours, name, codec):  # noqa: F811
    """What the simulation of an engine makes of the matrix as an input: halves to even, spec/quantization.md §3.5."""
    weight = weights()[name]
    exponents = exact_exponents(weight, LARGEST[codec])
    v = scaled(weight, exponents)
    if codec == "mxint8":
        element = v.round().clamp(-127, 127)
    elif codec == "mxfp8":
        element = v.float().clamp(-448, 448).to(torch.float8_e4m3fn).double()
    else:
        values = {"mxfp4": E2M1, "mxfp6": E3M2}[codec]
        element = values[nearest(v, values)] * v.sign()
    by = torch.ldexp(torch.ones_like(exponents, dtype=torch.float64), exponents).repeat_interleave(32, 1)
    assert torch.equal(ours[f"{name}.{codec}.simulated"], (element * by).float().to(BF16))


def test_mxfp4_on_disk_and_in_the_simulation_differ_at_ties_only(ours):  # noqa: F811
    """spec/quantization.md §12, Q10."""
    weight, stored, simulated = weights()["ties"], ours["ties.mxfp4.deq"], ours["ties.mxfp4.simulated"].float()
    v = scaled(weight, exact_exponents(weight, 6)).abs()
    ties = (v == 0.75) | (v == 1.75) | (v == 3.5)
    assert torch.equal(stored != simulated, ties) and ties.sum() > 50
    assert (stored.abs() < simulated.abs())[ties].all()


def test_scales_just_above_a_power_of_two_are_exact_where_modelopts_logarithm_is_not(pack):  # noqa: F811
    """spec/quantization.md §5.6. Weights of 16 bits have too few digits to come so close: there the bytes are equal."""
    differ = {}
    for codec, qtensor in {"mxfp4": MXFP4QTensor, "mxfp8": MXFP8QTensor}.items():
        powers = LARGEST[codec] * 2.0 ** torch.arange(-100, 100, dtype=torch.float32)
        above = torch.nextafter(powers, torch.tensor(float("inf")))
        weight = torch.zeros(600, 128)
        weight[:, ::32] = torch.cat([powers, above, torch.nextafter(powers, torch.zeros(()))])[:, None]
        our = pack({"w": weight})[f"w.{codec}.scale"]
        assert torch.equal(our.int(), exact_exponents(weight, LARGEST[codec]) + 127)
        theirs = qtensor.quantize(weight, *([32] if codec == "mxfp4" else []))[1].view(our.shape)
        assert torch.equal(our[:200], theirs[:200]) and torch.equal(our[400:], theirs[400:])
        wrong = (our != theirs)[200:400, 0]
        assert torch.equal(our[200:400, 0][wrong], theirs[200:400, 0][wrong] + 1)
        differ[codec] = int(wrong.sum())
    print(f"of 200 scales one step above a power of two, ModelOpt's are too small: {differ}")
    assert all(count > 100 for count in differ.values())


def test_zeros_and_denormals(pack):  # noqa: F811
    """spec/quantization.md §5.10, §12 Q3."""
    for value in (0.0, 9.2e-41):
        weight = torch.full((2, 128), value, dtype=BF16)
        out = pack({"w": weight})
        for preset in ("mxfp4", "mxfp8"):
            theirs = modelopt_export(weight, preset)
            assert_same_bits(out[f"w.{preset}.scale"], theirs["scale"])
            assert_same_bits(out[f"w.{preset}.codes"], theirs["codes"])
        assert not out["w.mxfp4.scale"].any()
        for codec in LARGEST:
            assert out[f"w.{codec}.deq"].isfinite().all()
    out = pack({"w": torch.zeros(2, 128, dtype=BF16)})
    assert (bits(out["w.mxfp4.codes"]) == 0x88).all()
    assert not any(bits(out[f"w.{codec}.codes"]).any() for codec in ("mxfp6", "mxfp8", "mxint8"))
    assert out["w.w4a8_nvfp4_fp8.scale_2"] == torch.tensor(1.0) / 448 and not out["w.w4a8_nvfp4_fp8.codes"].any()


def test_int8_without_smoothing_is_int8(ours):  # noqa: F811
    theirs = modelopt_export(weights()["gauss"], "int8")
    assert_same_bits(ours["gauss.int8.scale"], theirs["scale"])
    assert_same_bits(ours["gauss.int8.codes"], theirs["codes"])
