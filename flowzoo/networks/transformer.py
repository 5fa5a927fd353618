"""Causal transformer: the parameters of a token from the tokens before it, in one pass or one at a time."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from flowzoo.networks.base import Conditioner, positive_int
from flowzoo.networks.dropout import checked_rate, drop

# Keys and values of one block for the tokens seen so far, each [batch, heads, tokens, size of a head].
Cache = tuple[tf.Tensor, tf.Tensor]


@keras.saving.register_keras_serializable("flowzoo")
class CausalBlock(keras.layers.Layer):
    """One pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)).

    A token attends to itself and to those before it, softmax(q k / sqrt(d)) v. Queries, keys and values
    have no biases: that of the keys would change nothing.

    Args:
        heads: attention heads, which divide the width of the tokens.
        expansion: width of the perceptron's hidden layer, in widths of a token.
        activation: of the perceptron.
        dropout: share of what attention and perceptron add that is dropped in training.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(
        self, heads: int, expansion: int, activation: Any, dropout: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.heads, self.expansion, self.dropout = heads, expansion, dropout
        self.activation = keras.activations.get(activation)

    def build(self, input_shape: Any) -> None:
        """Create the weights for tokens of a width."""
        width = int(input_shape[-1])
        policy = self.dtype_policy

        def dense(name: str, units: int, bias: bool, activation: Any = None) -> keras.layers.Dense:
            return keras.layers.Dense(units, activation, use_bias=bias, dtype=policy, name=name)

        def norm(name: str) -> keras.layers.LayerNormalization:
            return keras.layers.LayerNormalization(epsilon=1e-6, dtype=policy, name=name)

        self.norm_attention, self.norm_mlp = norm("norm_attention"), norm("norm_mlp")
        self.projected = dense("queries_keys_values", 3 * width, bias=False)
        self.attended = dense("attended", width, bias=True)
        self.wide = dense("wide", self.expansion * width, True, self.activation)
        self.narrow = dense("narrow", width, bias=True)
        for layer in (self.norm_attention, self.norm_mlp, self.projected, self.attended, self.wide):
            layer.build((None, width))
        self.narrow.build((None, self.expansion * width))
        super().build(input_shape)

    def call(self, x: tf.Tensor, tokens: int = 1) -> tf.Tensor:
        """Run all tokens of an event at once.

        Args:
            x: [batch * tokens, width]; flat, since products with a matrix cost more operations on rank 3.
            tokens: of one event.
        """
        queries, keys, values = self._projections(x, tokens)
        positions = tf.range(tokens)
        visible = positions[None, :] <= positions[:, None]
        return self._finish(x, _attend(queries, keys, values, visible), tokens)

    def step(self, x: tf.Tensor, index: tf.Tensor, cache: Cache) -> tuple[tf.Tensor, Cache]:
        """Run token `index` alone, [batch, width], with what is known of those before it."""
        queries, key, value = self._projections(x, 1)
        positions = tf.range(cache[0].shape[2])
        here = (positions == index)[:, None]
        keys, values = tf.where(here, key, cache[0]), tf.where(here, value, cache[1])
        attended = _attend(queries, keys, values, (positions <= index)[None, :])
        return self._finish(x, attended), (keys, values)

    def _projections(self, x: tf.Tensor, tokens: int) -> list[tf.Tensor]:
        """Return queries, keys and values, [batch, heads, tokens, size of a head]."""
        shape = [-1, tokens, 3, self.heads, x.shape[-1] // self.heads]
        projected = tf.reshape(self.projected(self.norm_attention(x)), shape)
        return tf.unstack(tf.transpose(projected, [2, 0, 3, 1, 4]), 3)

    def _finish(self, x: tf.Tensor, attended: tf.Tensor, tokens: int = 1) -> tf.Tensor:
        joined = tf.reshape(tf.transpose(attended, [0, 2, 1, 3]), [-1, x.shape[-1]])
        x = x + drop(self.attended(joined), self.dropout, tokens)
        return x + drop(self.narrow(self.wide(self.norm_mlp(x))), self.dropout, tokens)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        activation = keras.activations.serialize(self.activation)
        own = {"heads": self.heads, "expansion": self.expansion, "activation": activation}
        return {**super().get_config(), **own, "dropout": self.dropout}


def _attend(queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, visible: tf.Tensor) -> tf.Tensor:
    """Return the mean of the values that each query sees, weighted by a softmax of at least float32."""
    scores = tf.matmul(queries, keys, transpose_b=True)
    scores = tf.cast(scores, tf.float64 if scores.dtype == tf.float64 else tf.float32)
    scores = scores * int(keys.shape[-1]) ** -0.5
    scores = tf.where(visible, scores, tf.constant(scores.dtype.min / 2, scores.dtype))
    return tf.matmul(tf.cast(tf.nn.softmax(scores), values.dtype), values)


@keras.saving.register_keras_serializable("flowzoo")
class CausalTransformer(Conditioner):
    """A transformer over tokens whose output for token t depends on the tokens before t.

    Token t is given an embedding of token t - 1 (of zeros for the first, whose parameters are therefore
    learned, and depend on the condition alone), one of its position and one of the condition. `blocks`
    causal blocks follow, and a projection that starts at zero. With T tokens of width d, one pass costs
    about 24 T d^2 + 4 T^2 d operations a block (with expansion 4). `step` and `head` give the parameters of
    one token from the cached keys and values of those before it: T steps cost as many operations as one pass
    (attention twice as many), where without a cache they would cost T passes.

    With `within` each entry of a token sees the entries of the token before it as well, through one more
    hidden layer: the parameters of entry c are W act(A_c h + B m_c x_t + a_c), with h what the blocks give
    and m_c the mask of the entries before c.

    Hidden layers follow a mixed policy. A pass and the steps may round differently, and samples then differ
    from what a pass would give by as much. With the trained entry `test_tarflow` on the CPU data to latent to
    data errs by 3e-5 of the step between two pixel values at most, in float32 and under mixed_bfloat16.

    Args:
        hidden_size: d, the width of a token.
        blocks: transformer blocks.
        heads: attention heads, which divide `hidden_size`.
        expansion: width of each perceptron's hidden layer, in widths of a token.
        activation: of the perceptrons.
        within: whether an entry sees those before it in its own token.
        dropout: share of what attention and perceptrons add that is dropped in training
            (`flowzoo.networks.dropout`).
        **kwargs: of `Conditioner`.

    Raises:
        ValueError: a number is not a positive integer, `dropout` not in [0, 1), `heads` does not divide
            `hidden_size`; (when built) what is not [tokens, channels], or a condition that is not a vector.

    References:
        Vaswani et al., Attention Is All You Need (2017), https://arxiv.org/abs/1706.03762, equation 1;
        Zhai et al. (2024), https://arxiv.org/abs/2412.06329.
    """

    def __init__(
        self,
        hidden_size: int = 128,
        blocks: int = 2,
        heads: int = 4,
        expansion: int = 4,
        activation: Any = "gelu",
        within: bool = False,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(activation, **kwargs)
        self.dropout = checked_rate(dropout)
        self.within = bool(within)
        self.hidden_size = positive_int("hidden_size", hidden_size)
        self.blocks = positive_int("blocks", blocks)
        self.heads = positive_int("heads", heads)
        self.expansion = positive_int("expansion", expansion)
        if hidden_size % heads:
            raise ValueError(
                f"heads takes a number that divides hidden_size. Received: {heads} heads for {hidden_size}"
            )

    def _build(self) -> None:
        shape, entries = self.shapes["input_shape"], self.shapes["entry_shape"]
        if len(shape) != 2 or shape != entries:
            raise ValueError(f"CausalTransformer takes [tokens, channels]. Received: {self.shapes}")
        condition = self.shapes["condition_shape"]
        if condition is not None and len(condition) != 1:
            raise ValueError(
                f"CausalTransformer takes a vector or a class label as condition, and no image. "
                f"Received: condition_shape={tuple(condition)}"
            )
        tokens, channels = shape
        hidden = self.hidden_dtype()
        self.embedding = keras.layers.Dense(self.hidden_size, dtype=hidden, name="embedding")
        self.embedding.build((None, channels))
        self.position = self.add_weight(
            shape=(tokens, self.hidden_size),
            initializer=keras.initializers.RandomNormal(stddev=0.1),
            name="position",
        )
        self.condition_embedding = None
        if condition is not None:
            self.condition_embedding = keras.layers.Dense(self.hidden_size, dtype=hidden, name="condition")
            self.condition_embedding.build((None, *condition))
        self.stack = [
            CausalBlock(
                self.heads, self.expansion, self.activation, self.dropout, dtype=hidden, name=f"block_{i}"
            )
            for i in range(self.blocks)
        ]
        policy = self.dtype_policy
        self.last_norm = keras.layers.LayerNormalization(epsilon=1e-6, dtype=policy, name="last_norm")
        width = self._per_entry if self.within else channels * self._per_entry
        self.last = keras.layers.Dense(width, kernel_initializer="zeros", dtype=policy, name="last")
        for layer in [*self.stack, self.last_norm, self.last]:
            layer.build((None, self.hidden_size))
        if self.within:
            self.of_token = keras.layers.Dense(channels * self.hidden_size, dtype=hidden, name="of_token")
            self.of_token.build((None, self.hidden_size))
            self.of_entries = keras.layers.Dense(
                self.hidden_size, use_bias=False, dtype=hidden, name="of_entries"
            )
            self.of_entries.build((None, channels))
        # Shifts and log-scales themselves: 0.0032 of the 0.0042 bits/dim that eight bits cost 64x64 faces.
        self.last.kernel.needs_half = True

    def context(self, condition: tf.Tensor | None, keep: tf.Tensor | None = None) -> tf.Tensor | None:
        """Return the embedding of the condition, [batch, hidden_size], or None without one.

        Args:
            condition: [batch, size], or None.
            keep: a boolean an example, [batch]: where it is False the embedding is zero, which stands for
                no condition. None keeps all.
        """
        if condition is None:
            return None
        embedded = self.condition_embedding(condition)
        return embedded if keep is None else tf.where(keep[:, None], embedded, tf.zeros_like(embedded))

    def parameters(self, inputs: tf.Tensor, context: tf.Tensor | None) -> tf.Tensor:
        """Return the parameters of all tokens in one pass, [batch, tokens, channels, params_per_entry].

        Args:
            inputs: [batch, tokens, channels].
            context: what `context` returned.
        """
        before = tf.pad(inputs[:, :-1], [[0, 0], [1, 0], [0, 0]])
        x = self._embedded(before, tf.convert_to_tensor(self.position), context)
        for block in self.stack:
            x = block(x, tokens=inputs.shape[1])
        params = self.head(self.last_norm(x), tf.reshape(inputs, [-1, inputs.shape[-1]]))
        return tf.reshape(params, [-1, *inputs.shape[1:], self._per_entry])

    def head(self, features: tf.Tensor, token: tf.Tensor) -> tf.Tensor:
        """Return the parameters of a token's entries, [batch, channels, params_per_entry].

        Args:
            features: of the token, what the blocks and the last norm give, [batch, hidden_size].
            token: its entries, [batch, channels]. Entry c looks with `within` at those before c, and else at
                none.
        """
        channels = token.shape[-1]
        if not self.within:
            return tf.reshape(self.last(features), [-1, channels, self._per_entry])
        earlier = tf.range(channels)[None, :] < tf.range(channels)[:, None]
        seen = tf.where(earlier, token[:, None, :], tf.zeros([], token.dtype))
        entries = tf.reshape(
            self.of_entries(tf.reshape(seen, [-1, channels])), [-1, channels, self.hidden_size]
        )
        hidden = tf.reshape(self.of_token(features), [-1, channels, self.hidden_size]) + entries
        params = self.last(tf.reshape(self.activation(hidden), [-1, self.hidden_size]))
        return tf.reshape(params, [-1, channels, self._per_entry])

    def start(self, batch: Any) -> list[Cache]:
        """Return empty caches for the blocks.

        Args:
            batch: number of examples.
        """
        tokens = self.shapes["input_shape"][0]
        shape = [batch, self.heads, tokens, self.hidden_size // self.heads]
        dtype = self.stack[0].compute_dtype
        return [(tf.zeros(shape, dtype), tf.zeros(shape, dtype)) for _ in self.stack]

    def step(
        self, before: tf.Tensor, index: tf.Tensor, context: tf.Tensor | None, caches: list[Cache]
    ) -> tuple[tf.Tensor, list[Cache]]:
        """Return the features of token `index`, for `head`, and the caches with what it adds to them.

        Args:
            before: token `index` - 1, [batch, channels]; zeros for the first.
            index: [], the number of the token, counted from 0.
            context: what `context` returned.
            caches: what the step before returned, or `start`.

        Returns:
            Features [batch, hidden_size], and the caches.
        """
        x = self._embedded(before[:, None], tf.gather(self.position, index)[None], context)
        found = []
        for block, cache in zip(self.stack, caches, strict=True):
            x, cache = block.step(x, index, cache)
            found.append(cache)
        return self.last_norm(x), found

    @property
    def _per_entry(self) -> int:
        return self.shapes["params_per_entry"]

    def _embedded(self, before: tf.Tensor, position: tf.Tensor, context: tf.Tensor | None) -> tf.Tensor:
        """Return what the blocks get, [batch * tokens, hidden_size]."""
        x = self.embedding(tf.reshape(before, [-1, before.shape[-1]]))
        x = tf.reshape(x, [-1, before.shape[1], self.hidden_size]) + tf.cast(position, x.dtype)
        if context is not None:
            x = x + tf.cast(context, x.dtype)[:, None]
        return tf.reshape(x, [-1, self.hidden_size])

    def _run(self, inputs: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        return self.parameters(inputs, self.context(condition))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal network."""
        names = ("hidden_size", "blocks", "heads", "expansion", "within", "dropout")
        return super().get_config() | {name: getattr(self, name) for name in names}
