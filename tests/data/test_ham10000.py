import csv
import sys

import numpy as np
import pytest
from PIL import Image

from rgjax.data import cache, load_data
from rgjax.data.ham10000 import CLASSES, load, read_download
from rgjax.errors import UserError
from tests.support.data import data_config


def config_of(folder, **changes):
    how = {"image_size": 16, "manual_dir": str(folder), "data_dir": str(folder.parent / "prepared"), **changes}
    return data_config("ham10000", **how)


def load_from(folder):
    return load(config_of(folder))


def image_file(folder, number):
    return next(folder.glob(f"*/ISIC_{number:07d}.jpg"))


def test_the_builder_returns_the_content_of_the_files(ham_download):
    source = load_from(ham_download)
    assert "tensorflow" not in sys.modules
    assert source.inputs.shape == (84, 16, 16, 3)
    assert np.bincount(source.labels).tolist() == [24, 16, 14, 10, 8, 6, 6]
    assert len(set(source.group_ids)) == 42
    for index in (0, 50):
        with Image.open(image_file(ham_download, int(source.ids[index].removeprefix("ISIC_")))) as image:
            expected = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(source.inputs[index], expected)
    metadata = (ham_download / "HAM10000_metadata.csv").read_text()
    for lesion, identity, label in zip(source.group_ids, source.ids, source.labels, strict=True):
        assert f"{lesion},{identity},{CLASSES[label]}," in metadata


def test_a_second_load_decodes_nothing(ham_download, monkeypatch):
    first = load_from(ham_download)
    monkeypatch.setattr(cache, "decode_with_remarks", None)
    second = load_from(ham_download)
    np.testing.assert_array_equal(first.inputs, second.inputs)
    assert first.fingerprint == second.fingerprint


def test_a_changed_image_is_prepared_again(ham_download):
    first = load_from(ham_download)
    Image.new("RGB", (40, 30), "red").save(image_file(ham_download, 5))
    second = load_from(ham_download)
    assert second.fingerprint != first.fingerprint
    assert (second.inputs[list(second.ids).index("ISIC_0000005")] != first.inputs[0]).any()


def test_lesions_stay_together(ham_download):
    data = load_data(config_of(ham_download, split="grouped", positive="mel"))
    assert data.class_names == ("rest", "mel")
    lesions = dict(line.split(",")[1::-1] for line in (ham_download / "HAM10000_metadata.csv").read_text().splitlines())
    train, val, test = ({lesions[i] for i in data.ids[indices]} for indices in data.splits.values())
    assert not (train & val or train & test or val & test)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8"])
def test_metadata_may_be_tab_separated_or_begin_with_a_byte_order_mark(ham_download, encoding):
    old = ham_download / "HAM10000_metadata.csv"
    text = old.read_text().replace(",", "\t")
    old.unlink()
    (ham_download / "HAM10000_metadata").write_text(text, encoding=encoding)
    assert len(read_download(ham_download).splits["train"]) == 84


def refused(folder):
    with pytest.raises(UserError) as error:
        load_from(folder)
    return str(error.value)


def test_a_missing_folder_is_named_with_the_download(tmp_path):
    says = refused(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in says
    assert "doi:10.7910/DVN/DBW86T" in says
    assert "--config.data.manual_dir" in says


def test_missing_metadata_is_named(tmp_path):
    assert "has no HAM10000_metadata" in refused(tmp_path)


def test_missing_images_are_counted_and_five_named(ham_download):
    for number in range(7):
        image_file(ham_download, number).unlink()
    says = refused(ham_download)
    assert "7 of 84 images in" in says
    assert "ISIC_0000000, ISIC_0000001, ISIC_0000002, ISIC_0000003, ISIC_0000004, ..." in says
    assert "ISIC_0000005" not in says


def test_unreadable_images_are_named(ham_download):
    truncated, empty, text = (image_file(ham_download, number) for number in (3, 4, 5))
    truncated.write_bytes(truncated.read_bytes()[:400])
    empty.write_bytes(b"")
    text.write_text("no image")
    for _ in range(2):  # decoded, and from the cache
        says = refused(ham_download)
        assert "3 of 84 images cannot be read: " in says
        assert all(str(path) in says for path in (truncated, empty, text))
    source = load(config_of(ham_download, unreadable="skip"))
    assert [len(column) for column in (source.inputs, source.labels, source.ids, source.group_ids)] == [81] * 4
    assert [(note.kind, note.count) for note in source.notes] == [("unreadable_image", 3)]
    with Image.open(image_file(ham_download, int(source.ids[-1].removeprefix("ISIC_")))) as image:
        np.testing.assert_array_equal(source.inputs[-1], image.resize((16, 16), Image.Resampling.BILINEAR))


def test_nearly_blank_images_are_noted(ham_download):
    Image.new("RGB", (40, 30), "black").save(image_file(ham_download, 5))
    assert [(note.kind, note.names) for note in load_from(ham_download).notes] == [("blank_image", ("ISIC_0000005",))]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("lesion_id", "lesion"), "no column lesion_id"),
        (lambda text: text.replace(",mel,", ",melanoma,", 1), "line 26: unknown dx 'melanoma'; valid: nv"),
        (lambda text: text + text.splitlines()[1] + "\n", "1 repeated image_id: ISIC_0000000"),
        (lambda text: text.splitlines()[0] + "\n", "no rows"),
        (lambda text: "", "no column"),
    ],
)
def test_bad_metadata_is_named(ham_download, change, says):
    path = ham_download / "HAM10000_metadata.csv"
    path.write_text(change(path.read_text()))
    assert says in refused(ham_download)


def test_metadata_with_an_open_quote_is_named(ham_download):
    with open(ham_download / "HAM10000_metadata.csv", "a") as file:
        file.write('"' + "a" * 200_000)
    limit = csv.field_size_limit(131_072)  # Python's default, which `read_table` raises
    try:
        assert "line 86: field larger than field limit" in refused(ham_download)
    finally:
        csv.field_size_limit(limit)


def test_metadata_that_is_not_text_is_named(ham_download):
    (ham_download / "HAM10000_metadata.csv").write_bytes(b"\xff\xfe\x00lesion")
    assert "not UTF-8 text" in refused(ham_download)


TRUTH = "ISIC2018_Task3_Test_GroundTruth"


def load_official(folder, **changes):
    return load_data(config_of(folder, **{"split": "official"} | changes))


def one_hot(folder):
    """Rewrite the ground truth in the challenge's form, in a subfolder."""
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
    train, val = ({lesions[i] for i in data.ids[indices]} for indices in (data.train, data.val))
    assert not train & val
    assert set(data.labels[data.val]) == set(range(7))
    with Image.open(ham_with_test / "ISIC2018_Task3_Test_Images" / "ISIC_0034525.jpg") as image:
        expected = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(data.inputs[list(data.ids).index("ISIC_0034525")], expected)


def test_other_splits_do_not_read_the_official_test_set(ham_download, request):
    before = load_official(ham_download, split="grouped")
    folder = request.getfixturevalue("ham_with_test")
    (folder / f"{TRUTH}.csv").write_text("broken")
    after = load_official(folder, split="grouped")
    assert after.fingerprint == before.fingerprint
    np.testing.assert_array_equal(after.test, before.test)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: (folder / f"{TRUTH}.csv").unlink(), f"has no {TRUTH}.csv; config.data.split=official needs"),
        (
            lambda folder: (folder / "ISIC2018_Task3_Test_Images" / "ISIC_0034530.jpg").unlink(),
            "1 of 14 images in",
        ),
        (
            lambda folder: (folder / f"{TRUTH}.csv").write_text((folder / "HAM10000_metadata.csv").read_text()),
            "84 images of ISIC2018_Task3_Test_GroundTruth are also in HAM10000_metadata.csv: ISIC_0000000",
        ),
        (
            lambda folder: (folder / f"{TRUTH}.csv").write_text("image,MEL,NV,BCC,AKIEC,BKL,DF\n"),
            "no column VASC",
        ),
        (
            lambda folder: (folder / f"{TRUTH}.csv").write_text(
                "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nx,1,1,0,0,0,0,0\n"
            ),
            "line 2: 2 classes (mel, nv); exactly one must be 1",
        ),
    ],
    ids=["no table", "no image", "the wrong table", "no column", "two classes"],
)
def test_an_incomplete_official_test_set_is_named(ham_with_test, change, says):
    change(ham_with_test)
    with pytest.raises(UserError) as error:
        load_official(ham_with_test)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.long
def test_the_real_download(tmp_path, shared_data):
    source = load(config_of(shared_data / "ham10000", data_dir=str(tmp_path)))
    assert np.bincount(source.labels).tolist() == [6705, 1113, 1099, 514, 327, 142, 115]
    assert len(set(source.group_ids)) == 7470


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damaged_records_are_prepared_again(damage, ham_download, tmp_path, monkeypatch):
    intact = load_from(ham_download)
    [record] = (tmp_path / "prepared").glob("**/*.array_record*")
    content = bytearray(record.read_bytes())
    content[1000] ^= 1
    record.unlink() if damage == "gone" else record.write_bytes(content if damage == "flip" else content[:5000])
    monkeypatch.setenv("RGJAX_CACHE", str(tmp_path / "cache"))  # without decoded images
    assert load_from(ham_download).fingerprint == intact.fingerprint
    assert list((tmp_path / "prepared").glob("**/*.damaged"))
