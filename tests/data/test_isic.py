"""Downloads of HAM10000 and ISIC as people have them: layouts, masks beside photographs, and all forms of labels."""

import shutil

import pytest

from rgjax.data import load_data
from rgjax.data.ham10000 import CLASSES, read_download
from rgjax.errors import UserError
from tests.support.data import data_config
from tests.support.isic import (
    COLUMNS_2018,
    COLUMNS_2019,
    LABELS,
    NAMES,
    PART_1,
    TRUTH_2018,
    archive,
    download_of,
    mask,
    metadata,
    one_hot,
    photograph,
    photographs,
)  # fmt: skip


def notes_of(folder):
    return {note.kind: note for note in read_download(folder).notes}


def refused(folder, **how):
    with pytest.raises(UserError) as error:
        read_download(folder, **how)
    return str(error.value)


def check(folder, place=PART_1, suffix=".jpg"):
    """The photographs are the images, with their labels and lesions."""
    download = read_download(folder)
    assert download.images == {name: folder / place / f"{name}{suffix}" for name in NAMES}
    assert [(row["lesion_id"], row["dx"]) for row in download.splits["train"]] == [
        (f"HAM_{number // 2}", LABELS[number]) for number in range(14)
    ]


@pytest.mark.parametrize("place", [".", PART_1, f"{PART_1}/{PART_1}", "archive/a/b/images"])
@pytest.mark.parametrize("suffix", [".jpg", ".JPG"])
def test_photographs_lie_at_any_depth(place, suffix, tmp_path):
    metadata(tmp_path)
    photographs(tmp_path / place, suffix=suffix)
    check(tmp_path, place, suffix)
    assert notes_of(tmp_path) == {}


@pytest.mark.parametrize("place", ["archive", "HAM10000_metadata"])
def test_the_metadata_lie_at_any_depth(place, tmp_path):
    metadata(tmp_path / place)
    photographs(tmp_path / PART_1)
    check(tmp_path)


@pytest.mark.parametrize("copy", ["ham10000_images_part_1", f"{PART_1}/{PART_1}"])
def test_equal_copies_are_noted(copy, tmp_path):
    download_of(tmp_path)
    photographs(tmp_path / copy, NAMES[:3])
    assert len(read_download(tmp_path).images) == 14
    assert notes_of(tmp_path).keys() == {"equal_file"}
    assert notes_of(tmp_path)["equal_file"].count == 3


def test_links_are_read_once_and_litter_is_ignored(tmp_path):
    download_of(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / PART_1, target_is_directory=True)
    (tmp_path / "one.jpg").symlink_to(tmp_path / PART_1 / f"{NAMES[0]}.jpg")
    (tmp_path / PART_1 / "back").symlink_to(tmp_path, target_is_directory=True)
    for litter in (f"__MACOSX/{PART_1}/._{NAMES[1]}.jpg", f"{PART_1}/._{NAMES[2]}.jpg", f".Trashes/{NAMES[3]}.jpg"):
        photograph(tmp_path / litter, seed=99)
    check(tmp_path)
    assert [str(note) for note in notes_of(tmp_path).values()] == [
        "1 image left out, not in the table of labels: one.jpg"
    ]


MASKS = {
    "masks": ("masks/{}.png", "L", (0, 255)),
    "by their looks": ("images_2/{}.png", "L", (0, 255)),
    "of colors": ("seg/{}.png", "RGB", (0, 255)),
    "nearly black": ("labels/{}.png", "L", (0, 1)),
    "bilevel": ("truth/{}.png", "1", (0, 255)),
    "the deposit's": ("HAM10000_segmentations_lesion_tschandl/{}_segmentation.png", "L", (0, 255)),
    "superpixels": (PART_1 + "/{}_superpixels.png", "RGB", (90, 200)),
    "beside": (PART_1 + "/{}.png", "L", (0, 255)),
}


@pytest.mark.parametrize(("pattern", "mode", "values"), MASKS.values(), ids=list(MASKS))
def test_masks_are_never_photographs(pattern, mode, values, tmp_path):
    download_of(tmp_path)
    for name in NAMES[::2]:
        mask(tmp_path / pattern.format(name), mode, values)
    check(tmp_path)
    assert notes_of(tmp_path).keys() == {"mask"}
    assert notes_of(tmp_path)["mask"].count == 7
    (tmp_path / PART_1 / f"{NAMES[0]}.jpg").unlink()
    assert f"1 of 14 images in {tmp_path / 'HAM10000_metadata.csv'} have no file: {NAMES[0]}" in refused(tmp_path)


def test_photographs_in_a_folder_that_is_called_segmentation_are_read(tmp_path):
    metadata(tmp_path)
    photographs(tmp_path / "ham1000-segmentation-and-classification")
    check(tmp_path, "ham1000-segmentation-and-classification")


@pytest.mark.parametrize("other", [f"resized/{NAMES[4]}.jpg", f"{PART_1}/{NAMES[4]}.png", f"b/{NAMES[4].lower()}.jpg"])
def test_two_different_files_of_an_image_are_both_named(other, tmp_path):
    download_of(tmp_path)
    photograph(tmp_path / other, seed=99)
    if other.endswith(NAMES[4].lower() + ".jpg"):  # the exact name wins; the other file is noted
        assert notes_of(tmp_path)["unlisted_image"].names == (other,)
        return
    says = refused(tmp_path)
    assert "1 image with two different files: " in says
    assert str(tmp_path / PART_1 / f"{NAMES[4]}.jpg") in says
    assert str(tmp_path / other) in says


def test_one_photograph_serves_one_image(tmp_path):
    one_hot(tmp_path / TRUTH_2018, COLUMNS_2018, ["MEL", "NV"], [NAMES[0], f"{NAMES[0]}_downsampled"])
    photographs(tmp_path, NAMES[:1])
    assert f"1 of 2 images in {tmp_path / TRUTH_2018} have no file: {NAMES[0]}_downsampled" in refused(tmp_path)


def test_images_without_a_row_are_noted(tmp_path):
    download_of(tmp_path)
    photographs(tmp_path / "ISIC2018_Task3_Test_Input", ["ISIC_0034524", "ISIC_0034525"])
    assert notes_of(tmp_path)["unlisted_image"].count == 2


# Ground truth of the challenges


@pytest.mark.parametrize(
    "place", [TRUTH_2018, f"{TRUTH_2018[:-4]}/{TRUTH_2018}", "GroundTruth.csv"], ids=["beside", "unpacked", "kaggle"]
)
@pytest.mark.parametrize("lesions", [True, False])
def test_the_ground_truth_of_2018_is_read(place, lesions, tmp_path):
    one_hot(tmp_path / place, COLUMNS_2018, [label.upper() for label in LABELS])
    photographs(tmp_path / "ISIC2018_Task3_Training_Input")
    one_hot(tmp_path / "ISIC2018_Task3_Validation_GroundTruth.csv", COLUMNS_2018, ["MEL"], ["ISIC_0034321"])
    if lesions:
        rows = [f"{NAMES[number]},HAM_{number // 2},histo" for number in range(14)]
        table = tmp_path / "ISIC2018_Task3_Training_LesionGroupings.csv"
        table.write_text("\n".join(["image,lesion_id,diagnosis_confirm_type", *rows]))
    download = read_download(tmp_path)
    assert [row["dx"] for row in download.splits["train"]] == LABELS
    assert len(download.images) == 14
    if lesions:
        assert [row["lesion_id"] for row in download.splits["train"]] == [f"HAM_{number // 2}" for number in range(14)]
        assert download.notes == ()
    else:
        assert notes_of(tmp_path)["no_lesion"].count == 14


def test_the_ground_truth_of_2019_is_read_with_its_classes(tmp_path):
    names = [f"{name}_downsampled" if number % 2 else name for number, name in enumerate((NAMES * 5)[:64])]
    names = [f"{name[:5]}{number:07d}{name[12:]}" for number, name in enumerate(names)]
    labels = [COLUMNS_2019[number // 2 % 8] for number in range(64)]
    folder = tmp_path / "isic"
    one_hot(folder / "ISIC_2019_Training_GroundTruth.csv", COLUMNS_2019, labels, names)
    rows = [f"{name},50.0,anterior torso,{f'MSK4_{n // 2}' if n else ''},male" for n, name in enumerate(names)]
    table = folder / "ISIC_2019_Training_Metadata.csv"
    table.write_text("\n".join(["image,age_approx,anatom_site_general,lesion_id,sex", *rows]))
    photographs(folder / "ISIC_2019_Training_Input" / "ISIC_2019_Training_Input", names[:32])
    photographs(folder / "ISIC_2019_Training_Input", [name.removesuffix("_downsampled") for name in names[32:]])
    changes = {"image_size": 8, "manual_dir": str(folder), "data_dir": str(tmp_path / "prepared"), "split": "grouped"}
    data = load_data(data_config("ham10000", **changes))
    assert data.class_names == ("nv", "mel", "bkl", "bcc", "vasc", "df", "ak", "scc")
    assert {i: data.class_names[label].upper() for i, label in zip(data.ids, data.labels, strict=True)} == dict(
        zip(names, labels, strict=True)
    )
    assert [note.kind for note in data.notes] == ["no_lesion"]
    assert load_data(data_config("ham10000", **changes, positive="scc")).class_names == ("rest", "scc")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("ISIC_1,0.0,0.0,0,0,0,0,0", "line 2: 0 classes ()"),
        ("ISIC_1,0.5,0.5,0,0,0,0,0", "line 2: 2 classes (mel, nv); exactly one must be 1"),
        ("ISIC_1,0,2,0,0,0,0,0", "line 2: 1 classes (nv); exactly one must be 1"),
        ("ISIC_1,0,1,0,0,0,0", "line 2: 7 fields, but the header has 8"),
        ("ISIC_1,0,yes,0,0,0,0,0", "line 2: could not convert string to float: 'yes'; each class must be 0 or 1"),
        (",0,1,0,0,0,0,0", "line 2: no name of an image"),
    ],
)
def test_bad_ground_truth_is_refused_with_its_line(row, says, tmp_path):
    (tmp_path / TRUTH_2018).write_text("image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\n" + row + "\n")
    assert says in refused(tmp_path)


def test_the_archives_metadata_are_read(tmp_path):
    download = read_download(archive(tmp_path))
    assert [row["dx"] for row in download.splits["train"]] == list(CLASSES)
    assert [row["lesion_id"] for row in download.splits["train"]][:2] == ["IL_1", "IL_2"]
    assert {note.kind: note.names for note in download.notes} == {
        "manipulated_image": ("ISIC_0000009 (synthetic)",),
        "foreign_diagnosis": ("ISIC_0000007 (Scar)", "ISIC_0000008 (none)"),
    }


def test_the_archives_metadata_may_have_the_older_column(tmp_path):
    rows = ["ISIC_0000000,nevus,", "ISIC_0000001,seborrheic keratosis,IL_1", "ISIC_0000002,actinic keratosis,IL_2"]
    (tmp_path / "metadata.csv").write_text("\n".join(["isic_id,diagnosis,lesion_id", *rows]))
    photographs(tmp_path / "images", NAMES[:3])
    assert [row["dx"] for row in read_download(tmp_path).splits["train"]] == ["nv", "bkl", "akiec"]


# What is there, if it cannot be used


def no_labels(folder):
    photographs(folder / PART_1)
    (folder / "train.csv").write_text("image_name,patient_id,target\nISIC_1,IP_1,0\n")


def packed(folder):
    metadata(folder)
    shutil.make_archive(str(folder / PART_1), "zip", metadata(folder / "x").parent)
    shutil.rmtree(folder / "x")


def only_the_images(folder):
    metadata(folder.parent)
    photographs(folder)


def only_test_labels(folder):
    one_hot(folder / "ISIC2018_Task3_Test_GroundTruth.csv", COLUMNS_2018, ["MEL"] * 14)
    photographs(folder / "ISIC2018_Task3_Test_Input")


@pytest.mark.parametrize(
    ("fill", "parts"),
    [
        (no_labels, ("14 images (", "train.csv (columns image_name, patient_id, target)", "no HAM10000_metadata")),
        (packed, ("14 of 14 images in ", f"1 packed archive ({PART_1}.zip)", "unpack both image archives")),
        (only_the_images, ("14 images (", "HAM10000_metadata.csv lies", "; pass ")),
        (only_test_labels, ("ISIC2018_Task3_Test_GroundTruth.csv (columns image, MEL", "no HAM10000_metadata")),
        (lambda folder: None, ("it holds nothing that can be used", "doi:10.7910/DVN/DBW86T")),
    ],
    ids=["other table", "packed", "images", "test set", "empty"],
)
def test_an_unusable_download_is_told(fill, parts, tmp_path):
    folder = tmp_path / "download"
    folder.mkdir()
    fill(folder)
    says = refused(folder)
    assert [part for part in parts if part not in says] == []
    assert "\n" not in says


def test_the_metadata_themselves_are_no_folder(tmp_path):
    assert f"pass its folder {tmp_path}" in refused(metadata(tmp_path))


@pytest.mark.parametrize("name", ["HAM10000_metadata", "old/HAM10000_metadata.csv", "HAM10000_metadata.tab"])
def test_two_tables_of_labels_must_agree(name, tmp_path):
    text = metadata(download_of(tmp_path)).read_text()
    (tmp_path / "old").mkdir()
    (tmp_path / name).write_text(text.replace(",", "\t"))
    check(tmp_path)
    (tmp_path / name).write_text(text.replace(",nv,", ",mel,", 1))
    says = refused(tmp_path)
    assert str(tmp_path / name) in says and str(tmp_path / "HAM10000_metadata.csv") in says
    assert "different labels" in says


@pytest.mark.parametrize("folder", ["ISIC2018_Task3_Test_Images", "ISIC2018_Task3_Test_Input/Input"])
def test_the_official_test_set_lies_at_any_depth(folder, tmp_path):
    download_of(tmp_path)
    names = [*(f"ISIC_00345{number}" for number in range(24, 31)), "ISIC_0035068"]
    truth = tmp_path / "truth" / "deep" / "ISIC2018_Task3_Test_GroundTruth.csv"
    one_hot(truth, [*COLUMNS_2018, "score_weight"], [*COLUMNS_2018, "MEL"], names)
    photographs(tmp_path / folder, names)
    download = read_download(tmp_path, official_test=True)
    assert [row["dx"].upper() for row in download.splits["test"]] == COLUMNS_2018
    notes = {note.kind: note.names for note in download.notes}
    assert notes == {"manipulated_image": ("ISIC_0035068 (synthetic)",)}
