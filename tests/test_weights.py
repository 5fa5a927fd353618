"""Weights are used only when every byte of them is the one that was published."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from flowzoo import files, paths, weights
from flowzoo.errors import CorruptWeightsError, NoWeightsError
from flowzoo.files import staged_folder, write_atomic
from flowzoo.manifest import MANIFEST, parse_manifest
from tests.artifacts import make_artifact, tree

FILES = [
    "1/fingerprint.pb",
    "1/saved_model.pb",
    "1/variables/variables.data-00000-of-00001",
    "1/variables/variables.index",
    "card.json",
    "golden.npz",
    "samples.png",
]
SHA = "0" * 64


@pytest.fixture
def artifact(tmp_path):
    return make_artifact(tmp_path / "made")


@pytest.fixture
def places(tmp_path, monkeypatch):
    """An empty home and an empty saved_models/, and nowhere to download from."""
    home, packaged = tmp_path / "home", tmp_path / "flowzoo" / "_zoo" / "saved_models"
    packaged.mkdir(parents=True)
    monkeypatch.setenv("FLOWZOO_HOME", str(home))
    monkeypatch.delenv("FLOWZOO_BASE_URL", raising=False)
    monkeypatch.setattr(paths, "_PACKAGE", tmp_path / "flowzoo")
    return home / "models", packaged


class TestManifest:
    def test_it_lists_every_file_and_its_digest_is_returned(self, artifact):
        folder, digest = artifact
        manifest = weights.verify(folder, digest, "maf_moons")
        assert sorted(manifest.files) == FILES
        assert manifest.digest == digest
        assert weights.write_manifest(folder) == digest  # the same bytes again, not listing itself

    def test_sha256sum_agrees(self, artifact):
        folder, digest = artifact
        if shutil.which("sha256sum") is None:
            pytest.skip("no sha256sum here")
        done = subprocess.run(["sha256sum", "--strict", "-c", MANIFEST], cwd=folder, capture_output=True)
        assert done.returncode == 0, done.stderr
        printed = subprocess.run(["sha256sum", MANIFEST], cwd=folder, capture_output=True, text=True).stdout
        assert printed.split()[0] == digest

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "\n",
            f"{SHA}  a",  # the last line is cut off
            f"{SHA} a\n",
            f"{SHA[:-1]}  a\n",
            f"{SHA[:-1]}G  a\n",
            f"{SHA}  \n",
            f"{SHA}  /etc/passwd\n",
            f"{SHA}  ../a\n",
            f"{SHA}  a/../../b\n",
            f"{SHA}  a/./b\n",
            f"{SHA}  a//b\n",
            f"{SHA}  a/\n",
            f"{SHA}  a\\b\n",
            f"{SHA}  C:a\n",
            f"{SHA}  a%2e\n",
            f"{SHA}  a\r\n",
            f"{SHA}  {MANIFEST}\n",
            f"{SHA}  b\n{SHA}  a\n",
            f"{SHA}  a\n{SHA}  a\n",
            f"{SHA}  a\n{SHA}  a/b\n",
        ],
    )
    def test_what_is_no_manifest_is_refused(self, text):
        with pytest.raises(CorruptWeightsError):
            parse_manifest(text.encode())

    def test_a_file_with_an_odd_name_cannot_be_listed(self, artifact):
        folder, _ = artifact
        before = tree(folder)
        (folder / "a b").write_text("")
        with pytest.raises(ValueError, match="'a b'"):
            weights.write_manifest(folder)
        (folder / "a b").unlink()
        assert tree(folder) == before

    def test_an_empty_folder_has_no_manifest(self, tmp_path):
        with pytest.raises(ValueError, match="no files"):
            weights.write_manifest(tmp_path)


class TestVerify:
    @pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("path", [*FILES, MANIFEST])
    def test_one_flipped_bit_anywhere_is_found(self, artifact, path, place):
        folder, digest = artifact
        content = bytearray((folder / path).read_bytes())
        content[round(place * (len(content) - 1))] ^= 1
        (folder / path).write_bytes(content)
        with pytest.raises(CorruptWeightsError) as caught:
            weights.verify(folder, digest, "maf_moons")
        for part in (path, "delete", str(folder), "reinstall", "flowzoo train maf_moons"):
            assert part in str(caught.value)

    @pytest.mark.parametrize("size", [0, 0.5, -1])
    @pytest.mark.parametrize("path", [*FILES, MANIFEST])
    def test_a_truncated_file_is_found(self, artifact, path, size):
        folder, digest = artifact
        content = (folder / path).read_bytes()
        (folder / path).write_bytes(content[: int(size * len(content)) if size >= 0 else size])
        with pytest.raises(CorruptWeightsError, match=path):
            weights.verify(folder, digest, "maf_moons")

    @pytest.mark.parametrize("path", [*FILES, MANIFEST])
    def test_a_missing_file_is_found(self, artifact, path):
        folder, digest = artifact
        (folder / path).unlink()
        with pytest.raises(CorruptWeightsError, match=path):
            weights.verify(folder, digest, "maf_moons")

    @pytest.mark.parametrize("path", ["extra.txt", "1/extra.pb", ".hidden", "1/variables/variables.data-1"])
    def test_one_file_too_many_is_found(self, artifact, path):
        folder, digest = artifact
        (folder / path).write_text("")
        with pytest.raises(CorruptWeightsError, match=f"{path} is not listed"):
            weights.verify(folder, digest, "maf_moons")

    def test_a_link_to_a_folder_is_refused(self, artifact, tmp_path):
        folder, digest = artifact
        (folder / "more").symlink_to(tmp_path)
        with pytest.raises(CorruptWeightsError, match="more is not listed"):
            weights.verify(folder, digest, "maf_moons")

    def test_a_link_to_a_listed_file_is_read_through(self, artifact, tmp_path):
        folder, digest = artifact
        shutil.move(folder / "samples.png", tmp_path / "elsewhere.png")
        (folder / "samples.png").symlink_to(tmp_path / "elsewhere.png")
        assert weights.verify(folder, digest, "maf_moons").digest == digest

    def test_a_file_that_is_no_file_does_not_hang(self, artifact):
        folder, digest = artifact
        (folder / "samples.png").unlink()
        os.mkfifo(folder / "samples.png")
        with pytest.raises(CorruptWeightsError, match=r"samples\.png is missing"):
            weights.verify(folder, digest, "maf_moons")

    def test_the_folder_of_another_entry_is_refused(self, artifact, tmp_path):
        folder, digest = artifact
        other, other_digest = make_artifact(tmp_path / "other", "nice_moons", seed=1)
        shutil.rmtree(folder)
        shutil.copytree(other, folder)
        with pytest.raises(CorruptWeightsError, match="belongs to 'nice_moons'"):
            weights.verify(folder, digest, "maf_moons")
        with pytest.raises(CorruptWeightsError, match="belongs to 'nice_moons'"):
            weights.verify(folder, None, "maf_moons")
        assert weights.verify(folder, None, None).digest == other_digest

    def test_the_manifest_of_another_entry_is_refused(self, artifact, tmp_path):
        folder, digest = artifact
        other, other_digest = make_artifact(tmp_path / "other", "maf_moons", seed=1)
        shutil.copy(other / MANIFEST, folder / MANIFEST)
        for expected in (digest, other_digest, None):
            with pytest.raises(CorruptWeightsError):
                weights.verify(folder, expected, "maf_moons")

    def test_a_whole_retrained_entry_is_not_the_published_one(self, artifact):
        folder, digest = artifact
        (folder / "samples.png").write_bytes(b"other")
        new = weights.write_manifest(folder)
        assert weights.verify(folder, None, "maf_moons").digest == new
        with pytest.raises(CorruptWeightsError, match=f"expected SHA-256 {digest}, got {new}"):
            weights.verify(folder, digest, "maf_moons")

    @pytest.mark.parametrize("card", ["{", "[]", '{"title": "maf_moons"}', "[" * 200_000])
    def test_a_card_that_names_no_entry_is_refused(self, artifact, card):
        folder, _ = artifact
        (folder / "card.json").write_text(card)
        weights.write_manifest(folder)
        with pytest.raises(CorruptWeightsError):
            weights.verify(folder, None, "maf_moons")

    def test_what_to_do_with_a_folder_of_ones_own(self, artifact):
        folder, _ = artifact
        with pytest.raises(CorruptWeightsError, match="name the folder of these weights"):
            weights.verify(folder, None, "maf_power", given=True)
        (folder / "golden.npz").write_bytes(b"cut")
        with pytest.raises(CorruptWeightsError, match="copy the folder anew") as caught:
            weights.verify(folder, None, "maf_moons", given=True)
        assert "name the folder" not in str(caught.value) and "delete" not in str(caught.value)

    def test_no_folder_and_a_file_instead_of_one(self, tmp_path):
        with pytest.raises(CorruptWeightsError, match="No such file"):
            weights.verify(tmp_path / "nothing", None, "maf_moons")
        (tmp_path / "file").write_text("")
        with pytest.raises(CorruptWeightsError, match="Not a directory"):
            weights.verify(tmp_path / "file", None, "maf_moons")

    def test_many_differences_are_counted_not_all_told(self, artifact):
        folder, digest = artifact
        for index in range(20):
            (folder / f"extra{index}").write_text("")
        with pytest.raises(CorruptWeightsError, match="and 15 more"):
            weights.verify(folder, digest, "maf_moons")


class TestLocate:
    def test_the_order_is_path_home_packaged(self, places, tmp_path):
        home, packaged = places
        _, packaged_digest = make_artifact(packaged, seed=1)
        found = weights.locate("maf_moons", expected_digest=packaged_digest)
        assert (found.origin, found.folder) == ("packaged", packaged / "maf_moons")
        _, home_digest = make_artifact(home, seed=2)
        found = weights.locate("maf_moons", expected_digest=home_digest)
        assert (found.origin, found.folder) == ("home", home / "maf_moons")
        folder, digest = make_artifact(tmp_path / "own", seed=3)
        for source in (folder, f"path:{folder}"):
            found = weights.locate("maf_moons", expected_digest=home_digest, source=source)
            assert (found.origin, found.folder, found.manifest.digest) == ("path", folder, digest)

    def test_a_corrupt_copy_is_an_error_and_is_never_skipped(self, places):
        home, packaged = places
        _, digest = make_artifact(packaged)
        (home / "maf_moons").mkdir(parents=True)
        with pytest.raises(CorruptWeightsError, match=str(home / "maf_moons")):
            weights.locate("maf_moons", expected_digest=digest)
        shutil.rmtree(home / "maf_moons")
        assert weights.locate("maf_moons", expected_digest=digest).origin == "packaged"
        (packaged / "maf_moons" / "samples.png").write_bytes(b"")
        with pytest.raises(CorruptWeightsError, match=r"samples\.png"):
            weights.locate("maf_moons", expected_digest=digest)

    def test_a_corrupt_explicit_copy_is_refused(self, places, artifact):
        folder, digest = artifact
        (folder / "golden.npz").write_bytes(b"")
        with pytest.raises(CorruptWeightsError, match=r"golden\.npz"):
            weights.locate("maf_moons", expected_digest=digest, source=folder)

    def test_weights_of_the_users_own_need_no_published_digest(self, places):
        home, _ = places
        folder, _ = make_artifact(home)
        assert weights.locate("maf_moons", expected_digest=None).folder == folder

    def test_no_weights_say_how_to_train_them(self, places):
        with pytest.raises(NoWeightsError) as caught:
            weights.locate("maf_moons", expected_digest=None)
        for part in ("No weights are published for 'maf_moons'", "flowzoo train maf_moons", "flowzoo.train("):
            assert part in str(caught.value)

    def test_published_weights_that_are_not_here_say_where_they_were_looked_for(self, places):
        home, packaged = places
        with pytest.raises(NoWeightsError) as caught:
            weights.locate("maf_moons", expected_digest=SHA)
        looked = str(home / "maf_moons"), str(packaged / "maf_moons")
        for part in (*looked, "FLOWZOO_BASE_URL", "flowzoo train maf_moons"):
            assert part in str(caught.value)

    def test_text_that_is_no_path_scheme_is_refused_with_both_fixes(self, places, artifact, monkeypatch):
        folder, _ = artifact
        monkeypatch.chdir(folder.parent)
        for source in (str(folder), "maf_moons", "./maf_moons", "https://example.com", "path:", ""):
            with pytest.raises(ValueError, match="source='path:.*name of an entry") as caught:
                weights.locate("maf_moons", expected_digest=None, source=source)
            assert repr(source) in str(caught.value)
        with pytest.raises(TypeError, match="int"):
            weights.locate("maf_moons", expected_digest=None, source=3)

    def test_an_explicit_path_that_is_not_there(self, places, artifact):
        folder, _ = artifact
        with pytest.raises(NoWeightsError, match="Did you mean 'maf_moons'"):
            weights.locate("maf_moons", expected_digest=None, source=folder.parent / "maf_mons")
        with pytest.raises(NoWeightsError, match=f"give the folder above: {folder}"):
            weights.locate("maf_moons", expected_digest=None, source=folder / "1")

    @pytest.mark.parametrize("name", ["../maf_moons", "/etc", "maf", "Maf_Moons", "", None])
    def test_a_name_cannot_lead_out_of_the_folder(self, places, name):
        with pytest.raises(ValueError, match="name: received"):
            weights.locate(name, expected_digest=None)


class TestRead:
    def test_card_and_golden(self, artifact):
        folder, _ = artifact
        assert weights.read_card(folder) == {"name": "maf_moons", "seed": 0}
        golden = weights.read_golden(folder)
        assert {key: value.shape for key, value in golden.items()} == {"x": (4, 2), "log_prob": (4,)}

    @pytest.mark.parametrize("how", ["missing", "empty", "text", "array", "pickle", "cut", "flipped"])
    def test_golden_values_that_cannot_be_read(self, artifact, how):
        folder, _ = artifact
        path = folder / "golden.npz"
        content = path.read_bytes()
        path.unlink()
        if how == "pickle":
            np.savez(path, x=np.array([{}], dtype=object))
        elif how == "array":
            with open(path, "wb") as file:
                np.save(file, np.zeros(3))
        elif how != "missing":
            flipped = bytearray(content)
            flipped[len(content) // 4] ^= 255
            changed = {"empty": b"", "text": b"text", "cut": content[:-30], "flipped": bytes(flipped)}
            path.write_bytes(changed[how])
        with pytest.raises(CorruptWeightsError, match=r"golden\.npz"):
            weights.read_golden(folder)


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    """A SavedModel with twelve weights in a list, so that the tenth must not come before the second."""
    import tensorflow as tf

    class Model(tf.Module):
        pass

    model = Model()
    dtypes = [tf.float32, tf.float16, tf.bfloat16]
    model.weights = [tf.Variable(tf.fill([2, 3], tf.cast(i, dtypes[i % 3]))) for i in range(12)]
    model.other = tf.Variable(7.0)
    folder = tmp_path_factory.mktemp("model") / "1"
    tf.saved_model.save(model, str(folder))
    return folder


class TestVariables:
    def test_they_come_in_order_and_alone(self, saved_model):
        arrays = weights.read_variables(saved_model)
        assert [float(array[0, 0]) for array in arrays] == list(range(12))
        assert {array.shape for array in arrays} == {(2, 3)}
        assert [array.dtype.name for array in arrays[:3]] == ["float32", "float16", "bfloat16"]

    @pytest.mark.parametrize("file", ["variables.index", "variables.data-00000-of-00001"])
    @pytest.mark.parametrize("how", ["missing", "empty", "flipped"])
    def test_what_cannot_be_read_is_refused(self, saved_model, tmp_path, file, how):
        folder = tmp_path / "1"
        shutil.copytree(saved_model, folder)
        path = folder / "variables" / file
        content = bytearray(path.read_bytes())
        weight = np.full(6, 9, "float32").tobytes()
        content[content.index(weight) if "data" in file else len(content) // 2] ^= 255
        path.unlink() if how == "missing" else path.write_bytes(content if how == "flipped" else b"")
        with pytest.raises(CorruptWeightsError, match="variables/variables"):
            weights.read_variables(folder)

    def test_a_model_without_a_whole_list_of_weights_is_refused(self, tmp_path):
        import tensorflow as tf

        variables = tf.Variable(1.0), [tf.constant(0.0), tf.Variable(1.0)]  # no list; one without its first
        for number, value in enumerate(variables, start=1):
            model = tf.Module()
            model.weights = value
            tf.saved_model.save(model, str(tmp_path / str(number)))
            with pytest.raises(CorruptWeightsError, match="0 to n-1"):
                weights.read_variables(tmp_path / str(number))


@contextlib.contextmanager
def full_disk(limit=1000):
    """Makes every file end at `limit` bytes, for root as for anyone."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def leave_a_leftover(target):
    """Runs in a process of its own, which dies in the middle of its work."""
    with staged_folder(target) as folder:
        (folder / "half").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


class TestWholeOrNotAtAll:
    def test_a_manifest_that_does_not_fit_leaves_the_earlier_one(self, artifact):
        folder, _ = artifact
        for index in range(20):
            (folder / f"more{index}").write_text("")
        before = tree(folder)
        with full_disk(), pytest.raises(OSError, match=str(folder / MANIFEST)):
            weights.write_manifest(folder)
        assert tree(folder) == before

    def test_a_file_that_cannot_be_replaced_stays(self, tmp_path):
        path = tmp_path / "file"
        path.write_text("earlier")
        write_atomic(path, "later")
        assert path.read_text() == "later"
        with full_disk(), pytest.raises(OSError, match=str(path)):
            write_atomic(path, b"x" * 5000)
        assert path.read_text() == "later"
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"]

    def test_a_folder_that_takes_no_files(self, tmp_path):
        (tmp_path / "file").write_text("")
        for path in (Path("/proc/flowzoo"), tmp_path / "file" / "below", tmp_path / "nothing" / "file"):
            with pytest.raises(OSError, match=str(path)):
                write_atomic(path, "text")

    def test_a_staged_folder_appears_at_its_end_with_its_parents(self, tmp_path):
        target = tmp_path / "a" / "b"
        with staged_folder(target) as folder:
            (folder / "file").write_text("new")
            assert not target.exists()
        assert tree(tmp_path) == {"a/b/file": b"new"}

    def test_a_staged_folder_that_fails_leaves_nothing_or_the_earlier_one(self, tmp_path):
        target = tmp_path / "target"
        for earlier in ({}, {"target/file": b"earlier"}):
            with pytest.raises(RuntimeError), staged_folder(target, overwrite=True) as folder:
                (folder / "file").write_text("new")
                raise RuntimeError
            assert tree(tmp_path) == earlier
            with staged_folder(target, overwrite=True) as folder:
                (folder / "file").write_text("earlier")

    def test_an_earlier_folder_is_replaced_only_when_wanted(self, tmp_path):
        target = tmp_path / "target"
        for content in ("one", "two"):
            with staged_folder(target, overwrite=True) as folder:
                (folder / content).write_text(content)
        assert tree(tmp_path) == {"target/two": b"two"}
        with pytest.raises(FileExistsError, match="left as it is"), staged_folder(target):
            pytest.fail("an existing folder was offered for replacement")
        assert tree(tmp_path) == {"target/two": b"two"}

    def test_the_first_of_two_wins(self, tmp_path):
        target = tmp_path / "target"
        with pytest.raises(FileExistsError), staged_folder(target) as slow:
            with staged_folder(target) as fast:
                (fast / "fast").write_text("fast")
            assert slow.is_dir()  # the other one did not take it for a leftover
            (slow / "slow").write_text("slow")
        assert tree(tmp_path) == {"target/fast": b"fast"}

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_another_may_finish_at_the_very_moment_of_renaming(self, tmp_path, monkeypatch, overwrite):
        target, rename = tmp_path / "target", os.replace

        def be_second(source, goal):
            monkeypatch.setattr(files.os, "replace", rename)
            target.mkdir()
            (target / "fast").write_text("fast")
            rename(source, goal)

        outcome = (
            contextlib.nullcontext() if overwrite else pytest.raises(FileExistsError, match="left as it is")
        )
        with outcome, staged_folder(target, overwrite=overwrite) as folder:
            (folder / "slow").write_text("slow")
            monkeypatch.setattr(files.os, "replace", be_second)
        assert tree(tmp_path) == ({"target/slow": b"slow"} if overwrite else {"target/fast": b"fast"})

    def test_a_file_in_the_place_of_the_folder_is_not_replaced(self, tmp_path):
        (tmp_path / "target").write_text("file")
        for overwrite in (False, True):
            with pytest.raises(FileExistsError, match="a file of that name"):
                with staged_folder(tmp_path / "target", overwrite=overwrite):
                    pytest.fail("a file was offered for replacement")
        assert tree(tmp_path) == {"target": b"file"}

    def test_what_a_killed_process_left_is_deleted_by_the_next(self, tmp_path):
        spawn = multiprocessing.get_context("spawn")
        process = spawn.Process(target=leave_a_leftover, args=(tmp_path / "target",))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        left = tree(tmp_path)
        assert list(left.values()) == [b"half"]
        assert not (tmp_path / "target").exists()
        with staged_folder(tmp_path / "target") as folder:
            (folder / "whole").write_text("whole")
        assert tree(tmp_path) == {"target/whole": b"whole"}
