"""The codecs against nvidia-modelopt's own export on the CPU, and against compressed-tensors' int4 packing."""

import importlib.util
import subprocess
from pathlib import Path

import modelopt.torch.quantization as mtq
import pytest
import torch
from modelopt.torch.export.unified_export_hf import _export_quantized_weight
from safetensors.torch import load_file, save_file

BF16 = torch.bfloat16


def compressed_tensors_helpers():
    """compressed_tensors/compressors/pack_quantized/helpers.py, which needs torch only; its package needs all of
    transformers and what that needs."""
    package = Path(importlib.util.find_spec("compressed_tensors").origin).parent
    spec = importlib.util.spec_from_file_location("helpers", package / "compressors/pack_quantized/helpers.py")
    helpers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(helpers)
    return helpers


helpers = compressed_tensors_helpers()
CONFIGS = {
    "fp8": mtq.FP8_DEFAULT_CFG,
    "fp8_rows": mtq.FP8_PER_CHANNEL_PER_TOKEN_CFG,
    "fp8_blocks": mtq.FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG,
    "int8_wo": mtq.INT8_WEIGHT_ONLY_CFG,
    "nvfp4_wo": mtq.W4A16_NVFP4_CFG,
    "int8": mtq.INT8_DEFAULT_CFG,
    "int4": mtq.INT4_BLOCKWISE_WEIGHT_ONLY_CFG,
    "nvfp4": mtq.NVFP4_DEFAULT_CFG,
}


def weights():
    """bf16 matrices [rows, columns]; rows are even and columns multiples of 128 (int4)."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    gauss = randn(64, 512)
    student = randn(64, 512) / (randn(3, 64, 512).square().mean(0)).sqrt()
    outliers = randn(32, 256) * 1e-3
    outliers[torch.arange(32), torch.randint(256, (32,), generator=generator)] = 50.0
    holes = randn(32, 256)
    holes[3] = 0
    holes[5, 128:] = 0
    holes[7, 16:48] = -0.0
    holes[9, :128] *= 1e-39  # denormal in bf16
    holes[11] = 0
    holes[11, 200] = -2e-40
    edges = torch.tensor([3.3895e38, -3.3895e38, 1.1755e-38, 9.2e-41, -9.2e-41, 1.0, -1.0, 0.0, -0.0])
    edges = edges[torch.randint(len(edges), (16, 128), generator=generator)]
    ties = torch.randint(-56, 57, (32, 256), generator=generator) * 0.125  # amax 7: steps of int4, halves and quarters
    ties[:, ::128] = 7.0
    finite = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(BF16)
    finite = finite[finite.isfinite()][: 65024 // 256 * 256].view(-1, 256)
    return {
        "gauss": (gauss * 0.02).to(BF16),
        "student": (student * 0.02).to(BF16),
        "outliers": outliers.to(BF16),
        "holes": holes.to(BF16),
        "edges": edges.to(BF16),
        "ties": ties.to(BF16),
        "every_value": finite.clone(),
        "every_value_shuffled": finite.flatten()[torch.randperm(finite.numel(), generator=generator)].view(-1, 256),
    }


def modelopt_export(weight, format):
    """weight, weight_scale and weight_scale_2 as ModelOpt writes them."""
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=BF16)
    linear.weight.data = weight.clone()
    model = torch.nn.Sequential(linear)
    mtq.quantize(model, CONFIGS[format], lambda m: m(torch.ones(1, weight.shape[1], dtype=BF16)))
    _export_quantized_weight(model[0], BF16)
    return {
        "codes": model[0].weight.detach(),
        "scale": model[0].weight_scale,
        "scale_2": getattr(model[0], "weight_scale_2", None),
    }


def bits(tensor):
    return tensor.detach().contiguous().view(torch.uint8)


def assert_same_bits(ours, theirs):
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    assert torch.equal(bits(ours.flatten()), bits(theirs.flatten()))


@pytest.fixture(scope="module")
def pack(probe, tmp_path_factory):
    """Packs {name: matrix} with probe_codec."""

    def run(tensors):
        folder = tmp_path_factory.mktemp("codecs")  # the tensors of a file live in its mapping: a file a call
        save_file(tensors, folder / "in.safetensors")
        subprocess.run([probe("codec"), folder / "in.safetensors", folder / "out.safetensors"], check=True)
        return load_file(folder / "out.safetensors")

    return run


@pytest.fixture(scope="module")
def ours(pack):
    return pack(weights())


NAMES = list(weights())


@pytest.mark.parametrize("name", NAMES)
def test_nvfp4_equals_modelopt(ours, name):
    theirs = modelopt_export(weights()[name], "nvfp4")
    assert_same_bits(ours[f"{name}.nvfp4.scale_2"], theirs["scale_2"])
    assert_same_bits(ours[f"{name}.nvfp4.scale"], theirs["scale"])
    assert_same_bits(ours[f"{name}.nvfp4.codes"], theirs["codes"])


@pytest.mark.parametrize("name", NAMES)
def test_weight_only_nvfp4_has_the_same_weights(ours, name):
    theirs = modelopt_export(weights()[name], "nvfp4_wo")
    for part in ("scale_2", "scale", "codes"):
        assert_same_bits(ours[f"{name}.nvfp4.{part}"], theirs[part])


@pytest.mark.parametrize("name", NAMES)
def test_fp8_per_row_equals_modelopt(ours, name):
    theirs = modelopt_export(weights()[name], "fp8_rows")
    assert_same_bits(ours[f"{name}.fp8_rows.scale"], theirs["scale"])
    assert_same_bits(ours[f"{name}.fp8_rows.codes"], theirs["codes"])


@pytest.mark.parametrize("name", NAMES)
def test_fp8_in_blocks_equals_modelopt(ours, name):
    theirs = modelopt_export(weights()[name], "fp8_blocks")
    scale = theirs["scale"].flatten()  # [row blocks, 1, column blocks, 1]; of one single block: a scalar
    assert_same_bits(ours[f"{name}.fp8_blocks.scale"].flatten(), scale)
    assert_same_bits(ours[f"{name}.fp8_blocks.codes"], theirs["codes"])


def test_fp8_in_blocks_of_a_ragged_matrix(pack):
    weight = weights()["student"].repeat(3, 1)[:, :384].contiguous()  # 192 rows: a block and a half
    out = pack({"w": weight})
    theirs = modelopt_export(weight, "fp8_blocks")
    assert theirs["scale"].shape == (2, 1, 3, 1)
    assert_same_bits(out["w.fp8_blocks.scale"], theirs["scale"].squeeze(3).squeeze(1))
    assert_same_bits(out["w.fp8_blocks.codes"], theirs["codes"])


@pytest.mark.parametrize("name", NAMES)
def test_fp8_with_finer_scales_is_decoded(ours, name):
    rows = ours[f"{name}.fp8_rows.codes"].float() * ours[f"{name}.fp8_rows.scale"][:, None]
    assert_same_bits(ours[f"{name}.fp8_rows.deq"], rows)
    codes = ours[f"{name}.fp8_blocks.codes"]
    scale = ours[f"{name}.fp8_blocks.scale"].repeat_interleave(128, 0).repeat_interleave(128, 1)
    assert_same_bits(ours[f"{name}.fp8_blocks.deq"], codes.float() * scale[: codes.shape[0], : codes.shape[1]])


@pytest.mark.parametrize("name", NAMES)
def test_int8_words_equal_compressed_tensors(ours, name):
    assert torch.equal(helpers.pack_to_int32(ours[f"{name}.int8.codes"], 8), ours[f"{name}.int8.words"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("preset", ["int8", "int8_wo"])
def test_int8_equals_modelopt(ours, name, preset):
    theirs = modelopt_export(weights()[name], preset)
    assert_same_bits(ours[f"{name}.int8.scale"], theirs["scale"])
    assert_same_bits(ours[f"{name}.int8.codes"], theirs["codes"])


@pytest.mark.parametrize("name", NAMES)
def test_int4_equals_modelopt(ours, name):
    theirs = modelopt_export(weights()[name], "int4")
    assert_same_bits(ours[f"{name}.int4.scale"], theirs["scale"])
    assert_same_bits(ours[f"{name}.int4.bytes"], theirs["codes"])


@pytest.mark.parametrize("name", NAMES)
def test_fp8_has_modelopts_scale_and_the_nearest_codes(ours, name):
    """ModelOpt rounds the quotient to bf16 and then to E4M3; we round once. Where they differ, ours is nearer."""
    weight = weights()[name]
    theirs = modelopt_export(weight, "fp8")
    codes, scale = ours[f"{name}.fp8.codes"], ours[f"{name}.fp8.scale"]
    assert_same_bits(scale, theirs["scale"])

    # Their arithmetic, step by step, and the one rounding that we promise.
    assert_same_bits(theirs["codes"], (weight / scale).to(torch.float8_e4m3fn))
    assert_same_bits(codes, (weight.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn))

    differ = bits(codes) != bits(theirs["codes"])
    exact = weight.double() / scale.double()
    our_distance = (codes.double() - exact).abs()[differ]
    their_distance = (theirs["codes"].double() - exact).abs()[differ]
    print(f"{name}: {int(differ.sum())} of {differ.numel()} fp8 codes differ from ModelOpt's double rounding")
    # float64 of the exact quotient is a hair finer than the f32 quotient that both start from: 1e-6 of a code.
    assert (our_distance <= their_distance + 1e-6 * exact[differ].abs()).all()
    # Both round to a neighbour: never further apart than one code.
    assert ((bits(codes).int() - bits(theirs["codes"]).int()).abs() <= 1).all()


def test_fp8_double_rounding_is_frequent_enough_to_matter(ours):
    weight = weights()["gauss"]
    differ = bits(ours["gauss.fp8.codes"]) != bits(modelopt_export(weight, "fp8")["codes"])
    assert 0.005 < differ.float().mean() < 0.05  # spec/quantization.md §12, Q1: 3.1 % there


@pytest.mark.parametrize("name", NAMES)
def test_int4_words_equal_compressed_tensors(ours, name):
    codes, words = ours[f"{name}.int4.codes"], ours[f"{name}.int4.words"]
    assert torch.equal(helpers.unpack_from_int32(words, 4, codes.shape), codes)
    assert torch.equal(helpers.pack_to_int32(codes, 4), words)


def test_int4_words_of_every_code(pack):
    # amax 7 and scale 1: every code that packing gives, −7…7.
    weight = torch.arange(-7, 8).repeat(256)[: 2 * 1024].view(2, 1024).to(BF16)
    out = pack({"w": weight})
    assert torch.equal(helpers.unpack_from_int32(out["w.int4.words"], 4, weight.shape), weight.to(torch.int8))


@pytest.mark.parametrize("name", NAMES)
def test_dequantized_values(ours, name):
    weight = weights()[name]
    fp8 = ours[f"{name}.fp8.codes"].float() * ours[f"{name}.fp8.scale"]
    assert_same_bits(ours[f"{name}.fp8.deq"], fp8)
    int8 = ours[f"{name}.int8.codes"].float() * ours[f"{name}.int8.scale"][:, None]
    assert_same_bits(ours[f"{name}.int8.deq"], int8)
    int4 = ours[f"{name}.int4.codes"].float() * ours[f"{name}.int4.scale"].repeat_interleave(128, 1)
    assert_same_bits(ours[f"{name}.int4.deq"], int4)

    codes, scale, scale_2 = (ours[f"{name}.nvfp4.{part}"] for part in ("codes", "scale", "scale_2"))
    packed = mtq.qtensor.NVFP4QTensor(weight.shape, torch.float32, codes)
    theirs = packed.dequantize(torch.float32, scale=scale, double_scale=scale_2, block_sizes={-1: 16})
    # Their table has +0 for code 8, ours −0: equal as numbers.
    assert torch.equal(ours[f"{name}.nvfp4.deq"], theirs)


def test_zeros_pack_to_zeros_where_modelopt_gives_nan(pack):
    """spec/quantization.md §12, Q3."""
    weight = torch.zeros(4, 128, dtype=BF16)
    out = pack({"w": weight})

    assert modelopt_export(weight, "fp8")["codes"].float().isnan().all()
    assert out["w.fp8.scale"] == 1.0
    assert not bits(out["w.fp8.codes"]).any()

    assert modelopt_export(weight, "nvfp4")["scale"].float().isnan().all()
    assert out["w.nvfp4.scale_2"] == torch.tensor(1.0) / 2688
    assert (out["w.nvfp4.scale"].float() == 1.0).all()
    assert not out["w.nvfp4.codes"].any()

    for format, codes in (("int8", "codes"), ("int4", "bytes")):
        theirs = modelopt_export(weight, format)
        assert_same_bits(out[f"w.{format}.scale"], theirs["scale"])
        assert_same_bits(out[f"w.{format}.{codes}"], theirs["codes"])


def test_denormal_tensors_pack_to_finite_codes(pack):
    weight = torch.full((2, 128), 9.2e-41, dtype=BF16)
    out = pack({"w": weight})
    assert out["w.fp8.scale"] > 0 and out["w.nvfp4.scale_2"] > 0
    for format in ("fp8", "fp8_rows", "fp8_blocks", "int8", "int4", "nvfp4"):
        assert out[f"w.{format}.deq"].isfinite().all()
    for format, codes in (("int8", "codes"), ("fp8_rows", "codes"), ("fp8_blocks", "codes"), ("int4", "bytes")):
        theirs = modelopt_export(weight, format)
        assert_same_bits(out[f"w.{format}.scale"].flatten(), theirs["scale"].flatten())  # one block: a scalar there
        assert_same_bits(out[f"w.{format}.{codes}"], theirs["codes"])
