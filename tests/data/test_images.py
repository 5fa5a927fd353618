"""Folders and archives of images: the same pictures whatever holds them, and nothing unsafe."""

from __future__ import annotations

import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from flowzoo.data import SPLITS, archives, open_source, pipeline
from flowzoo.errors import DataError, MissingDataError

COUNT = 20


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def pixels():
    return np.random.RandomState(0).randint(0, 256, (COUNT, 6, 8, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def files(pixels):
    """Names to contents; not every one is an image that counts."""
    images = {f"faces/{number:03d}.png": png(pixels[number]) for number in range(COUNT)}
    return {**images, "faces/list.txt": b"no image", "__MACOSX/faces/._000.png": b"x", ".hidden/a.png": b"x"}


def write_tar(path, files, mode):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_folder(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


WRITERS = {
    "folder": write_folder,
    "images.zip": write_zip,
    "images.tar": lambda path, files: write_tar(path, files, "w"),
    "images.tar.gz": lambda path, files: write_tar(path, files, "w:gz"),
    "images.tar.xz": lambda path, files: write_tar(path, files, "w:xz"),
}


@pytest.fixture(params=WRITERS)
def path(request, tmp_path, files):
    return WRITERS[request.param](tmp_path / request.param, files)


def test_same_pictures_whatever_holds_them(path, pixels):
    parts = [np.asarray(open_source("image_folder", split, path=path).x) for split in SPLITS]
    assert [len(part) for part in parts] == [16, 2, 2]
    np.testing.assert_array_equal(np.concatenate(parts), pixels)


@pytest.mark.parametrize("cache", [True, False])
def test_decoded_by_row_in_the_pipeline(path, pixels, cache):
    source = open_source("image_folder", path=path, cache=cache)
    dataset = pipeline(source, 5, shuffle=True, seed=0)
    for _ in range(2):
        seen = np.concatenate([batch.numpy() for batch in dataset])
        assert {image.tobytes() for image in seen} == {image.tobytes() for image in pixels[:16]}
    np.testing.assert_array_equal(source.x[3], pixels[3])
    np.testing.assert_array_equal(source.x[np.array([4, 2, 4])], pixels[[4, 2, 4]])


def test_decoded_once_if_kept(tmp_path, files):
    folder = write_folder(tmp_path, files)
    kept = open_source("image_folder", path=folder).x
    fresh = open_source("image_folder", path=folder, cache=False).x
    first = kept[:]
    for file in folder.rglob("*.png"):
        file.unlink()
    np.testing.assert_array_equal(kept[:], first)
    with pytest.raises(DataError, match="faces/000.png cannot be read"):
        fresh[:]


def test_crop_and_size(tmp_path, pixels, files):
    folder = write_folder(tmp_path, files)
    square = open_source("image_folder", path=folder, crop="center").x
    np.testing.assert_array_equal(square[:], pixels[:16, :, 1:7])
    small = open_source("image_folder", path=folder, crop=4).x
    np.testing.assert_array_equal(small[:], pixels[:16, 1:5, 2:6])
    np.testing.assert_array_equal(open_source("image_folder", path=folder, crop=0.67).x[:], small[:])
    # Of the smallest part of a picture a pixel is left, not a black nothing.
    pixel = open_source("image_folder", path=folder, crop=0.01, size=1).x
    np.testing.assert_array_equal(pixel[:], pixels[:16, 2:3, 3:4])
    assert open_source("image_folder", path=folder, size=5).event_shape == (5, 5, 3)
    assert open_source("image_folder", path=folder, size=[3, 9]).event_shape == (3, 9, 3)
    assert open_source("image_folder", path=folder, channels=1).event_shape == (6, 8, 1)
    with pytest.raises(DataError, match="8x6 pixels, smaller than the crop of 7"):
        open_source("image_folder", path=folder, crop=7)


def test_split_by_counts(path):
    sizes = [open_source("image_folder", split, path=path, validation=3, test=5).size for split in SPLITS]
    assert sizes == [12, 3, 5]


def test_folders_as_labels(tmp_path, pixels):
    names = [f"{'cat' if number < 10 else 'dog'}/{number}.png" for number in range(COUNT)]
    write_folder(tmp_path, {name: png(image) for name, image in zip(names, pixels, strict=True)})
    for split, each in zip(SPLITS, (8, 1, 1), strict=True):
        source = open_source("image_folder", split, path=tmp_path, labels=True)
        assert source.num_classes == 2
        np.testing.assert_array_equal(source.condition, np.repeat([0, 1], each))
        cats = {image.tobytes() for image in pixels[:10]}
        is_cat = [image.tobytes() in cats for image in source.x[:]]
        np.testing.assert_array_equal(is_cat, source.condition == 0)
    with pytest.raises(DataError, match="needs a folder for each class"):
        open_source("image_folder", path=tmp_path / "cat", labels=True)


@pytest.mark.parametrize(
    "name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "C:\\evil.png", "..\\x.txt"]
)
@pytest.mark.parametrize("archive", ["images.zip", "images.tar", "images.tar.gz"])
def test_unsafe_archives_are_refused(name, archive, tmp_path, files):
    bad = WRITERS[archive](tmp_path / archive, {**files, name: files["faces/000.png"]})
    with pytest.raises(DataError, match="unsafe archive"):
        open_source("image_folder", path=bad)


def test_links_in_an_archive_are_not_followed(tmp_path, files):
    path = write_tar(tmp_path / "images.tar", files, "w")
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("faces/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert open_source("image_folder", path=path).size == 16


def test_too_large_members_are_refused(tmp_path, files, monkeypatch):
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 10)
    with pytest.raises(DataError, match="at most 10 are read"):
        open_source("image_folder", path=write_zip(tmp_path / "images.zip", files))


@pytest.mark.parametrize("archive", ["images.zip", "images.tar", "images.tar.gz", "images.tar.xz"])
def test_truncated_archives(archive, tmp_path, files):
    path = WRITERS[archive](tmp_path / archive, files)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 3])
    with pytest.raises(DataError, match=archive):
        np.asarray(open_source("image_folder", path=path).x)


def test_corrupt_image_names_the_file_even_in_the_pipeline(tmp_path, files):
    folder = write_folder(tmp_path, files)
    (folder / "faces/007.png").write_bytes(files["faces/007.png"][:60])
    source = open_source("image_folder", path=folder)
    with pytest.raises(DataError, match="faces/007.png: cannot be decoded"):
        source.x[:]
    with pytest.raises(Exception, match="faces/007.png: cannot be decoded"):
        list(pipeline(source, 4, shuffle=False, seed=0))


def test_sizes_that_differ(tmp_path, files, pixels):
    folder = write_folder(tmp_path, {**files, "faces/005.png": png(pixels[0, :3])})
    with pytest.raises(DataError, match=r"005.png has the shape \(3, 8, 3\).*option size"):
        open_source("image_folder", path=folder).x[:]
    assert open_source("image_folder", path=folder, size=4).x[:].shape == (16, 4, 4, 3)


def test_nothing_there(tmp_path):
    with pytest.raises(MissingDataError, match="FLOWZOO_DATA"):
        open_source("image_folder", path=tmp_path / "nowhere")
    with pytest.raises(DataError, match="no images in it"):
        open_source("image_folder", path=tmp_path)
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(DataError, match="neither a folder nor.* images end in .*.jpg"):
        open_source("image_folder", path=tmp_path / "text.zip")


def test_turned_photographs_stand_upright(tmp_path, pixels):
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: to be turned clockwise
    for number in range(COUNT):
        Image.fromarray(pixels[number]).save(tmp_path / f"{number:02d}.png", exif=turned)
    images = open_source("image_folder", path=tmp_path).x[:]
    np.testing.assert_array_equal(images, np.rot90(pixels[:16], -1, axes=(1, 2)))


def test_mirror_images_follow_the_images_of_the_train_split(tmp_path, pixels, files):
    folder = write_folder(tmp_path, files)
    options = {"path": folder, "validation": 3, "test": 5}
    train = open_source("image_folder", "train", mirror=True, **options)
    assert train.size == 24
    np.testing.assert_array_equal(train.x[12:], pixels[:12, :, ::-1])
    np.testing.assert_array_equal(train.x[[1, 13]], [pixels[1], pixels[1, :, ::-1]])
    np.testing.assert_array_equal(train.x[13], pixels[1, :, ::-1])
    assert open_source("image_folder", "validation", mirror=True, **options).size == 3
    batch = next(iter(pipeline(train, 24, shuffle=False, seed=0))).numpy()
    np.testing.assert_array_equal(batch[12:], pixels[:12, :, ::-1])


def test_fewer_bits(tmp_path, pixels, files):
    folder = write_folder(tmp_path, files)
    source = open_source("image_folder", "train", path=folder, bits=5)
    assert source.num_values == 32
    np.testing.assert_array_equal(source.x[:4], pixels[:4] // 8)
    with pytest.raises(DataError, match="bits"):
        open_source("image_folder", "train", path=folder, bits=9)
    with pytest.raises(DataError, match="bits"):
        open_source("image_folder", "train", path=folder, bits=0)
