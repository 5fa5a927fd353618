"""TarFlow: transformer autoregressive blocks in alternating order over patches."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import tensorflow as tf

from flowzoo import random
from flowzoo.layers.actnorm import ActNorm
from flowzoo.layers.base import FlowLayer, Shape
from flowzoo.layers.noise import GaussianNoise
from flowzoo.layers.patchify import Patchify
from flowzoo.layers.preprocessing import Dequantize
from flowzoo.layers.transformer_autoregressive import TransformerAutoregressive
from flowzoo.models import checks
from flowzoo.models.guidance import checked_dropout, checked_guidance
from flowzoo.models.tarflow_arguments import (
    checked_denoise,
    checked_levels,
    data_layers,
    default_patch_size,
)
from flowzoo.models.tarflow_exact import check_exact, exact_log_prob
from flowzoo.models.tarflow_sampling import _Sampling
from flowzoo.networks.dropout import checked_rate, dropping
from flowzoo.networks.transformer import CausalTransformer

# Which conditions and features are left out in training must not depend on the noise of dequantisation.
_DROPOUT_STREAM = 0xD20


@keras.saving.register_keras_serializable("flowzoo")
class TarFlow(_Sampling):
    """Transformer autoregressive flow: for images (as patches), vectors and sequences [length, channels].

    `num_blocks` layers z_t = (x_t - mu_t) exp(-alpha_t) over T tokens, whose mu and alpha a causal
    transformer gives from the tokens before t; the order of the tokens is reversed from one block to the
    next. A density costs one pass of each transformer, all tokens at once. A sample takes T steps of one
    token in each block, one after another, with cached keys and values: about as many operations as one
    pass, not T times as many.

    What log_prob is: by default the density of the user's own data; of whole numbers, through uniform
    dequantisation, a bound on their log-probability, with bits per dimension (one block that sees whole
    values has the log-probability itself, `exact_log_prob`). With `noise_std` above 0 the flow is trained
    on data with Gaussian noise, in the data's own units, drawn anew at each step from the example and the
    seed. Images are then continuous values in the scale of the pixels: samples are floats, and there are
    no bits per dimension. log_prob is then the density of noisy data, at the x that it is given: it adds
    no noise itself, and says little of clean data. `fit` and `evaluate` add the noise.

    The paper's layers are affine, which fits densities with sharp edges badly (the uniform noise in the black
    pixels of a digit): transform="rational_quadratic" takes splines.

    Denoising: samples of a flow with noise are noisy. `denoise` moves them to the expectation of the clean
    data under the model, x + noise_std^2 d log p(x) / dx (Tweedie's formula): one more pass and its gradient.

    Guidance: with `condition_dropout` that share of the examples goes without its condition in training.
    Sampling with guidance w then takes mu = (1 + w) mu(condition) - w mu(none), and the same for alpha, in
    each block, at the cost of two passes. log_prob, `to_latent`, `from_latent` and `distribution` are always
    those of the model without guidance and denoising: what is sampled with them has no density here.

    Args:
        event_shape: shape of one example: an image, a vector, or [length, channels].
        condition_shape: shape of one condition, a vector, or None; images are not taken.
        num_classes: number of classes, where the condition is a class label.
        num_blocks: autoregressive layers.
        layers_per_block: transformer blocks in each.
        hidden_size: width of the transformers.
        heads: attention heads, which divide `hidden_size`.
        expansion: width of each perceptron's hidden layer, in widths of the transformer.
        patch_size: entries a side of a patch, which divides height and width (or the length). None: for
            images the largest of 4, 2 and 1 that divides both and leaves 16 tokens, else 1.
        activation: of the perceptrons.
        log_scale_bound: largest absolute alpha.
        transform: "affine" as in the paper, or "rational_quadratic": splines, with which one or two blocks do
            what eight affine ones do.
        num_bins: K of the splines.
        tail_bound: B of the splines.
        within_patch: whether an entry of a patch sees those before it in the patch: with splines a block is
            then an autoregressive model of single pixels at the cost of patches.
        whole_values: whether the block next to the data sees the pixels before as whole values, without the
            noise of their dequantisation; for discrete data under the logit. However sharp the model is, no
            error then grows from pixel to pixel (see `TransformerAutoregressive`).
        dropout: share of what the transformers' sub-layers add that is set to zero in training, in [0, 1):
            against learning small data by heart.
        condition_dropout: share of the examples whose condition is left out in training, in [0, 1).
        guidance: w of `sample`, unless it is given another, and of exports; 0 is the conditional model.
        noise_std: standard deviation of the noise of training, in the units of the data; 0: none.
        denoise: whether `sample`, unless it is told, and exports denoise.
        base: as `Flow`.
        preprocessing: see `flowzoo.models.preprocessing`; with noise "standardize" or "none".
        num_values: number of values of discrete data; None if continuous; "auto": 256 for images
            (continuous with noise).
        alpha: of the logit.
        **kwargs: of `Flow` (name, dtype).

    Raises:
        ValueError: a patch size that does not divide the event, an image as condition, guidance without
            `condition_dropout`, dropout without a condition, denoising without noise, noise with discrete
            data.

    References:
        Zhai et al., Normalizing Flows are Capable Generative Models (2024),
        https://arxiv.org/abs/2412.06329, section 2 (equations 5 and 6: log-determinant and loss); Efron,
        Tweedie's Formula and Selection Bias (2011), https://doi.org/10.1198/jasa.2011.tm11181.
    """

    family: ClassVar[str | None] = "tarflow"
    small: ClassVar[dict[str, Any]] = {
        "num_blocks": 2,
        "layers_per_block": 1,
        "hidden_size": 16,
        "heads": 2,
        "expansion": 2,
    }

    def __init__(
        self,
        event_shape: Shape,
        condition_shape: Shape | None = None,
        num_classes: int | None = None,
        num_blocks: int = 8,
        layers_per_block: int = 2,
        hidden_size: int = 256,
        heads: int = 4,
        expansion: int = 4,
        patch_size: int | None = None,
        activation: str = "gelu",
        log_scale_bound: float = 2.0,
        transform: str = "affine",
        num_bins: int = 8,
        tail_bound: float = 5.0,
        within_patch: bool = False,
        whole_values: bool = False,
        dropout: float = 0.0,
        condition_dropout: float = 0.0,
        guidance: float = 0.0,
        noise_std: float = 0.0,
        denoise: bool = False,
        base: Any = "normal",
        preprocessing: Any = "auto",
        num_values: int | str | None = "auto",
        alpha: float = 0.05,
        **kwargs: Any,
    ) -> None:
        patch_size = patch_size or default_patch_size(event_shape)
        arguments = {
            "num_blocks": num_blocks,
            "layers_per_block": layers_per_block,
            "hidden_size": hidden_size,
            "heads": heads,
            "expansion": expansion,
            "patch_size": patch_size,
            "activation": activation,
            "log_scale_bound": log_scale_bound,
            "transform": transform,
            "num_bins": num_bins,
            "tail_bound": tail_bound,
            "within_patch": within_patch,
            "whole_values": whole_values,
            "dropout": dropout,
            "condition_dropout": condition_dropout,
            "guidance": guidance,
            "noise_std": noise_std,
            "denoise": denoise,
            "base": base,
            "preprocessing": preprocessing,
            "num_values": num_values,
            "alpha": alpha,
        }
        self.dropout = checked_rate(dropout)
        self.condition_dropout = checked_dropout(
            condition_dropout, condition_shape is not None or num_classes is not None
        )
        self.guidance = checked_guidance(guidance, self.condition_dropout)
        near_data = data_layers(preprocessing, event_shape, num_values, alpha, noise_std)
        self.noise_std = float(noise_std)
        self.denoises = checked_denoise(denoise, self.noise_std)
        if num_blocks < 1:
            raise ValueError(f"num_blocks takes an integer of at least 1. Received: {num_blocks!r}")
        levels = checked_levels(whole_values, near_data)
        layers: list[FlowLayer] = []
        for i in range(num_blocks):
            network = CausalTransformer(
                hidden_size, layers_per_block, heads, expansion, activation, within_patch, self.dropout
            )
            nearest = levels if i == num_blocks - 1 else None
            layers.append(
                TransformerAutoregressive(
                    network, bool(i % 2), log_scale_bound, transform, num_bins, tail_bound, nearest
                )
            )
        if len(event_shape) == 3 and levels is None:
            layers.append(ActNorm())  # the logit of pixels is far from unit variance
        layers += [Patchify(patch_size), *near_data]
        super().__init__(
            layers, event_shape, condition_shape, num_classes, base=base, family_arguments=arguments, **kwargs
        )

    # -- whole values ---------------------------------------------------------------------------------

    def raw_exact_log_prob(self, x: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        """Return log P(x) of whole numbers; for use inside graphs."""
        return exact_log_prob(self.chain.chained, x, condition)

    def exact_log_prob(self, x: Any, condition: Any = None) -> tf.Tensor:
        """Return log P(x) of whole values in nats, [batch]: exact, where `log_prob` is a bound on it.

        It is the logarithm of how often `sample` draws x, at the cost of one pass. In the mean over the noise
        of dequantisation it is never below `log_prob`.

        Args:
            x: whole numbers, [batch, *event_shape].
            condition: [batch, *condition_shape], or one for all.

        Raises:
            ValueError: not a flow of one block with whole_values=True and a normal base; as `log_prob`.
            TypeError: as `log_prob`.
        """
        check_exact(self.name, self.base, self.chain.chained)
        x = checks.data(self, x)
        return self._graphs._call(
            "exact_log_prob", x=x, condition=checks.condition(self, condition, tf.shape(x)[0])
        )

    # -- training -----------------------------------------------------------------------------------

    def _noisy_log_prob(
        self,
        x: tf.Tensor,
        condition: tf.Tensor | None,
        seed: tf.Tensor,
        keep: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Return log p of x with the noise of training, without the condition where `keep` is False."""
        total = tf.zeros(tf.shape(x)[:1], x.dtype)
        for layer in reversed(self.chain.chained):
            if isinstance(layer, Dequantize | GaussianNoise):
                x, log_det = layer.noisy_inverse(x, seed)
            elif isinstance(layer, TransformerAutoregressive):
                x, log_det = layer.dropped_inverse(x, condition, keep)
            else:
                x, log_det = layer.flow_inverse(x, condition)
            total += log_det
        return self.base.log_prob(x, condition) + total

    def example_loss(
        self, x: tf.Tensor, condition: tf.Tensor | None, seed: tf.Tensor, *others: tf.Tensor
    ) -> tf.Tensor:
        """Return -log p of each example with the noise of training, [batch]."""
        return -self._noisy_log_prob(x, condition, seed)

    def training_losses(
        self, x: tf.Tensor, condition: tf.Tensor | None, seed: tf.Tensor, *others: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return -log p of each noisy example, some without their condition, with dropout, twice."""
        keep = None
        keys = random.example_keys(x)
        if self.condition_dropout:
            uniform = random.example_uniform(keys[:, None], random.fold_in(seed, _DROPOUT_STREAM))
            keep = uniform[:, 0] >= self.condition_dropout
        with dropping(keys, seed):
            nats = -self._noisy_log_prob(x, condition, seed, keep)
        return nats, nats
