"""zuko's side (PyTorch)."""

from __future__ import annotations

import copy
import time

import numpy as np
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
    each = steps // family.checks
    seconds, best, kept = 0.0, float("inf"), copy.deepcopy(flow.state_dict())
    for number, batch in enumerate(batches[: each * family.checks]):
        start = time.perf_counter()
        optimizer.zero_grad()
        loss(family, flow, batch).backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), CLIP_NORM)
        optimizer.step()
        schedule.step()
        seconds += time.perf_counter() - start if number else 0.0
        if (number + 1) % each == 0:
            nats = score(family, flow, table.validation) if family.checks > 1 else 0.0
            if nats < best:
                best, kept = nats, copy.deepcopy(flow.state_dict())
    flow.load_state_dict(kept)
    parameters = sum(weight.numel() for weight in flow.parameters())
    nats = score(family, flow, table.test)
    return {"nats": nats, "seconds": seconds / (steps - 1), "parameters": parameters}


def score(family: Family, flow: zuko.flows.Flow, x: np.ndarray) -> float:
    """Return the mean nats a row, with the exact trace."""
    rows = torch.from_numpy(x)
    flow.eval()
    if family.name == "ffjord":
        trained, flow.transform.exact = flow.transform.exact, True
    with torch.no_grad():
        scored = [flow().log_prob(rows[i : i + 512]) for i in range(0, len(rows), 512)]
    flow.train()
    if family.name == "ffjord":
        flow.transform.exact = trained
    return -torch.cat(scored).mean().item()
