"""zuko's side (PyTorch)."""

from __future__ import annotations

import time

import torch
import zuko

from benchmarks.families import CLIP_NORM, EXACT_TRACE_UP_TO, Family
from benchmarks.tables import Table

VERSION = f"zuko {zuko.__version__}, torch {torch.__version__}"


def build(family: Family, size: int) -> zuko.flows.Flow:
    """Build the flow of a family."""
    hidden = {"hidden_features": family.hidden}
    if family.name == "maf":
        return zuko.flows.MAF(size, transforms=family.layers, **hidden)
    if family.name == "nsf_coupling":
        return zuko.flows.NSF(size, transforms=family.layers, passes=2, **hidden)
    if family.name == "nsf_autoregressive":
        return zuko.flows.NSF(size, transforms=family.layers, **hidden)
    exact = size <= EXACT_TRACE_UP_TO or family.name == "flow_matching"
    return zuko.flows.CNF(size, exact=exact, **hidden)


def loss(family: Family, flow: zuko.flows.Flow, x: torch.Tensor) -> torch.Tensor:
    """Return the training loss: nats a row, or the regression of flow matching."""
    if family.name != "flow_matching":
        return -flow().log_prob(x).mean()
    # zuko's continuous transform goes from the data at time 0 to the latent at time 1.
    time_, noise = torch.rand(len(x), 1), torch.randn_like(x)
    between = (1 - time_) * x + time_ * noise
    velocity = flow.transform.f(time_[:, 0], between)
    return (velocity - (noise - x)).square().mean()


def run(family: Family, table: Table, steps: int, seed: int) -> dict[str, float]:
    """Train, and return the held-out nats a row, seconds a step and parameters."""
    torch.manual_seed(seed)
    flow = build(family, table.train.shape[1])
    optimizer = torch.optim.Adam(flow.parameters(), lr=family.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    batches = torch.from_numpy(table.batches(steps, seed))
    warm = max(1, min(10, steps // 10))
    start = 0.0
    for number, batch in enumerate(batches):
        if number == warm:
            start = time.perf_counter()
        optimizer.zero_grad()
        loss(family, flow, batch).backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), CLIP_NORM)
        optimizer.step()
        schedule.step()
    seconds = (time.perf_counter() - start) / (steps - warm)
    flow.eval()
    if family.name == "ffjord":
        flow.transform.exact = True  # held-out figures are exact for both
    test = torch.from_numpy(table.test)
    with torch.no_grad():
        scored = [flow().log_prob(test[i : i + 512]) for i in range(0, len(test), 512)]
    parameters = sum(weight.numel() for weight in flow.parameters())
    return {"nats": -torch.cat(scored).mean().item(), "seconds": seconds, "parameters": parameters}
