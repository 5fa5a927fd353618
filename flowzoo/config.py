"""What one entry of the zoo is made of: model, data, training recipe, card texts and weights.

An entry is one YAML file in `zoo_configs/`, read strictly: an unknown key, a wrong type or a value out of
range is an error that names the file, the key and what is accepted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo

from flowzoo.config_errors import problems
from flowzoo.errors import ConfigError
from flowzoo.plain_data import plain_copy
from flowzoo.strict_yaml import read_yaml

NAME_PATTERN = r"^[a-z][a-z0-9]*(_[a-z0-9]+)+$"

Unit = Literal["bits_per_dim", "nats"]
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
# YAML has lists and no tuples: the list itself is converted, what stands in it stays strict.
Shape = Annotated[tuple[Count, ...], Field(strict=False)]
# Copied, because pydantic would keep the caller's own lists and mappings.
Arguments = Annotated[dict[str, Any], AfterValidator(plain_copy)]


class _Part(BaseModel):
    """Any part of an entry: nothing unknown, nothing converted, nothing changed afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ModelConfig(_Part):
    """The architecture of an entry.

    Attributes:
        family: The model family, a name that `flowzoo.models` knows.
        event_shape: The shape of one example, or None when the user gives it at build.
        condition_shape: The shape of the condition of one example, or None without one.
        num_classes: The number of class labels, where the condition is a label.
        args: Arguments of the family's constructor.
    """

    family: Text
    event_shape: Annotated[Shape, Field(min_length=1)] | None
    condition_shape: Shape | None = None
    num_classes: Count | None = None
    args: Arguments = {}


class DataConfig(_Part):
    """The data set of an entry.

    Attributes:
        source: The name of the source, as `flowzoo.data.list_sources()` gives it.
        options: Arguments of the source.
        conditional: Whether the source's labels are given to the model as its condition.
        measured_on: The split on which the card's figures are measured. A set without a test split is
            measured on its validation split; the recipe should then keep the last weights, not the best.
    """

    source: Text
    options: Arguments = {}
    conditional: bool = False
    measured_on: Literal["test", "validation"] = "test"


class OptimizerConfig(_Part):
    """The optimizer and its learning rate.

    Attributes:
        name: The optimizer.
        learning_rate: The highest learning rate.
        schedule: How it falls after the warm-up: not, along a cosine, or (trapezoid) linearly over the last
            steps alone, so that how long the training lasts can be decided late.
        warmup_steps: Steps in which it rises linearly from zero.
        cooldown: The fraction of the steps over which the rate of a trapezoid falls.
        final_fraction: The fraction of `learning_rate` at which it ends.
        decay_epochs: The epochs that the whole schedule takes, or None for all of the training; a training
            that ends before it ends at a higher rate.
        weight_decay: Decoupled weight decay.
        clip_norm: The largest global norm of a gradient, or None for no clipping.
    """

    name: Literal["adam", "adamw", "adamax", "sgd"] = "adam"
    learning_rate: float = Field(default=1e-3, gt=0)
    schedule: Literal["constant", "cosine", "trapezoid"] = "cosine"
    warmup_steps: int = Field(default=0, ge=0)
    cooldown: float = Field(default=0.3, gt=0, le=1)
    final_fraction: float = Field(default=0.0, ge=0, le=1)
    decay_epochs: Count | None = None
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: Annotated[float, Field(gt=0)] | None = None


class ReflowConfig(_Part):
    """A training on the noises and samples of a teacher in place of data: a rectified flow.

    The student starts from the teacher's weights. The pairs are made once, from the seed.

    Attributes:
        teacher: An entry with weights, or "path:DIR".
        num_pairs: Pairs to train on.
        held_out: Further pairs, on which the validation loss is measured.
        still: Further pairs to train on, images of a single colour that stay where they are: such an image is
            both ends of its pair, so that the flow inverts on them as well.
        solver: Solves the teacher's equation, or None for the teacher's own solver.
        steps: Of a solver of fixed steps, or None for the teacher's own.
        guidance: The weight of the teacher's guidance, or None for its own.
        seed: Of the noises and of their conditions.
        one_step: Whether one Euler step learns the whole way. What comes of it samples and has no density
            (`one_step: true` among the model's arguments).
    """

    teacher: Text
    num_pairs: Annotated[int, Field(ge=1, le=2**23)]
    held_out: Annotated[int, Field(ge=1, le=2**23)] = 1024
    still: Annotated[int, Field(ge=0, le=2**23)] = 0
    solver: Literal["euler", "midpoint", "heun", "rk4", "dopri5"] | None = None
    steps: Count | None = None
    guidance: Annotated[float, Field(ge=-1)] | None = None
    seed: Seed = 0
    one_step: bool = False

    def check(self, model: ModelConfig) -> None:
        """Raises ValueError for a model that cannot be the student."""
        if model.family != "flow_matching":
            raise ValueError(f"reflow trains the family flow_matching alone; received: {model.family!r}")
        args = {"coupling": "independent", **model.args}
        for key, value in self.student.items():
            if args.get(key) != value:
                asked = "reflow.one_step" if key in ("solver", "steps", "one_step") else "reflow"
                raise ValueError(
                    f"{asked} asks for model.args.{key} to be {value!r}; received: {args.get(key)!r}"
                )

    @property
    def student(self) -> dict[str, Any]:
        """The arguments that the student's model must have."""
        one = {"solver": "euler", "steps": 1, "one_step": True} if self.one_step else {}
        return {"path": "rectified", "coupling": "independent", **one}


class TrainingConfig(_Part):
    """The recipe that repeats the training of the published weights.

    Attributes:
        epochs: Passes over the training split.
        batch_size: Examples a step.
        seed: Decides the initial weights, the order of the data and all noise.
        optimizer: The optimizer and its learning rate.
        ema: The decay of an exponential moving average of the weights, or None without one.
        jit_compile: Whether the step is compiled by XLA; "auto" chooses by model and device.
        steps_per_epoch: Steps an epoch, or None for one pass over the data.
        validation_batch_size: Examples a validation step, or None for `batch_size`.
        patience: Epochs without a better validation loss after which training stops, or None to never stop.
        keep: Which weights are kept: those of the best validation loss or the last ones.
        precision: Of the hidden layers in training; weights, latents and log-determinants are float32 always,
            and so are solvers and all of the published flow: a velocity computes in bfloat16 in the loss of
            flow matching, and where samples are drawn by fixed steps. "mixed_bfloat16" is for GPUs.
        round_trip_every: Epochs between two measurements of the round trip (of a continuous flow they can
            take as long as an epoch). Of mixed precision none are made: what is published is float32.
        outliers: Share of the training images that are replaced by noise and single colours
            (`flowzoo.data.outliers`), so that the flow inverts on these as well; 0 for none.
        reflow: The teacher and the pairs that a rectified flow learns from, or None to learn from data.
    """

    epochs: Count
    batch_size: Count
    seed: Seed = 0
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    jit_compile: bool | Literal["auto"] = "auto"
    steps_per_epoch: Count | None = None
    validation_batch_size: Count | None = None
    patience: Count | None = None
    keep: Literal["best", "last"] = "best"
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    round_trip_every: Count = 1
    outliers: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    reflow: ReflowConfig | None = None

    @pydantic.field_validator("reflow")
    @classmethod
    def _on_pairs_alone(cls, reflow: ReflowConfig | None, others: ValidationInfo) -> ReflowConfig | None:
        if reflow is not None and others.data.get("outliers"):
            received = f"received: outliers {others.data['outliers']:g}"
            raise ValueError(f"pairs take no outliers (reflow.still holds single colours); {received}")
        return reflow


class Published(_Part):
    """A figure that others have published for the same model and data.

    Attributes:
        value: The figure.
        unit: Its unit.
        source: Where it is published.
    """

    value: float
    unit: Unit
    source: Text


class CardConfig(_Part):
    """What people write on the model card; what is measured is added by the training.

    Attributes:
        metric: The unit in which the entry is measured.
        published: Figures to compare with.
        licence: The licence of the weights.
        data_licence: The licence of the data.
        limits: What the model cannot do; at least one thing.
        citation: The papers and data sets to cite.
        notes: Anything else.
        temperature: At which the card advises to sample; its sheet of samples is drawn so.
    """

    metric: Unit
    published: list[Published] = []
    licence: Text = "Apache-2.0"
    data_licence: Text
    limits: Annotated[list[Text], Field(min_length=1)]
    citation: list[Text]
    notes: list[Text] = []
    temperature: Annotated[float, Field(gt=0)] = 1.0


class WeightsConfig(_Part):
    """The published weights of an entry.

    Attributes:
        dtype: The type in which they are stored.
        sha256: The SHA-256 of the entry's SHA256SUMS file, or None while no weights are published.
    """

    dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32"
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


class EntryConfig(_Part):
    """One entry of the zoo.

    Attributes:
        name: `<architecture>_<dataset>` in lower case; the stem of the entry's file.
        description: One sentence for the list of models.
        model: The architecture.
        data: The data set, or None when the user brings it.
        training: The training recipe.
        card: The texts of the model card.
        weights: The published weights.
    """

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    description: Text
    model: ModelConfig
    data: DataConfig | None = None
    training: TrainingConfig
    card: CardConfig
    weights: WeightsConfig = WeightsConfig()

    @pydantic.field_validator("training")
    @classmethod
    def _can_reflow(cls, training: TrainingConfig, others: ValidationInfo) -> TrainingConfig:
        if training.reflow is not None and "model" in others.data:
            training.reflow.check(others.data["model"])
        return training


def check_name(name: object) -> None:
    """Raises ValueError for what cannot be the name of an entry, and thus not that of its folder either."""
    if not isinstance(name, str) or re.fullmatch(NAME_PATTERN, name) is None:
        raise ValueError(
            f"name: received {name!r}; accepted: an entry's name, <architecture>_<dataset> in lower case."
        )


def parse_config(content: Mapping[str, Any], origin: str = "the configuration") -> EntryConfig:
    """Reads an entry from plain data.

    Args:
        content: The keys of an entry, as its YAML file has them.
        origin: Where it comes from, for the error.

    Returns:
        The entry.

    Raises:
        ConfigError: A key is unknown or missing, or a value is not accepted. All problems are listed.
    """
    if not isinstance(content, Mapping):
        received = "nothing (it is empty)" if content is None else f"{type(content).__name__}"
        accepted = ", ".join(EntryConfig.model_fields)
        raise ConfigError(f"{origin}: received {received}; accepted: a mapping with the keys {accepted}.")
    try:
        return EntryConfig.model_validate(dict(content))
    except ValidationError as error:
        raise ConfigError(_message(origin, problems(EntryConfig, error))) from error


def load_config(path: str | os.PathLike[str]) -> EntryConfig:
    """Reads an entry from its YAML file.

    Args:
        path: The file; its stem must be the name of the entry.

    Returns:
        The entry.

    Raises:
        ConfigError: The file is missing or is not valid YAML, a key is unknown or missing, or a value is not
            accepted. The message names the file, the key, what was received and what is accepted.
    """
    path = Path(path)
    content: Any = read_yaml(path)
    config = parse_config(content, str(path))
    if config.name != path.stem:
        raise ConfigError(f"{path}: name: received {config.name!r}; accepted: {path.stem!r}, as the file.")
    return config


def _message(origin: str, found: Iterator[str]) -> str:
    lines = list(found)
    if len(lines) == 1:
        return f"{origin}: {lines[0]}"
    return "\n  - ".join([f"{origin}: {len(lines)} problems:", *lines])
