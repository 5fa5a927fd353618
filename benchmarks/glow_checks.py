"""Check the peer's estimate by other ways: `python -m benchmarks.glow_checks`, with PyTorch and normflows.

TensorFlow and PyTorch need not live in one process: nothing of flowzoo is imported here.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from benchmarks.glow_common import Faces, Setting, matched_hidden, parameters

SMALL = Setting(steps=6, batch=8, size=8, levels=2, num_steps=2, filters=8, warmup=2, checks=2)
REALNVP = dataclasses.replace(SMALL, family="realnvp")
ONE_STEP = dataclasses.replace(SMALL, levels=1, num_steps=1)


def noise(numbers: tuple[int, int] = (600, 100)) -> Faces:
    """Return uniform bytes, which nothing codes in less than 8 bits a dimension."""
    rng = np.random.default_rng(0)
    return Faces(*(rng.integers(0, 256, (number, 8, 8, 3)).astype("uint8") for number in numbers))


def expected_noise_bits(narrowing: float) -> float:
    """Return the bits/dim that uniform bytes cost a flow of one step that has not been trained.

    The act-norm takes every dimension from the standard deviation 1/sqrt(12) to 1, the rotation leaves it
    there, and the coupling multiplies half of the dimensions by `narrowing`; the base is a standard normal.
    """

    def cost(scale: float) -> float:
        return 0.5 * math.log2(2 * math.pi) + 0.5 * scale**2 / math.log(2) - math.log2(scale)

    return 8 + math.log2(1 / math.sqrt(12)) + (cost(1.0) + cost(narrowing)) / 2


def log_prob_error(setting: Setting) -> tuple[float, float]:
    """Return how far log_prob is, in nats, from the base's and the determinant of the whole Jacobian.

    The second number is how far an image is from itself after both directions.
    """
    import torch

    from benchmarks.glow_normflows import Peer

    peer, faces = Peer(setting, seed=0), noise()
    peer.adapt(faces.train)
    peer.train(faces.batches(setting, 0), 4, math.inf)
    model = peer.model.cpu().double()
    for weight in model.parameters():  # a flow far from where it started
        weight.data += 0.05 * torch.randn_like(weight)
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64) - 0.5

    def latent(values: torch.Tensor) -> torch.Tensor:
        return torch.cat([z.flatten() for z in model.inverse_and_log_det(values)[0]])

    total = torch.linalg.slogdet(torch.autograd.functional.jacobian(latent, x).reshape(192, 192))[1]
    for prior, z in zip(model.q0, model.inverse_and_log_det(x)[0], strict=True):
        total = total + torch.distributions.Normal(prior.loc, prior.log_scale.exp()).log_prob(z).sum()
    there, back = model.inverse_and_log_det(x)[0], model.forward_and_log_det
    return abs((model.log_prob(x, None) - total).item()), (back(there)[0] - x).abs().max().item()


def start_errors() -> dict[int, float]:
    """Return how far the bits/dim of noise are from what they should be at the start, for 8 and 5 bits."""
    from benchmarks.glow_normflows import Peer

    found, wanted = {}, expected_noise_bits(1 / (1 + math.exp(-2)))
    for bits in (8, 5):
        setting = dataclasses.replace(ONE_STEP, bits=bits)
        peer, x = Peer(setting, seed=0), setting.quantised(noise().train)
        peer.adapt(x)
        found[bits] = abs(peer.bits_per_dim(x) - (wanted - (8 - bits)))
    return found


def main() -> None:
    """Print the errors, and fail where one is large."""
    from benchmarks.glow_normflows import Peer

    for setting in (SMALL, REALNVP):
        counted = parameters(setting, matched_hidden(setting), "normflows") == Peer(setting, 0).parameters
        determinant, trip = log_prob_error(setting)
        print(f"{setting.family}: parameters counted: {counted}; log_prob: {determinant:.1e} nats; ", end="")
        print(f"there and back: {trip:.1e}")
        if not counted or determinant > 1e-8 or trip > 1e-8:
            raise SystemExit("normflows' estimate is not what it should be.")
    starts = start_errors()
    print(f"start: {starts} bits/dim")
    if max(starts.values()) > 0.01:
        raise SystemExit("normflows' estimate is not what it should be.")


if __name__ == "__main__":
    main()
