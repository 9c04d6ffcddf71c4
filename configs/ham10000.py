"""HAM10000, seven kinds of skin lesion, with the paper's settings (its Table 2).

Command:     python -m rgjax.main --config=configs/ham10000.py[:METHOD] --config.data.manual_dir=DOWNLOAD
Hardware:    not measured with these settings
Wall-clock:  not measured
Score:       not measured; at 64 pixels, 5 epochs, encoder.name=projection, on two AVX-512 CPU cores (n = 1 each):
             :ce 172 s, BA 31.7 %, macro AP 37.0 %; :rg 210 s, BA 31.1 %, macro AP 31.8 %

All images of a lesion are in one split; --config.data.split=stratified splits by image, as the paper seems to do.
--config.data.split=official tests on the ISIC challenge 2018, if the download holds its images, and splits HAM10000 by
lesion into training and validation.
"""

from rgjax.config import method_config, points


def get_config(method: str = "rg"):
    return method_config(method, {"data.name": "ham10000", "data.image_size": 224, "data.split": "grouped"})


def sweep():
    # "ratio" at 200 is the paper's number of groups: the classes below it have about as many images as the smallest.
    yield from points({"regroup.rule": ("ratio", "target"), "regroup.threshold": range(200, 701, 100)})
