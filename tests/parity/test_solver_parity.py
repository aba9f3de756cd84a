"""GPTQ and the searches for NVFP4 block scales against nvidia-modelopt's own code on the CPU, low-rank factors against its formula."""
import subprocess

import pytest
import torch
from modelopt.torch.quantization.calib.mse import NVFP4MSECalibrator
from modelopt.torch.quantization.utils.calib_utils import compute_hessian_inverse, gptq_blockwise_update
from safetensors.torch import load_file, save_file

ROWS, COLUMNS, TOKENS = 192, 256, 700
E2M1_BOUNDS = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


@pytest.fixture(scope="module")
def linear(probe, tmp_path_factory):
    """A weight, correlated inputs with outliers, and what visq makes of them."""
    torch.manual_seed(5)
    weight = (torch.randn(ROWS, COLUMNS) / torch.rand(ROWS, COLUMNS).add(0.1).sqrt() * 0.02).bfloat16().float()
    x = torch.randn(TOKENS, 64) @ torch.randn(64, COLUMNS) * 0.2 + torch.randn(TOKENS, COLUMNS)
    x[:, 3::37] *= 8
    folder = tmp_path_factory.mktemp("solver")
    save_file({"weight": weight, "x": x}, folder / "in.safetensors")
    subprocess.run([probe("solver"), folder / "in.safetensors", folder / "out.safetensors"], check=True)
    return weight, x, load_file(folder / "out.safetensors")


def test_gptq_makes_modelopts_choices(linear):
    weight, x, ours = linear
    hessian = x.T @ x
    step = ours["int4.scale"].repeat_interleave(128, 1)
    values = weight.clone()
    gptq_blockwise_update(values, compute_hessian_inverse(hessian, weight, 0.01), 128,
                          lambda w: (w / step).round().clamp(-8, 7) * step)
    codes = (values / step).round()
    differ = (codes != ours["gptq.codes"].float()).float().mean().item()
    assert differ < 0.01, differ  # a tie that falls the other way changes what comes after it in its row

    def loss(q):
        return torch.einsum("oi,ij,oj->", q - weight, hessian, q - weight).item()

    assert loss(ours["gptq.codes"].float() * step) <= 1.002 * loss(values)
    assert loss(values) < 0.8 * loss(ours["int4.codes"].float() * step)  # there was something to gain


def e2m1(x):
    index = torch.bucketize(x.abs(), E2M1_BOUNDS)
    index += (x.abs() == 0.75) | (x.abs() == 1.75) | (x.abs() == 3.5)
    return E2M1[index] * x.sign()


def modelopts_choice(weight, error=None):
    """Block scales of ModelOpt's sweep over all 126, through its reference path."""
    blocks = weight.view(-1, 16)
    largest = weight.abs().max()
    calibrator = NVFP4MSECalibrator(
        amax=blocks.abs().amax(1, keepdim=True), global_amax=largest, axis=0, error_func=error,
        quant_func=lambda values, amax: e2m1(values / (amax / 6)) * (amax / 6))
    calibrator.collect(blocks)
    return (calibrator.compute_amax() / largest * 448).view(ROWS, -1)


def test_the_search_by_weights_is_modelopts_sweep(linear):
    weight, _, ours = linear
    theirs = modelopts_choice(weight)
    assert torch.equal(theirs, theirs.to(torch.float8_e4m3fn).float())
    differ = theirs != ours["mse.scale"].float()
    # Their step is amax / 6, ours scale · scale_2: the same number up to the last bit, which decides ties.
    assert differ.float().mean() < 0.002, differ.sum()


def test_the_search_by_output_error_is_modelopts_local_hessian(linear):
    weight, x, ours = linear
    inputs = x.view(TOKENS, -1, 16).transpose(0, 1)
    hessian = inputs.transpose(1, 2) @ inputs  # [blocks, 16, 16]

    def loss(scale):
        step = (scale * ours["nvfp4.scale_2"]).unsqueeze(-1)
        blocks = weight.view(ROWS, -1, 16)
        difference = e2m1(blocks / step) * step - blocks
        return torch.einsum("rbi,bij,rbj->rb", difference, hessian, difference)

    candidates = torch.arange(1, 127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    losses = torch.stack([loss(c.expand(ROWS, COLUMNS // 16)) for c in candidates])
    best = losses.amin(0)
    found = loss(ours["output_error.scale"].float())
    # Theirs tries all 126; ours an octave to either side of the largest weight.
    assert (found <= best * 1.0001).float().mean() > 0.995
    assert found.sum() <= 1.002 * best.sum()


def test_low_rank_factors_by_weights_are_modelopts_svdquant(linear):
    """B = U·S and A = Vᵀ of the f64 decomposition, cast to the weights' type (spec/quantization.md §6.6): up to the signs."""
    weight, _, ours = linear
    u, s, vt = torch.linalg.svd(weight.double(), full_matrices=False)
    b, a = (u[:, :32] * s[:32]).bfloat16().float(), vt[:32].bfloat16().float()
    signs = (a * ours["svd.a"].float()).sum(1).sign()
    a, b = a * signs[:, None], b * signs
    for theirs, mine in ((a, ours["svd.a"].float()), (b, ours["svd.b"].float())):
        assert ((theirs - mine).abs() <= theirs.abs() * 2**-7).all()  # a bit of the last place of bf16
        assert (theirs != mine).float().mean() < 0.001
    assert torch.allclose(b @ a, ours["svd.b"].float() @ ours["svd.a"].float(), atol=1e-5)


def test_low_rank_factors_by_output_are_eoras(linear):
    """EoRA: W·U·Λ^½ of the inputs' eigenvectors is decomposed and taken back; the same product without an inverse."""
    weight, x, ours = linear
    values, vectors = torch.linalg.eigh(x.double().T @ x.double())
    root = vectors * values.clamp_min(0).sqrt()
    u, s, vt = torch.linalg.svd(weight.double() @ root, full_matrices=False)
    product = (u[:, :32] * s[:32]) @ vt[:32] @ torch.linalg.pinv(root)
    mine = ours["whitened.b"].double() @ ours["whitened.a"].double()
    assert (product - mine).norm() < 0.01 * product.norm()

    def loss(low_rank):
        return ((weight.double() - low_rank) @ root).square().sum()

    assert loss(mine) < 1.01 * loss(product)
    assert loss(mine) < 0.8 * loss(ours["svd.b"].double() @ ours["svd.a"].double())
