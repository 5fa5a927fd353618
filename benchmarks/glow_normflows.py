"""normflows' side of `benchmarks.normflows_glow` (PyTorch): imports torch, numpy and normflows alone."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import normflows as nf
import numpy as np
import torch

from benchmarks import realnvp_normflows as realnvp
from benchmarks.glow_common import ADAM_EPSILON, SCORE_BATCH, Setting, matched_hidden, processor

VERSION = f"normflows {nf.__version__}, torch {torch.__version__}"


def device() -> str:
    """Return what computes."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor()


def build(setting: Setting, hidden: int) -> nf.MultiscaleFlow:
    """Build the Glow of normflows' README, without classes: level 0 is the deepest."""
    priors, flows, merges = [], [], []
    for level in range(setting.levels):
        deeper = setting.levels - 1 - level  # squeezes before this level, from the data
        channels, size = 12 * 2**deeper, setting.size // 2 ** (deeper + 1)
        steps = [nf.flows.GlowBlock(channels, hidden, scale=True) for _ in range(setting.num_steps)]
        flows.append([*steps, nf.flows.Squeeze()])
        early = channels if level == 0 else channels // 2
        priors.append(nf.distributions.DiagGaussian((early, size, size)))
        if level > 0:
            merges.append(nf.flows.Merge())
    return nf.MultiscaleFlow(priors, flows, merges, class_cond=False)


class Peer:
    """normflows' Glow or RealNVP with Adam, float32."""

    def __init__(self, setting: Setting, seed: int, compiled: bool = False) -> None:
        torch.manual_seed(seed)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = setting.tf32
        torch.backends.cudnn.benchmark = True  # TensorFlow tries its convolutions out too
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.setting, self.compiled = setting, compiled
        make = realnvp.build if setting.family == "realnvp" else build
        self.model = make(setting, matched_hidden(setting)).to(self.device)
        weights = self.model.parameters()
        self.optimizer = torch.optim.Adam(weights, lr=setting.learning_rate, eps=ADAM_EPSILON)
        rates = torch.optim.lr_scheduler.LambdaLR
        self.schedule = rates(self.optimizer, lambda step: setting.rate(step) / setting.learning_rate)
        self.loss = self.model.forward_kld
        self.parameters = sum(weight.numel() for weight in self.model.parameters())

    def _dequantised(self, x: np.ndarray, generator: torch.Generator | None = None) -> torch.Tensor:
        """Return (x + u) / 2^bits - 0.5 with u uniform, `[N, 3, height, width]`."""
        values = torch.from_numpy(np.ascontiguousarray(x)).to(self.device).permute(0, 3, 1, 2).float()
        noise = torch.rand(values.shape, device=self.device, generator=generator)
        return ((values + noise) / 2**self.setting.bits - 0.5).contiguous()

    def adapt(self, x: np.ndarray) -> None:
        """Set the act-norms from images: normflows does it at their first pass."""
        with torch.no_grad():
            self.model.log_prob(self._dequantised(x), None)
        if self.compiled:
            for module in self.model.modules():  # a tensor to branch on would break the graph at each of them
                if isinstance(module, nf.flows.ActNorm):
                    del module.data_dep_init_done
                    module.data_dep_init_done = True
            self.loss = torch.compile(self.model.forward_kld)

    def train(self, batches: Iterator[np.ndarray], number: int, until: float) -> int:
        """Take steps until a number or a time."""
        taken = 0
        while taken < number and (taken == 0 or time.perf_counter() <= until):
            self.optimizer.zero_grad()
            self.loss(self._dequantised(next(batches))).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.setting.clip_norm)
            self.optimizer.step()
            self.schedule.step()
            taken += 1
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return taken

    def bits_per_dim(self, x: np.ndarray) -> float:
        """Return the mean bits per dimension: bits of a value less log2 of the density in [-0.5, 0.5)."""
        generator = torch.Generator(self.device).manual_seed(0)
        parts = [self._dequantised(x[i : i + SCORE_BATCH], generator) for i in range(0, len(x), SCORE_BATCH)]
        with torch.no_grad():
            scored = torch.cat([self.model.log_prob(part, None) for part in parts]).double()
        return self.setting.bits - scored.mean().item() / (math.log(2) * math.prod(x.shape[1:]))
