"""How a pretrained network sees pictures: resized, cropped and normalized.

Read from a checkpoint's preprocessor_config.json (transformers) or the `pretrained_cfg` in its config.json (timm), else
the default of its family. Pictures are resized by Pillow on the host, bit for bit as by transformers' PIL processors,
whose rounding no resize on a device reproduces; they are normalized on the device.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

from rgjax.errors import UserError
from rgjax.models.pretrained import Checkpoint

_log = logging.getLogger(__name__)

_LARGEST = 4096  # pixels of a side
_MAX_RESIZED = 2**27  # pixels of a resized picture; of a larger one, only what remains after the crop is computed

IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
_HALF = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)}
_OPENAI = {
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}


@dataclass(frozen=True)
class Preprocessing:
    """From a picture of any size to pixels [S, S, 3].

    Attributes:
        size: side S of the result in pixels.
        resize: pixels of the side that `fit` names, before the center is cropped or padded to S.
        fit: "short" or "long": that side becomes `resize`, with the aspect kept; "both": both sides do; "none".
        interpolation: a name of `PIL.Image.Resampling`.
        scale: factor of the levels 0..255 before `mean` and `std`.
        mean: of each color.
        std: of each color.
        fill: color of the padding.
        rounding: of the crop's place: "transformers" or "torchvision".
    """

    size: int
    resize: int
    fit: str = "short"
    interpolation: str = "BICUBIC"
    scale: float = 1 / 255
    mean: tuple[float, ...] = IMAGENET["image_mean"]
    std: tuple[float, ...] = IMAGENET["image_std"]
    fill: tuple[int, ...] = (0, 0, 0)
    rounding: str = "transformers"

    def at(self, size: int) -> "Preprocessing":
        """The same for pixels [size, size, 3]; `resize` changes in proportion."""
        return replace(self, size=size, resize=max(1, self.resize * size // self.size))

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """Resize and crop an RGB picture: uint8 [S, S, 3]."""
        width, height = self._resized(*picture.size)
        left, top = self._offset(width), self._offset(height)
        box = max(left, 0), max(top, 0), min(left + self.size, width), min(top + self.size, height)
        interpolation = Image.Resampling[self.interpolation]
        if width * height > _MAX_RESIZED:
            across, down = picture.width / width, picture.height / height
            part = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
            visible = picture.resize((box[2] - box[0], box[3] - box[1]), interpolation, box=part)
        else:
            visible = picture.resize((width, height), interpolation).crop(box)
        if visible.size == (self.size, self.size):
            return np.asarray(visible)
        canvas = Image.new("RGB", (self.size, self.size), self.fill)
        canvas.paste(visible, (box[0] - left, box[1] - top))
        return np.asarray(canvas)

    def normalize(self, images):
        """uint8 [B, S, S, 3] -> float32, on the device."""
        mean, std = (jnp.array(values, jnp.float32).reshape(1, 1, 1, 3) for values in (self.mean, self.std))
        return (images.astype(jnp.float32) * self.scale - mean) / std

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        short, long = sorted((width, height))
        match self.fit:
            case "none":
                return width, height
            case "both":
                return self.resize, self.resize
            case "short":
                return self.resize * width // short, self.resize * height // short
        ratio = long / self.resize
        return max(1, round(width / ratio)), max(1, round(height / ratio))

    def _offset(self, side: int) -> int:
        """Where the crop begins in a side of so many pixels; negative where it is padded."""
        if self.rounding == "transformers":
            return (side - self.size) // 2
        return round((side - self.size) / 2) if side >= self.size else -((self.size - side) // 2)


# Defaults of transformers' image processors for what their files leave out, by the beginning of their names. A plain
# number as size means the shorter side where "default_to_square" is false.
_COMMON: dict[str, Any] = {
    "do_resize": True,
    "size": 224,
    "default_to_square": True,
    "resample": 3,
    "crop_pct": None,
    "do_center_crop": False,
    "crop_size": 224,
    "do_pad": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    **_HALF,
    "rounding": "transformers",
}
PROCESSORS: Mapping[str, Mapping[str, Any]] = {
    "CLIP": {"default_to_square": False, "do_center_crop": True, **_OPENAI},
    "Bit": {"default_to_square": False, "do_center_crop": True, **_OPENAI},
    "ViT": {"resample": 2},
    "DeiT": {"size": 256, "do_center_crop": True},
    "Siglip": {"default_to_square": False, "size": {"height": 224, "width": 224}},
    # Of NaFlex checkpoints, which see pictures of any aspect: here the square with as many patches.
    "Siglip2": {"resample": 2, "patch_size": 16, "max_num_patches": 256},
    "ConvNext": {"default_to_square": False, "size": {"shortest_edge": 384}, "crop_pct": 224 / 256},
}
# How torchvision evaluates its classifiers.
TORCHVISION: Mapping[str, Any] = {
    "size": {"shortest_edge": 256},
    "do_center_crop": True,
    "resample": 2,
    **IMAGENET,
    "rounding": "torchvision",
}


def read_preprocessing(checkpoint: Checkpoint, default: Mapping[str, Any], image_size: int | None) -> Preprocessing:
    """The preprocessing of a checkpoint.

    Args:
        checkpoint: of a network that reads images.
        default: of its family, in the terms of preprocessor_config.json.
        image_size: side in pixels of the images that the network reads, for a checkpoint that says no more.

    Raises:
        UserError: for impossible values.
    """
    config = checkpoint.json("config.json") if checkpoint.file("config.json") else {}
    # transformers 5 writes a processor's parts into one file; like it, prefer that file.
    both = checkpoint.json("processor_config.json") if checkpoint.file("processor_config.json") else {}
    if isinstance(values := both.get("image_processor"), dict):
        return _of_transformers(values, default, f"checkpoint {checkpoint.name}: processor_config.json")
    if checkpoint.file("preprocessor_config.json"):
        values, where = checkpoint.json("preprocessor_config.json"), "preprocessor_config.json"
        return _of_transformers(values, default, f"checkpoint {checkpoint.name}: {where}")
    if "architecture" in config:
        return _of_timm(config, f"checkpoint {checkpoint.name}: config.json")
    preprocessing = _of_transformers({}, default, checkpoint.name)
    return preprocessing.at(image_size) if image_size else preprocessing


def _of_transformers(values: Mapping[str, Any], default: Mapping[str, Any], source: str) -> Preprocessing:
    given = values.get("image_processor_type") or values.get("feature_extractor_type")
    if given is not None:
        kind = str(given).removesuffix("Fast").removesuffix("Pil")
        kind = kind.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
        if kind in PROCESSORS:
            default = PROCESSORS[kind]
        else:
            _log.warning(f"{source}: unknown image processor '{given}'; read with the defaults of its family")
    known = {**_COMMON, **default}
    known |= {name: value for name, value in values.items() if name in known and value is not None}
    switches = {name: known[name] for name in known if name.startswith("do_")}
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise UserError(f"{source} has {name}={value!r}; it must be true or false")
    if known["do_pad"]:
        raise UserError(f"{source} has do_pad=true; pictures that are padded to a size are not supported")
    if "max_num_patches" in known:
        keys = ("max_num_patches", "patch_size")
        patches, side = (int(_number(known[key], key, source, high=_LARGEST)) for key in keys)
        known["size"] = math.isqrt(patches) * side
    fit, resize = _fit_of(known, source)
    size = resize
    if known["crop_pct"] is not None and fit == "short":  # of ConvNext's processor: without a crop from 384 pixels on
        fit = "both" if size >= 384 else "short"
        resize = size if size >= 384 else int(size / _number(known["crop_pct"], "crop_pct", source, high=1))
    elif fit != "both" and not known["do_center_crop"]:
        raise UserError(
            f"{source} gives pictures of different sizes (size={known['size']!r}, do_center_crop=false); networks read "
            "squares of one size"
        )
    if known["do_center_crop"]:
        _, size = _side(known["crop_size"], square=True, where=f"{source} has crop_size")
    if known["resample"] not in list(Image.Resampling):
        raise UserError(f"{source} has resample={known['resample']!r}; it must be a filter of Pillow, 0 to 5")
    mean, std = (0.0,) * 3, (1.0,) * 3
    if known["do_normalize"]:
        mean = _colors(known["image_mean"], "image_mean", source)
        std = _colors(known["image_std"], "image_std", source, positive=True)
    scale = _number(known["rescale_factor"], "rescale_factor", source) if known["do_rescale"] else 1.0
    interpolation = Image.Resampling(known["resample"]).name
    return Preprocessing(size, resize, fit, interpolation, scale, mean, std, rounding=known["rounding"])


def _fit_of(known: Mapping[str, Any], source: str) -> tuple[str, int]:
    """`fit` and `resize` of Preprocessing."""
    if not known["do_resize"]:
        return "none", 1
    return _side(known["size"], square=bool(known["default_to_square"]), where=f"{source} has size")


def _side(value: Any, *, square: bool, where: str) -> tuple[str, int]:
    """`fit`, "both" or "short", and the side in pixels, of a size in any form."""
    sides = [value]
    if isinstance(value, dict):
        square = "shortest_edge" not in value
        keys = ("height", "width") if square else ("shortest_edge",)
        sides = [value.get(key) for key in keys] if set(keys) == {k for k, v in value.items() if v is not None} else []
    elif isinstance(value, list | tuple):
        square, sides = True, list(value)
    if len(set(map(repr, sides))) != 1 or type(sides[0]) is not int or not 0 < sides[0] <= _LARGEST:
        raise UserError(
            f"{where}={value!r}; it must be a square's height and width, or a shortest_edge, of 1 to {_LARGEST} pixels"
        )
    return ("both" if square else "short"), sides[0]


def _of_timm(config: Mapping[str, Any], source: str) -> Preprocessing:
    values = config.get("pretrained_cfg", config)  # old files have its keys beside the others
    values = values if isinstance(values, dict) else {}
    values = {name: value for name, value in values.items() if value is not None}
    shape = values.get("input_size", (3, 224, 224))
    if not isinstance(shape, list | tuple) or len(shape) != 3 or shape[0] != 3:
        raise UserError(f"{source} has input_size={shape!r}; it must be [3, height, width]")
    _, size = _side(list(shape[1:]), square=True, where=f"{source} has input_size")
    crop = _number(values.get("crop_pct", 0.875), "crop_pct", source, high=1)
    mode = values.get("crop_mode", "center")
    fits = {"center": "short", "squash": "both", "border": "long"}
    if mode not in fits:
        raise UserError(f"{source} has crop_mode={mode!r}; valid: {', '.join(fits)}")
    interpolation = str(values.get("interpolation", "bicubic")).upper()
    if interpolation not in Image.Resampling.__members__:
        raise UserError(f"{source} has interpolation={values['interpolation']!r}; it must be a filter of Pillow")
    mean = _colors(values.get("mean", IMAGENET["image_mean"]), "mean", source)
    std = _colors(values.get("std", IMAGENET["image_std"]), "std", source, positive=True)
    fill = tuple(round(255 * value) if mode == "border" else 0 for value in mean)
    return Preprocessing(
        size, math.floor(size / crop), fits[mode], interpolation, 1 / 255, mean, std, fill, rounding="torchvision"
    )


def _number(value: Any, name: str, source: str, high: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= high or math.isinf(value):
        limit = "" if high == math.inf else f" of at most {high}"
        raise UserError(f"{source} has {name}={value!r}; it must be a positive number{limit}")
    return float(value)


def _colors(value: Any, name: str, source: str, *, positive: bool = False) -> tuple[float, ...]:
    values = list(value) if isinstance(value, list | tuple) else [value] * 3
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    if len(values) != 3 or not numbers or (positive and min(values) <= 0):
        raise UserError(f"{source} has {name}={value!r}; it must be three {'positive ' if positive else ''}numbers")
    return tuple(map(float, values))
