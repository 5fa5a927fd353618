"""TensorFlow Datasets: any data set that was prepared on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from flowzoo import paths
from flowzoo.data.catalog import register_source
from flowzoo.data.options import Count, Part, Share
from flowzoo.data.source import Source
from flowzoo.data.splits import split_range
from flowzoo.errors import DataError, MissingDataError, UnknownNameError, near_matches

if TYPE_CHECKING:
    import tensorflow as tf

_VALIDATION_NAMES = ("validation", "valid", "val", "dev")


def _write_example(folder: Path) -> Mapping[str, Any]:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def examples(count: int, seed: int) -> tf.data.Dataset:
        pixels = np.random.RandomState(seed).randint(0, 256, (count, 6, 6, 1)).astype(np.uint8)
        return tf.data.Dataset.from_tensor_slices({"image": pixels, "label": np.arange(count) % 3})

    image, label = tfds.features.Image(shape=(6, 6, 1)), tfds.features.ClassLabel(num_classes=3)
    tfds.dataset_builders.store_as_tfds_dataset(
        name="flowzoo_example",
        version="1.0.0",
        data_dir=folder,
        split_datasets={"train": examples(40, 0), "test": examples(10, 1)},
        features=tfds.features.FeaturesDict({"image": image, "label": label}),
        disable_shuffling=True,
    )
    return {"name": "flowzoo_example", "data_dir": folder, "feature": "image", "label": "label"}


@register_source(
    "tfds", kind="tfds", licence="as the data set's own", origin="TensorFlow Datasets", example=_write_example
)
def tfds(
    split: str,
    *,
    name: str,
    data_dir: Path | None = None,
    feature: str | None = None,
    label: str | None = None,
    size: Count | tuple[Count, Count] | None = None,
    crop: Literal["center"] | Count | Share | None = None,
    mirror: bool = False,
    bits: Count = 8,
    validation: Part = 0.1,
    test: Part = 0.1,
) -> Source:
    """A data set of TensorFlow Datasets that was prepared before; nothing is downloaded here.

    Args:
        split: Which split. What the data set does not have is taken from the end of its train split.
        name: The data set, as TFDS names it: `"celeb_a"`, `"imagenet_resized/32x32:0.1.0"`.
        data_dir: The folder of prepared data sets; by default `tensorflow_datasets/` in the data folders,
            then TFDS's own folder.
        feature: The feature that is x; by default the input of the data set's supervised pair, or else
            its only image.
        label: The feature that is the condition; by default the target of that pair, if x is its input.
        size: For images, the side, or height and width, to resize to.
        crop: For images, what to cut from the middle first: `"center"` for the largest square, a side, or a
            part of the shorter side.
        mirror: For images, whether the train split also has every image with left and right exchanged.
        bits: For images of bytes, how many bits of each value are kept.
        validation: The part of train that becomes validation where there is none, a fraction or a number.
        test: The part of train that becomes test where there is none, likewise.
    """
    import tensorflow as tf

    builder = _prepared_builder(name, data_dir)
    x_key, label_key = _features(builder.info, feature, label)
    stream = builder.as_dataset(split=_instruction(builder.info.splits, split, validation, test, name))
    to_size = (size, size) if isinstance(size, int) else size
    where = f"{name}, feature {x_key!r}"
    discrete = builder.info.features[x_key].np_dtype == np.uint8
    to_x = _converter(
        builder.info.features[x_key], to_size, crop, mirror, _fewer(bits, discrete, where), where
    )
    classes = None
    if label_key is None:
        stream = stream.map(lambda example: to_x(example[x_key]), num_parallel_calls=tf.data.AUTOTUNE)
    else:
        where = f"{name}, feature {label_key!r}"
        to_label, classes = _label_converter(builder.info.features[label_key], where)
        stream = stream.map(
            lambda example: (to_x(example[x_key]), to_label(example[label_key])),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    if mirror and split == "train":
        stream = stream.concatenate(stream.map(_mirrored, num_parallel_calls=tf.data.AUTOTUNE))
    licence = getattr(builder.info.redistribution_info, "license", None) or ""
    return Source(
        x=stream,
        num_values=2**bits if discrete else None,
        num_classes=classes,
        licence=licence,
        origin=f"TensorFlow Datasets, {builder.info.full_name}",
    )


def _prepared_builder(name: str, data_dir: Path | None) -> Any:  # noqa: ANN401
    import tensorflow_datasets as tfds

    folders: list[Path | None] = [data_dir]
    if data_dir is None:
        folders = [*(folder / "tensorflow_datasets" for folder in paths.data_dirs()), None]
    looked = []
    known = False
    for folder in folders:
        try:
            builder = tfds.builder(name, data_dir=folder)
        except tfds.core.DatasetNotFoundError:
            looked.append(str(folder or tfds.core.constants.DATA_DIR))
            continue
        except (ValueError, AssertionError) as error:
            raise DataError(f"TFDS cannot open {name!r}: {error}") from error
        if builder.is_prepared():
            return builder
        known = True
        looked.append(str(builder.data_path))
    raise _missing(name, data_dir, looked) if known else _unknown(name, looked)


def _missing(name: str, data_dir: Path | None, looked: list[str]) -> MissingDataError:
    folder = "" if data_dir is None else f", data_dir={str(data_dir)!r}"
    listed = "\n".join(f"  {path}" for path in dict.fromkeys(looked))
    prepare = f"tfds.builder({name!r}{folder}).download_and_prepare()"
    return MissingDataError(
        f"TFDS: {name!r} is not prepared. Prepare it once, where there is a network:\n"
        f'  python -c "import tensorflow_datasets as tfds; {prepare}"\n'
        "or, for files that you fetched by hand, pass\n"
        "  download_config=tfds.download.DownloadConfig(manual_dir=...)\n"
        f"Looked in:\n{listed}"
    )


def _unknown(name: str, looked: list[str]) -> UnknownNameError:
    import tensorflow_datasets as tfds

    listed = "\n".join(f"  {path}" for path in dict.fromkeys(looked))
    near = near_matches(name, tfds.list_builders(with_community_datasets=False))
    return UnknownNameError(
        f"TFDS knows no data set of that name, and none is prepared in:\n{listed}\n"
        f"Received: {name!r}.{near} tensorflow_datasets.list_builders() lists all."
    )


def _features(info: Any, feature: str | None, label: str | None) -> tuple[str, str | None]:  # noqa: ANN401
    """Chooses the features that are x and, if any, the condition."""
    # TFDS gives them in an order that changes from process to process.
    known = sorted(info.features)
    for key in (feature, label):
        if key is not None and key not in known:
            near = near_matches(key, known)
            raise DataError(f"TFDS {info.name!r}: no feature {key!r}.{near} It has: {known}.")
    pair = info.supervised_keys
    pair = pair if pair and all(isinstance(key, str) for key in pair[:2]) else (None, None)
    feature = feature or pair[0] or (known[0] if len(known) == 1 else _only_image(info.features))
    if feature is None:
        raise DataError(f"TFDS {info.name!r}: give the option feature, the name of x. It has: {known}.")
    return feature, label or (pair[1] if feature == pair[0] else None)


def _only_image(features: Mapping[str, Any]) -> str | None:
    import tensorflow_datasets as tfds

    images = [key for key in features if isinstance(features[key], tfds.features.Image)]
    return images[0] if len(images) == 1 else None


def _fewer(bits: int, discrete: bool, where: str) -> int:
    """Returns how many bits are dropped of each value."""
    if bits > 8 or (bits < 8 and not discrete):
        raise DataError(f"{where}: bits takes an integer from 1 to 8, for bytes. Received: {bits!r}")
    return 8 - bits


def _instruction(
    splits: Mapping[str, Any], split: str, validation: int | float, test: int | float, name: str
) -> str:
    """Says in TFDS's own words which examples a split has."""
    validation_name = next((known for known in _VALIDATION_NAMES if known in splits), "")
    own = {"train": "train", "test": "test", "validation": validation_name}
    if "train" not in splits:
        raise DataError(f"TFDS {name!r}: has no train split. It has: {', '.join(splits)}.")
    has = {key: own[key] in splits for key in ("validation", "test")}
    if has.get(split):
        return own[split]
    rows = split_range(
        splits["train"].num_examples,
        split,
        validation=0 if has["validation"] else validation,
        test=0 if has["test"] else test,
        where=f"TFDS {name!r}",
    )
    return f"train[{rows.start}:{rows.stop}]"


def _converter(
    feature: Any,  # noqa: ANN401
    size: tuple[int, int] | None,
    crop: Literal["center"] | int | float | None,
    mirror: bool,
    fewer: int,
    where: str,
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Makes the function from a feature's value to x.

    Bytes stay bytes, less the bits that are dropped; other numbers become float32.
    """
    dtype = np.dtype(feature.np_dtype)
    if dtype.kind not in "iuf":
        raise DataError(f"{where}: must hold numbers. Received: {dtype}")
    if (size or crop or mirror) and len(feature.shape) != 3:
        raise DataError(f"{where}: size, crop and mirror are for images. Received the shape: {feature.shape}")

    def convert(value: tf.Tensor) -> tf.Tensor:
        import tensorflow as tf

        value = _resized(value, size, crop) if size or crop else value
        value = tf.bitwise.right_shift(value, tf.constant(fewer, value.dtype)) if fewer else value
        return value if dtype == np.uint8 else tf.cast(value, tf.float32)

    return convert


def _mirrored(x: tf.Tensor, *label: tf.Tensor) -> Any:  # noqa: ANN401
    """Exchanges left and right of an image, whether it has a label or not."""
    import tensorflow as tf

    turned = tf.reverse(x, [1])
    return (turned, *label) if label else turned


def _resized(
    image: tf.Tensor, size: tuple[int, int] | None, crop: Literal["center"] | int | float | None
) -> tf.Tensor:
    import tensorflow as tf

    if crop is not None:
        shape = tf.shape(image)
        static = image.shape[:2].as_list()
        known: int | None = crop if isinstance(crop, int) else None
        side: Any = crop
        if not isinstance(crop, int):
            share = 1.0 if crop == "center" else float(crop)
            known = round(share * min(static)) if None not in static else None
            shorter = tf.cast(tf.minimum(shape[0], shape[1]), tf.float64)
            side = tf.cast(tf.round(tf.constant(share, tf.float64) * shorter), tf.int32)
        top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
        image = tf.image.crop_to_bounding_box(image, top, left, side, side)
        image = tf.ensure_shape(image, [known, known, image.shape[-1]])
    if size is None:
        return image
    resized = tf.image.resize(image, size, antialias=True)
    # 8-bit images are rounded back to their own type, as in a file.
    return tf.saturate_cast(tf.round(resized), image.dtype) if image.dtype == tf.uint8 else resized


def _label_converter(
    feature: Any,  # noqa: ANN401
    where: str,
) -> tuple[Callable[[tf.Tensor], tf.Tensor], int | None]:
    import tensorflow as tf

    dtype = np.dtype(feature.np_dtype)
    if dtype.kind not in "iuf":
        raise DataError(f"{where}: a condition must hold numbers. Received: {dtype}")
    target = tf.float32 if dtype.kind == "f" else tf.int32
    return lambda value: tf.cast(value, target), getattr(feature, "num_classes", None)
