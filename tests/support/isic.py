"""Small folders laid out as downloads of HAM10000 and ISIC: 14 images, two of each class, of seven lesions."""

import numpy as np
from PIL import Image

from rgjax.data.isic.tables import CLASSES

PART_1 = "HAM10000_images_part_1"
TRUTH_2018 = "ISIC2018_Task3_Training_GroundTruth.csv"
NAMES = [f"ISIC_{number:07d}" for number in range(14)]
LABELS = [CLASSES[number % 7] for number in range(14)]
COLUMNS_2018 = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
COLUMNS_2019 = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"]


def photograph(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(60, 200, (30, 40, 3), np.uint8)).save(path, "JPEG")


def mask(path, mode="L", values=(0, 255)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((30, 40), values[0], np.uint8)
    pixels[8:20, 10:25] = values[1]
    Image.fromarray(pixels).convert(mode).save(path, "PNG")


def photographs(folder, names=NAMES, suffix=".jpg"):
    for seed, name in enumerate(names):
        photograph(folder / f"{name}{suffix}", seed)


def metadata(folder):
    rows = [f"HAM_{number // 2},{NAMES[number]},{LABELS[number]},histo,50.0,male,back" for number in range(14)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "HAM10000_metadata.csv"
    path.write_text("\n".join(["lesion_id,image_id,dx,dx_type,age,sex,localization", *rows]))
    return path


def one_hot(path, columns, labels, names=NAMES):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [[name, *(f"{float(column == label):.1f}" for column in columns)] for name, label in zip(names, labels)]  # noqa: B905
    path.write_text("\n".join(",".join(row) for row in [["image", *columns], *rows]))


def download_of(folder):
    metadata(folder)
    photographs(folder / PART_1)
    return folder


ARCHIVE = """\
isic_id,attribution,copyright_license,age_approx,diagnosis_1,diagnosis_2,diagnosis_3,image_manipulation,lesion_id
ISIC_0000000,ViDIR,CC-BY-NC,50,Benign,Benign melanocytic proliferations,Nevus,,IL_1
ISIC_0000001,ViDIR,CC-BY-NC,50,Malignant,Malignant melanocytic proliferations (Melanoma),"Melanoma, NOS",,IL_2
ISIC_0000002,ViDIR,CC-BY-NC,50,Benign,Benign epidermal proliferations,Pigmented benign keratosis,,IL_3
ISIC_0000003,ViDIR,CC-BY-NC,50,Malignant,Malignant adnexal epithelial proliferations,Basal cell carcinoma,,IL_4
ISIC_0000004,ViDIR,CC-BY-NC,50,Malignant,Malignant epidermal proliferations,"Squamous cell carcinoma, NOS",,IL_5
ISIC_0000005,ViDIR,CC-BY-NC,50,Benign,Benign soft tissue proliferations - Vascular,,,IL_6
ISIC_0000006,ViDIR,CC-BY-NC,50,Benign,Benign soft tissue proliferations - Fibro-histiocytic,Dermatofibroma,,IL_7
ISIC_0000007,ViDIR,CC-BY-NC,50,Benign,Benign other,Scar,,IL_8
ISIC_0000008,ViDIR,CC-BY-NC,50,,,,,IL_9
ISIC_0000009,ViDIR,CC-BY-NC,50,Benign,Benign melanocytic proliferations,Nevus,synthetic,IL_10
"""


def archive(folder):
    (folder / "metadata.csv").write_text(ARCHIVE)
    photographs(folder, NAMES[:10])
    return folder
