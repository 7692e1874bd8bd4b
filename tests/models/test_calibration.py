"""The closed form of mask calibration against a literal construction of AM-SAM's eq. 9-12."""

import pytest
import torch

from amsam_ray.models.parts.calibration import MaskCalibration


def literal(upscaled, hyper, alpha):
    """Compute eq. 9-12 step by step, with every R_i in memory."""
    b, c, h, w = upscaled.shape
    n = hyper.shape[1]
    parts = []
    for i in range(c):
        u_i = upscaled[:, i : i + 1].repeat(1, n, 1, 1)  # b x n x h x w
        h_i = hyper[:, :, i].reshape(b, n, 1, 1)
        parts.append(u_i * h_i)  # eq. 9
    fused = torch.cat(parts, dim=0)  # eq. 10, (b * c) x n x h x w
    mean = fused.sum(dim=0, keepdim=True) / (b * c)  # eq. 11
    new = mean.repeat(b, 1, 1, 1)
    original = (hyper @ upscaled.reshape(b, c, h * w)).reshape(b, n, h, w)
    return alpha * original + (1 - alpha) * new  # eq. 12


def factors(batch, channels=16, seed=0):
    make = torch.Generator().manual_seed(seed)
    upscaled = torch.randn(batch, channels, 9, 7, generator=make, dtype=torch.float64)
    return upscaled, torch.randn(batch, 2, channels, generator=make, dtype=torch.float64)


def calibrated(mode, alpha, upscaled, hyper):
    """Return a calibration's masks as pictures, b x n x h x w."""
    return apply(MaskCalibration(mode, alpha, 16).double(), upscaled, hyper)


def apply(calibration, upscaled, hyper):
    masks = calibration(upscaled.flatten(2).transpose(1, 2), hyper)
    return masks.transpose(1, 2).unflatten(2, upscaled.shape[-2:])


def relative(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7, 1.0])
def test_batch_equals_the_literal_construction(batch, alpha):
    upscaled, hyper = factors(batch)
    ours = calibrated("batch", alpha, upscaled, hyper)
    assert relative(ours, literal(upscaled, hyper, alpha)) < 1e-12


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7])
def test_sample_equals_the_paper_for_one_image_at_a_time(alpha):
    upscaled, hyper = factors(3)
    alone = torch.cat([literal(upscaled[i : i + 1], hyper[i : i + 1], alpha) for i in range(3)])
    assert relative(calibrated("sample", alpha, upscaled, hyper), alone) < 1e-12


def test_batch_and_sample_differ_for_more_than_one_image_and_agree_for_one():
    many, one = factors(3), factors(1)
    assert relative(calibrated("batch", 0.7, *many), calibrated("sample", 0.7, *many)) > 0.01
    assert relative(calibrated("batch", 0.7, *one), calibrated("sample", 0.7, *one)) < 1e-12


def test_sample_rescales_the_logits_by_a_constant():
    upscaled, hyper = factors(2)
    plain = calibrated("off", 0.7, upscaled, hyper)
    assert relative(calibrated("sample", 0.7, upscaled, hyper), plain * (0.7 + 0.3 / 16)) < 1e-12


def test_learned_starts_as_sample_and_weights_each_channel():
    upscaled, hyper = factors(2)
    learned = MaskCalibration("learned", 0.7, 16).double()
    assert relative(apply(learned, upscaled, hyper), calibrated("sample", 0.7, upscaled, hyper)) < 1e-12
    with torch.no_grad():
        learned.weight[3] += 1
    parts = torch.einsum("bchw,bnc->bcnhw", upscaled, hyper)
    weighted = (learned.weight.view(1, 16, 1, 1, 1) * parts).sum(1)
    assert relative(apply(learned, upscaled, hyper), 0.7 * parts.sum(1) + 0.3 * weighted) < 1e-12


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha"):
        MaskCalibration("sample", alpha, 16)


def test_batch_over_workers_is_the_joint_batch():
    upscaled, hyper = factors(4)
    joint = calibrated("batch", 0.7, upscaled, hyper)
    halves = [(upscaled[:2], hyper[:2]), (upscaled[2:], hyper[2:])]
    means = []

    def collective(own):
        """Return the mean over the workers that have called so far."""
        means.append(own)
        return sum(means) / len(means)

    worker = MaskCalibration("batch", 0.7, 16)
    worker.over_workers = collective
    apply(worker, *halves[1])
    assert relative(apply(worker, *halves[0]), joint[:2]) < 1e-12
