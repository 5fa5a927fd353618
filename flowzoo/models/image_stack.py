"""The multi-scale architecture for images, of any kind of coupling."""

from __future__ import annotations

from collections.abc import Callable

from flowzoo.layers.base import FlowLayer, Shape
from flowzoo.layers.chain import Chain
from flowzoo.layers.multiscale import Split, Squeeze
from flowzoo.networks.base import Conditioner


class ImageStack:
    """Builds the levels of an image flow, the innermost last.

    Args:
        couplings: mask ("checkerboard" or "channel") and network maker to layers, latent to data.
        network: makes the network of one coupling, or of the prior of one split.
        split_prior: "none" or "learned".
        reversible: keep no activation of the couplings for the reverse pass; see `Chain`.

    References:
        Dinh et al. (2017), https://arxiv.org/abs/1605.08803, section 3.6.
    """

    def __init__(
        self,
        couplings: Callable[[str, Callable[[], Conditioner]], list[FlowLayer]],
        network: Callable[[], Conditioner],
        split_prior: str,
        reversible: bool = False,
    ) -> None:
        self._couplings, self._network, self._split_prior = couplings, network, split_prior
        self._reversible = reversible

    def level(self, shape: Shape, levels: int) -> Chain:
        """Return the layers of this level and all inside it, for data of `shape`."""
        height, width, channels = shape
        checkerboards = self._row("checkerboard")
        if levels <= 1 or height % 2 or width % 2:
            return Chain([*self._couplings("checkerboard", self._network)[:2], *checkerboards])
        squeezed = (height // 2, width // 2, 4 * channels)
        inner = self.level((*squeezed[:2], 2 * channels), levels - 1)
        split = Split(inner, self._split_prior, self._split_network())
        return Chain([split, *self._row("channel"), Squeeze(), *checkerboards])

    def _row(self, mask: str) -> list[FlowLayer]:
        couplings = self._couplings(mask, self._network)
        return [Chain(couplings, reversible=True)] if self._reversible else couplings

    def _split_network(self) -> Conditioner | None:
        return self._network() if self._split_prior == "learned" else None
