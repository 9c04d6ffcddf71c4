"""Families of pretrained networks: which one a checkpoint holds.

A new family is a module with its `Family`, and its entries in `FAMILIES`. Its network, a backbone, is called as
`features(x, *, train=False, key=None) -> [B, D]`, float32; x is a batch of normalized images [B, H, W, 3] or a Packed
row of tokens. Its `width` is D.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rgjax.errors import UserError, unknown
from rgjax.models.backbone import Family, Options
from rgjax.models.efficientnet import EFFICIENTNET_LITE
from rgjax.models.preprocessing import Preprocessing, read_preprocessing
from rgjax.models.pretrained import Checkpoint
from rgjax.models.resnet_checkpoints import RESNET, RESNET_OF_TRANSFORMERS, TIMM
from rgjax.models.text import TEXT
from rgjax.models.torch_file import PACKAGED
from rgjax.models.vit_families import VISION

# By the `model_type` in config.json.
FAMILIES: Mapping[str, Family] = {"resnet": RESNET_OF_TRANSFORMERS, **VISION, **TEXT}


class Pretrained(NamedTuple):
    """A checkpoint, its family and its checked settings; the weights are not read yet."""

    checkpoint: Checkpoint
    family: Family
    settings: dict[str, Any]

    @property
    def kind(self) -> str:
        return self.family.kind

    @property
    def preprocessing(self) -> Preprocessing:
        """How it sees pictures. Raises UserError for impossible settings."""
        return read_preprocessing(self.checkpoint, self.family.preprocessing, self.settings.get("image_size"))

    def build(self, options: Options = Options()) -> Any:  # noqa: B008 (frozen)
        """The backbone. Raises UserError for tensors that are missing or do not fit."""
        return self.checkpoint.build(lambda tensors: self.family.build(tensors, self.settings, options))


def open_pretrained(checkpoint: Checkpoint) -> Pretrained:
    """Read what network a checkpoint holds.

    Raises UserError for an unknown family or impossible settings.
    """
    family = _family(checkpoint)
    return Pretrained(checkpoint, family, family.settings(checkpoint))


def _family(checkpoint: Checkpoint) -> Family:
    if any(checkpoint.file(known.file) for known in PACKAGED.values()):
        return EFFICIENTNET_LITE
    config = checkpoint.json("config.json") if checkpoint.file("config.json") else {}
    name, architecture = config.get("model_type"), config.get("architecture")
    if architecture is not None and name in (None, "timm_wrapper"):
        if architecture not in TIMM:
            raise unknown(f"architecture of checkpoint {checkpoint.name}", str(architecture), TIMM)
        return RESNET
    if name is None and "layer1.0.conv1.weight" in checkpoint.tensors().weights.readers:
        return RESNET
    if name is None:
        raise UserError(f"checkpoint {checkpoint.name}: no model_type in a config.json, and tensors of unknown names")
    if str(name) not in FAMILIES:
        raise unknown(f"model_type of checkpoint {checkpoint.name}", str(name), FAMILIES)
    return FAMILIES[str(name)]
