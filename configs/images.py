"""Images of your own: a folder with a subfolder for each class, or a table path,label[,group][,split].

python -m rgjax.data.inspect DIR
python -m rgjax.main --config=configs/images.py[:METHOD] --config.data.manual_dir=DIR

Folders train/ and test/ (and val/), or a column split, are the split, else a column group keeps rows together, else
single images are dealt out; --config.data.split=stratified and the like overrule that.
"""

from rgjax.config import method_config, points


def get_config(method: str = "rg"):
    return method_config(method, {"data.name": "images", "data.image_size": 224, "data.split": "auto"})


def sweep():
    # The paper searches 200 to 700 rows; doubling covers classes of a hundred rows to some thousands. Points that split
    # nothing are as CE.
    yield from points({"regroup.rule": ("ratio", "target"), "regroup.threshold": (50, 100, 200, 400, 800, 1600)})
