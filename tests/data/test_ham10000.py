import csv
import sys

import numpy as np
import pytest
from PIL import Image

from rgjax.data import cache
from rgjax.data import load_data as load_dataset
from rgjax.data.ham10000 import CLASSES, load, read_download
from rgjax.errors import UserError


def load_from(folder, size=16):
    return load(image_size=size, manual_dir=str(folder), data_dir=str(folder.parent / "prepared"))


def image_file(folder, number):
    return next(folder.glob(f"*/ISIC_{number:07d}.jpg"))


def test_the_builder_gives_what_the_files_hold(ham_download):
    source = load_from(ham_download)
    assert "tensorflow" not in sys.modules
    assert source.inputs.shape == (84, 16, 16, 3)
    assert np.bincount(source.labels).tolist() == [24, 16, 14, 10, 8, 6, 6]
    assert len(set(source.groups)) == 42
    for row in (0, 50):
        with Image.open(image_file(ham_download, int(source.ids[row].removeprefix("ISIC_")))) as image:
            expected = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(source.inputs[row], expected)
    metadata = (ham_download / "HAM10000_metadata.csv").read_text()
    for lesion, identity, label in zip(source.groups, source.ids, source.labels, strict=True):
        assert f"{lesion},{identity},{CLASSES[label]}," in metadata


def test_a_second_load_decodes_nothing(ham_download, monkeypatch):
    first = load_from(ham_download)
    monkeypatch.setattr(cache, "decode", None)
    second = load_from(ham_download)
    np.testing.assert_array_equal(first.inputs, second.inputs)
    assert first.fingerprint == second.fingerprint


def test_a_changed_image_is_noticed(ham_download):
    first = load_from(ham_download)
    Image.new("RGB", (40, 30), "red").save(image_file(ham_download, 5))
    second = load_from(ham_download)
    assert second.fingerprint != first.fingerprint
    assert (second.inputs[list(second.ids).index("ISIC_0000005")] != first.inputs[0]).any()


def test_lesions_stay_together(ham_download):
    common = {
        "seed": 0,
        "test_fraction": 0.2,
        "val_fraction": 0.2,
        "positive": "mel",
        "split_kind": "grouped",
    }
    data = load_dataset("ham10000", image_size=16, manual_dir=str(ham_download), data_dir=str(ham_download), **common)
    assert data.class_names == ("rest", "mel")
    lesions = dict(line.split(",")[1::-1] for line in (ham_download / "HAM10000_metadata.csv").read_text().splitlines())
    train, val, test = ({lesions[i] for i in data.ids[part]} for part in (data.train, data.val, data.test))
    assert not (train & val or train & test or val & test)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8"])
def test_the_metadata_may_be_tab_separated_or_begin_with_a_mark(ham_download, encoding):
    old = ham_download / "HAM10000_metadata.csv"
    text = old.read_text().replace(",", "\t")
    old.unlink()
    (ham_download / "HAM10000_metadata").write_text(text, encoding=encoding)
    assert len(read_download(ham_download)[0]["train"]) == 84


def refused(folder):
    with pytest.raises(UserError) as error:
        load_from(folder)
    return str(error.value)


def test_a_missing_folder_is_named_with_the_way_out(tmp_path):
    says = refused(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in says
    assert "doi:10.7910/DVN/DBW86T" in says
    assert "--config.data.manual_dir" in says


def test_missing_metadata_is_named(tmp_path):
    assert "has no HAM10000_metadata" in refused(tmp_path)


def test_images_that_are_missing_are_counted_and_five_named(ham_download):
    for number in range(7):
        image_file(ham_download, number).unlink()
    says = refused(ham_download)
    assert "7 of 84 images of the metadata are not in" in says
    assert "ISIC_0000000, ISIC_0000001, ISIC_0000002, ISIC_0000003, ISIC_0000004, ..." in says
    assert "ISIC_0000005" not in says


def test_unreadable_images_are_named(ham_download):
    truncated, empty, text = (image_file(ham_download, number) for number in (3, 4, 5))
    truncated.write_bytes(truncated.read_bytes()[:400])
    empty.write_bytes(b"")
    text.write_text("no image")
    says = refused(ham_download)
    assert "3 of 84 images cannot be read" in says
    assert all(str(path) in says for path in (truncated, empty, text))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("lesion_id", "lesion"), "has no column lesion_id"),
        (lambda text: text.replace(",mel,", ",melanoma,", 1), "line 26: unknown dx 'melanoma'; valid: nv"),
        (lambda text: text + text.splitlines()[1] + "\n", "names 1 images more than once: ISIC_0000000"),
        (lambda text: text.splitlines()[0] + "\n", "has no rows"),
        (lambda text: "", "has no column"),
    ],
)
def test_bad_metadata_is_named(ham_download, change, says):
    path = ham_download / "HAM10000_metadata.csv"
    path.write_text(change(path.read_text()))
    assert says in refused(ham_download)


def test_metadata_with_a_quote_that_does_not_end_is_named(ham_download):
    with open(ham_download / "HAM10000_metadata.csv", "a") as file:
        file.write('"' + "a" * 200_000)
    limit = csv.field_size_limit(131_072)  # Python's own, which reading of other tables raises
    try:
        assert "line 86: field larger than field limit" in refused(ham_download)
    finally:
        csv.field_size_limit(limit)


def test_metadata_that_is_no_text_is_named(ham_download):
    (ham_download / "HAM10000_metadata.csv").write_bytes(b"\xff\xfe\x00lesion")
    assert "is not text in UTF-8" in refused(ham_download)


TRUTH = "ISIC2018_Task3_Test_GroundTruth"


def load_official(folder, **changes):
    how = {"split_kind": "official", "seed": 0, "test_fraction": 0.2, "val_fraction": 0.2, "positive": ""} | changes
    return load_dataset(
        "ham10000", image_size=16, manual_dir=str(folder), data_dir=str(folder.parent / "prepared"), **how
    )


def one_hot(folder):
    """Another form of the test set's ground truth: the challenge's own, in a folder of its own."""
    rows = [line.split(",") for line in (folder / f"{TRUTH}.csv").read_text().splitlines()[1:]]
    names = ["mel", "nv", "bcc", "akiec", "bkl", "df", "vasc"]
    lines = [",".join(["image", *map(str.upper, names), "score_weight", "validation_weight"])]
    lines += [",".join([row[1], *(str(float(row[2] == name)) for name in names), "1.0", "0.0"]) for row in rows]
    (folder / f"{TRUTH}.csv").unlink()
    (folder / TRUTH).mkdir()
    (folder / TRUTH / f"{TRUTH}.csv").write_text("\n".join(lines))


@pytest.mark.parametrize("change", [lambda folder: None, one_hot], ids=["deposit", "challenge"])
def test_the_official_test_set_is_the_challenges(ham_with_test, change):
    change(ham_with_test)
    data = load_official(ham_with_test)
    test = dict(zip(data.ids[data.test], data.labels[data.test], strict=True))
    assert test == {f"ISIC_{34524 + i:07d}": i % 7 for i in range(14)}
    assert len(data.train) + len(data.val) == 84
    lesions = dict(
        line.split(",")[1::-1] for line in (ham_with_test / "HAM10000_metadata.csv").read_text().splitlines()
    )
    train, val = ({lesions[i] for i in data.ids[part]} for part in (data.train, data.val))
    assert not train & val
    assert set(data.labels[data.val]) == set(range(7))
    with Image.open(ham_with_test / "ISIC2018_Task3_Test_Images" / "ISIC_0034525.jpg") as image:
        expected = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(data.inputs[list(data.ids).index("ISIC_0034525")], expected)


def test_the_other_splits_do_not_touch_the_official_test_set(ham_download, request):
    before = load_official(ham_download, split_kind="grouped")
    folder = request.getfixturevalue("ham_with_test")
    (folder / f"{TRUTH}.csv").write_text("broken")
    after = load_official(folder, split_kind="grouped")
    assert after.fingerprint == before.fingerprint
    np.testing.assert_array_equal(after.test, before.test)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: (folder / f"{TRUTH}.csv").unlink(), f"has no {TRUTH}.csv; config.data.split=official needs"),
        (
            lambda folder: (folder / "ISIC2018_Task3_Test_Images" / "ISIC_0034530.jpg").unlink(),
            "1 of 14 images of the test set are not in",
        ),
        (
            lambda folder: (folder / f"{TRUTH}.csv").write_text((folder / "HAM10000_metadata.csv").read_text()),
            "84 images of ISIC2018_Task3_Test_GroundTruth are in the metadata too: ISIC_0000000",
        ),
        (
            lambda folder: (folder / f"{TRUTH}.csv").write_text("image,MEL,NV,BCC,AKIEC,BKL,DF\n"),
            "has no column VASC",
        ),
        (
            lambda folder: (folder / f"{TRUTH}.csv").write_text(
                "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nx,1,1,0,0,0,0,?\n"
            ),
            "line 2: unknown dx 'nv and mel'",
        ),
    ],
    ids=["no table", "no image", "the wrong table", "no column", "two classes"],
)
def test_an_official_test_set_that_is_not_whole_is_named(ham_with_test, change, says):
    change(ham_with_test)
    with pytest.raises(UserError) as error:
        load_official(ham_with_test)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_the_real_download(tmp_path, shared_data):
    source = load(image_size=16, manual_dir=str(shared_data / "ham10000"), data_dir=str(tmp_path))
    assert np.bincount(source.labels).tolist() == [6705, 1113, 1099, 514, 327, 142, 115]
    assert len(set(source.groups)) == 7470


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damaged_records_are_prepared_anew(damage, ham_download, tmp_path, monkeypatch, capsys):
    sound = load_from(ham_download)
    [record] = (tmp_path / "prepared").glob("**/*.array_record*")
    content = bytearray(record.read_bytes())
    content[1000] ^= 1
    record.unlink() if damage == "gone" else record.write_bytes(content if damage == "flip" else content[:5000])
    monkeypatch.setenv("RGJAX_CACHE", str(tmp_path / "cache"))  # nothing is known of the decoded images
    again = load_from(ham_download)
    assert again.fingerprint == sound.fingerprint
    assert "made anew" in capsys.readouterr().err
