"""Every kind of note: some input produces it, and it is one line with the number and the names."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from rgjax.artifacts import notes_on_groups
from rgjax.config import method_config
from rgjax.data import load_data
from rgjax.data.ham10000 import read_download
from rgjax.data.notes import KINDS, Note, note
from rgjax.regroup import Regrouping, regroup
from rgjax.training.inputs import network_inputs
from tests.support import isic
from tests.support.data import data_config
from tests.support.finished import config_of, text_in
from tests.support.pictures import tiff


def write_images(folder, *, count=9):
    """A folder with images of noise in each of two classes."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).save(folder / name / f"{i}.png")
    return folder


def notes_of(place, name="images", **changes):
    settings = {"manual_dir": str(place), "split": "auto", "image_size": 8} | changes
    return load_data(data_config(name, **settings)).notes


def stray_file(folder):
    write_images(folder / "data")
    (folder / "data" / "readme.txt").write_text("")
    return notes_of(folder / "data")


def other_file(folder):
    write_images(folder / "data")
    (folder / "data" / "dog" / "size.txt").write_text("")
    return notes_of(folder / "data")


def unreadable_image(folder):
    write_images(folder / "data")
    (folder / "data" / "cat" / "3.png").write_bytes(b"\x89PNG")
    return notes_of(folder / "data", unreadable="skip")


def other_kind(folder):
    write_images(folder / "data")
    (folder / "data" / "dog" / "IMG_1.HEIC").write_bytes(b"x")
    return notes_of(folder / "data")


def hidden_file(folder):
    write_images(folder / "data")
    Image.new("L", (8, 8)).save(folder / "data" / "dog" / "._1.png")
    return notes_of(folder / "data")


def hidden_folder(folder):
    write_images(folder / "data")
    write_images(folder / "data" / "cat" / ".old")
    return notes_of(folder / "data")


def hidden_class(folder):
    write_images(folder / "data")
    (folder / "data" / "dog").rename(folder / "data" / ".net")
    return notes_of(folder / "data")


def system_folder(folder):
    write_images(folder / "data")
    write_images(folder / "data" / ".Trash-1000")
    return notes_of(folder / "data")


def no_suffix(folder):
    write_images(folder / "data")
    (folder / "data" / "cat" / "3.png").rename(folder / "data" / "cat" / "3")
    return notes_of(folder / "data")


def rescaled_image(folder):
    write_images(folder / "data")
    (folder / "data" / "cat" / "float.tif").write_bytes(tiff(np.linspace(0, 1, 64, dtype="f4").reshape(8, 8)))
    return notes_of(folder / "data")


def first_frame(folder):
    write_images(folder / "data")
    pages = [Image.effect_noise((8, 8), 50) for _ in range(3)]
    pages[0].save(folder / "data" / "dog" / "pages.tif", save_all=True, append_images=pages[1:])
    return notes_of(folder / "data")


def blank_image(folder):
    write_images(folder / "data")
    Image.new("RGB", (8, 8), "red").save(folder / "data" / "cat" / "red.png")
    return notes_of(folder / "data")


def mask(folder):
    isic.mask(isic.download_of(folder) / "masks" / f"{isic.NAMES[0]}.png")
    return read_download(folder).notes


def equal_file(folder):
    isic.photographs(isic.download_of(folder) / "again", isic.NAMES[:2])
    return read_download(folder).notes


def unlisted_image(folder):
    isic.photographs(isic.download_of(folder) / "more", ["ISIC_0099999"])
    return read_download(folder).notes


def manipulated_image(folder):
    return read_download(isic.archive(folder)).notes


def foreign_diagnosis(folder):
    return manipulated_image(folder)


def no_lesion(folder):
    isic.photographs(folder)
    isic.one_hot(folder / isic.TRUTH_2018, isic.COLUMNS_2018, [label.upper() for label in isic.LABELS])
    return read_download(folder).notes


def cut_text(folder):
    settings = text_in(folder) | {"data.max_length": 8}
    _, dataset, _ = network_inputs(config_of("ce", **settings), load_data(config_of("ce", **settings).data), None)
    return dataset.notes


TEXTS = [f"sentence number {i}" for i in range(24)]


def texts_in(folder, rows=(), *, head="text,label\n", name="data.csv", delimiter=",", **changes):
    """The notes on a table of a few good rows and `rows`."""
    good = [f"{text}{delimiter}{'ab'[i % 2]}" for i, text in enumerate(TEXTS)]
    (folder / name).write_text(head.replace(",", delimiter) + "\n".join([*good, *rows]))
    return notes_of(folder / name, "text", **changes)


def unreadable_row(folder):
    return texts_in(folder, [",a", "two,three,b"], unreadable="skip")


def comment_line(folder):
    return texts_in(folder, head="# exported\ntext,label\n")


def repeated_header(folder):
    return texts_in(folder, ["text,label"])


def literal_quote(folder):
    return texts_in(folder, ['"unbalanced\ta'], name="data.tsv", delimiter="\t")


def backslash_quotes(folder):
    return texts_in(folder, ['"she said \\"up\\"",a'])


def spaced_quotes(folder):
    return texts_in(folder, ['"one, or two", "a"'])


def joined_class(folder):
    return texts_in(folder, ["one, a", "two,b "])


def near_class(folder):
    return texts_in(folder, [f"text {i},A" for i in range(9)])


def null_class(folder):
    return texts_in(folder, [f"text {i},None" for i in range(9)])


def near_path(folder):
    write_images(folder)
    names = [f"{name}/{i}.{suffix}" for name, suffix in (("cat", "PNG"), ("Dog", "png")) for i in range(9)]
    (folder / "data.csv").write_text("path,label\n" + "\n".join(f"{name},{name[:3]}" for name in names))
    return notes_of(folder / "data.csv")


def notes_on_random_groups(folder, min_size):
    """Of 24 training examples of a class, and two of another."""
    config = data_config("images", manual_dir=str(write_images(folder / "data", count=9)), image_size=8)
    dataset = load_data(config)
    dataset = replace(dataset, labels=np.repeat([0, 1], [24, 2]), train=np.arange(26))
    settings = method_config("rg", {"regroup.min_size": min_size}).regroup
    grouping = regroup(None, dataset.labels, clustering="random", rule="ratio", min_size=min_size)
    if min_size == 0:  # K-means leaves an example alone
        pseudo_labels = np.concatenate([[0], np.arange(23) % 3 + 1, [4, 4]]).astype(np.int32)
        grouping = Regrouping(pseudo_labels, np.array([0, 0, 0, 0, 1], np.int32))
    return notes_on_groups(grouping, dataset, settings, "kmeans")


def fewer_groups(folder):
    notes = notes_on_random_groups(folder, 8)
    assert [str(note).split(";")[0] for note in notes] == [
        "9 groups fewer than config.regroup.rule asks for, as a class has at most 1000, each of at least "
        "8 examples: cat 3 instead of 12"
    ]
    return notes


def single_example(folder):
    notes = notes_on_random_groups(folder, 0)
    assert [str(note).split(";")[0] for note in notes] == ["1 group of a single example"]
    return notes


def single_subclass(folder):
    dataset = load_data(data_config("images", manual_dir=str(write_images(folder / "data")), image_size=8))
    dataset = replace(dataset, labels=np.repeat([0, 1], [4, 2]), train=np.arange(6))
    grouping = Regrouping(
        np.array([0, 1, 1, 1, 2, 2], np.int32), np.array([0, 0, 1], np.int32), names=("lion", "lynx", "")
    )
    return notes_on_groups(grouping, dataset, method_config("rg", {}).regroup, "given")


def outside_folds(folder):
    write_images(folder / "data" / "train")
    write_images(folder / "data" / "test", count=2)
    notes = notes_of(folder / "data", folds=3)
    assert str(notes[0]).startswith("4 examples of the official test set, in no fold; config.data.split=stratified")
    return notes


# From a kind to a function that writes an input into a folder, reads it as a run does, and returns the notes.
_MAKERS = [
    stray_file, other_file, other_kind, hidden_file, hidden_folder, hidden_class, system_folder, no_suffix,
    unreadable_image, rescaled_image, first_frame, blank_image,
    mask, equal_file, unlisted_image, manipulated_image, foreign_diagnosis, no_lesion, cut_text,
    unreadable_row, comment_line, repeated_header, literal_quote, backslash_quotes, spaced_quotes,
    joined_class, near_class, null_class, near_path, fewer_groups, single_example, single_subclass,
    outside_folds,
]  # fmt: skip
MAKERS = {maker.__name__: maker for maker in _MAKERS}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_noted_for_some_input(kind, tmp_path):
    notes = MAKERS[kind](tmp_path)
    assert kind in [note.kind for note in notes]
    assert all(str(note).isprintable() and len(str(note)) < 400 for note in notes)


def test_no_maker_makes_an_unknown_kind():
    assert set(MAKERS) == set(KINDS)


def test_plain_data_have_no_note(tmp_path):
    assert notes_of(write_images(tmp_path / "data")) == ()


def test_the_line_has_the_number_and_the_first_names():
    [few], [many] = note("other_file", ["a.txt"]), note("other_file", map(str, range(9)))
    assert str(few) == "1 file skipped, in class folders, without an image suffix: a.txt"
    assert str(many) == "9 files skipped, in class folders, without an image suffix: 0, 1, 2, 3, 4, ..."
    assert many.as_json() == {"kind": "other_file", "count": 9, "names": list("01234"), "text": str(many)}


def test_the_number_may_exceed_the_names():
    assert note("stray_file", [], count=0) == note("stray_file", []) == ()
    assert note("stray_file", ["x"], count=7) == (Note("stray_file", 7, ("x",)),)
