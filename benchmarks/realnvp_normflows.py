"""RealNVP of normflows' pieces for `benchmarks.normflows_glow`: imports torch, numpy and normflows alone.

The couplings, act-norms, squeezes, merges and bases are normflows', in flowzoo's order. The network in the
couplings is ours, with the layers of `flowzoo.networks.ConvResNet` and its first weights: that of normflows
(`nets.ConvResidualNet`) has other convolutions, and a last layer that does not start at zero.
"""

from __future__ import annotations

import normflows as nf
import torch
from torch import nn

from benchmarks.glow_common import BLOCKS, Setting

_CUT = 0.87962566103423978  # standard deviation of a standard normal that is cut off at -2 and 2


def _conv(seen: int, made: int, size: int) -> nn.Conv2d:
    """Return a convolution that starts as Keras's "he_normal"."""
    conv = nn.Conv2d(seen, made, size, padding="same")
    std = (2 / (seen * size**2)) ** 0.5 / _CUT
    nn.init.trunc_normal_(conv.weight, std=std, a=-2 * std, b=2 * std)
    nn.init.zeros_(conv.bias)
    return conv


class ResNet(nn.Module):
    """3×3 in, residual blocks of 3×3 and 1×1, 3×3 out; two numbers, shift and raw scale, for each channel."""

    def __init__(self, seen: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.first, self.last = _conv(seen, hidden, 3), nn.Conv2d(hidden, 2 * channels, 3, padding="same")
        pairs = ((_conv(hidden, hidden, 3), _conv(hidden, hidden, 1)) for _ in range(BLOCKS))
        self.inner = nn.ModuleList(nn.Sequential(nn.ReLU(), a, nn.ReLU(), b) for a, b in pairs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the numbers, shift and raw scale in turns."""
        x = self.first(x)
        for block in self.inner:
            x = x + block(x)
        return self.last(torch.relu(x))


class _Scale(nn.Module):
    """The log-scale of a masked coupling, -log sigmoid(raw + 2); its shift is kept for `_Shift`."""

    def __init__(self, network: ResNet) -> None:
        super().__init__()
        self.network = network
        self.shift: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.network(x)
        self.shift = found[:, 0::2]
        return -nn.functional.logsigmoid(found[:, 1::2] + 2)


class _Shift(nn.Module):
    """The shift that `_Scale` found: `MaskedAffineFlow` asks for the scale first, of the same image."""

    def __init__(self, scale: _Scale) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor | None:
        found, self.scale.shift = self.scale.shift, None
        return found


def _checkerboard(channels: int, size: int, hidden: int, swap: bool) -> nf.flows.Flow:
    """Return a coupling that keeps the pixels of one colour, and sees the others as zeros."""
    row = torch.arange(size)
    kept = ((row[:, None] + row) % 2 == int(swap)).float().repeat(channels, 1, 1)
    scale = _Scale(ResNet(channels, channels, hidden))
    return nf.flows.MaskedAffineFlow(kept, t=_Shift(scale), s=scale)


def _halves(channels: int, hidden: int, swap: bool) -> nf.flows.Flow:
    """Return a coupling that keeps half of the channels."""
    network, mode = ResNet(channels // 2, channels // 2, hidden), "channel_inv" if swap else "channel"
    return nf.flows.AffineCouplingBlock(network, scale_map="sigmoid", split_mode=mode)


class _Normed(nf.flows.Flow):
    """A coupling followed by an act-norm, whose log-determinant is that of each example, as in `GlowBlock`.

    `nf.flows.Composite` would do, if it did not sum on the CPU.
    """

    def __init__(self, coupling: nf.flows.Flow, channels: int) -> None:
        super().__init__()
        self.coupling, self.norm = coupling, nf.flows.ActNorm((channels, 1, 1))

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z, first = self.coupling(z)
        z, second = self.norm(z)
        return z, first + second

    def inverse(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z, second = self.norm.inverse(z)
        z, first = self.coupling.inverse(z)
        return z, first + second


def build(setting: Setting, hidden: int) -> nf.MultiscaleFlow:
    """Build `flowzoo.RealNVP` of normflows' layers: level 0 is the deepest, and latents come before data."""

    def checkerboards(channels: int, size: int) -> list[nf.flows.Flow]:
        made = (_checkerboard(channels, size, hidden, bool(i % 2)) for i in range(setting.num_steps))
        return [_Normed(coupling, channels) for coupling in made]

    priors, flows, merges = [], [], []
    for level in range(setting.levels):
        squeezes = setting.levels - 1 - level  # before this level, from the data
        channels, size = 3 * 2**squeezes, setting.size // 2**squeezes
        row = checkerboards(channels, size)
        if level == 0:
            flows.append([_Normed(_checkerboard(channels, size, hidden, False), channels), *row])
            priors.append(nf.distributions.DiagGaussian((channels, size, size)))
            continue
        halves = (_halves(4 * channels, hidden, bool(i % 2)) for i in range(setting.num_steps))
        flows.append([*(_Normed(half, 4 * channels) for half in halves), nf.flows.Squeeze(), *row])
        priors.append(nf.distributions.DiagGaussian((2 * channels, size // 2, size // 2)))
        merges.append(nf.flows.Merge())
    return nf.MultiscaleFlow(priors, flows, merges, class_cond=False)
