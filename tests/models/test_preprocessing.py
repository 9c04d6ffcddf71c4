"""Preprocessing against transformers' own processors, timm and torchvision, bit for bit; its errors."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from rgjax.errors import UserError
from rgjax.models import preprocessing as module
from rgjax.models.preprocessing import PROCESSORS, TORCHVISION, Preprocessing, read_preprocessing
from rgjax.models.pretrained import Checkpoint

# Width, height: odd sides, smaller and larger than the targets, a line.
SIZES = [(51, 37), (37, 51), (64, 64), (33, 32), (7, 90), (301, 1), (1, 1), (130, 97)]
FIXED = {"height": 33, "width": 33}
CASES = [
    (CLIPImageProcessorPil, {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}),
    (CLIPImageProcessorPil, {"size": 30, "crop_size": 41}),
    (CLIPImageProcessorPil, {"do_resize": False, "crop_size": 45, "do_rescale": False}),
    (ViTImageProcessorPil, {"size": FIXED}),
    (ViTImageProcessorPil, {"size": 29, "resample": 1, "do_normalize": False}),
    (DeiTImageProcessorPil, {"size": 40, "crop_size": FIXED, "image_mean": 0.4}),
    (BitImageProcessorPil, {"size": {"shortest_edge": 37}, "crop_size": {"height": 32, "width": 32}}),
    (SiglipImageProcessorPil, {"size": FIXED, "rescale_factor": 1 / 127.5}),
    (ConvNextImageProcessorPil, {"size": {"shortest_edge": 33}, "resample": 3, "crop_pct": 0.8}),
    (ConvNextImageProcessorPil, {"size": {"shortest_edge": 384}}),
]


def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)) for width, height in SIZES]


def checkpoint(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return Checkpoint(str(folder), ways_out="")


@pytest.mark.parametrize(("processor", "settings"), CASES)
def test_pixels_equal_transformers(processor, settings, tmp_path):
    processor = processor(**settings)
    processor.save_pretrained(tmp_path)
    ours = read_preprocessing(checkpoint(tmp_path), {}, None)
    for picture in pictures():
        levels = processor(picture, return_tensors="np", do_rescale=False, do_normalize=False)["pixel_values"][0]
        pixels = ours(picture)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, levels.transpose(1, 2, 0))
        theirs = processor(picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        np.testing.assert_allclose(ours.normalize(pixels[None])[0], theirs, atol=2e-5)


@pytest.mark.parametrize("kind", sorted(PROCESSORS.keys() - {"Siglip2"}))
def test_defaults_are_those_of_the_processors(kind, tmp_path):
    processor = next(processor for processor, _ in CASES if processor.__name__.startswith(kind))
    for name in ("image_processor_type", "feature_extractor_type"):
        few = read_preprocessing(checkpoint(tmp_path, preprocessor_config={name: f"{kind}ImageProcessor"}), {}, None)
        processor().save_pretrained(tmp_path)
        assert few == read_preprocessing(checkpoint(tmp_path), {}, None)


def test_old_sizes_are_numbers(tmp_path):
    """As in the files of openai/clip-vit-base-patch32, facebook/deit-base and microsoft/resnet-50."""
    clip = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224}
    deit = {"feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224}
    resnet = {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 224, "crop_pct": 0.875}
    read = [read_preprocessing(checkpoint(tmp_path, preprocessor_config=v), {}, None) for v in (clip, deit, resnet)]
    assert [(one.size, one.resize, one.fit) for one in read] == [
        (224, 224, "short"),
        (224, 256, "both"),
        (224, 256, "short"),
    ]


def test_naflex_checkpoints_see_squares_of_as_many_patches(tmp_path):
    values = {"image_processor_type": "Siglip2ImageProcessor", "max_num_patches": 100, "patch_size": 14}
    read = read_preprocessing(checkpoint(tmp_path, preprocessor_config=values), {}, None)
    assert (read.size, read.resize, read.fit, read.interpolation) == (140, 140, "both", "BILINEAR")


def test_one_file_of_a_processor_comes_first(tmp_path):
    whole = {"image_processor": {"image_processor_type": "SiglipImageProcessor", "size": FIXED}}
    both = checkpoint(tmp_path, processor_config=whole, preprocessor_config={"size": 16})
    assert read_preprocessing(both, {}, None).size == 33


def test_family_sets_what_no_file_does(tmp_path):
    assert read_preprocessing(checkpoint(tmp_path), TORCHVISION, None) == Preprocessing(
        224, 256, "short", "BILINEAR", rounding="torchvision"
    )
    assert read_preprocessing(checkpoint(tmp_path), PROCESSORS["CLIP"], 32).resize == 32
    assert read_preprocessing(checkpoint(tmp_path, preprocessor_config={}), PROCESSORS["ViT"], 32).size == 224


def test_another_size_keeps_the_proportion():
    assert Preprocessing(224, 256).at(112) == Preprocessing(112, 128)


def test_only_the_crop_of_a_huge_picture_is_computed(monkeypatch):
    """The box is resized instead, which may round differently."""
    picture = pictures()[4].resize((7, 900))
    whole = Preprocessing(32, 40)(picture)
    monkeypatch.setattr(module, "_MAX_RESIZED", 40 * 40)
    assert np.abs(Preprocessing(32, 40)(picture).astype(int) - whole).max() <= 2


@pytest.mark.parametrize("case", range(6))
def test_pixels_equal_those_of_timm_and_torchvision(case, tmp_path):
    with np.load(Path(__file__).with_name("preprocessing.npz")) as file:
        settings = json.loads(str(file["settings"]))[case]
        pixels = file[f"pixels{case}"]
    if settings is None:
        ours = read_preprocessing(checkpoint(tmp_path), TORCHVISION, None).at(28)
    else:
        files = {"config": {"architecture": "resnet18", "pretrained_cfg": settings}}
        ours = read_preprocessing(checkpoint(tmp_path, **files), {}, None)
    for picture, expected in zip(pictures(), pixels, strict=True):
        np.testing.assert_array_equal(ours(picture), expected)


BAD = [
    ({"size": {"longest_edge": 32}}, "size={'longest_edge': 32}; it must be"),
    ({"size": {"height": 32, "width": 40}}, "size="),
    ({"size": -3}, "size=-3"),
    ({"size": True}, "size=True"),
    ({"crop_size": {"shortest_edge": "x"}}, "crop_size="),
    ({"do_center_crop": False}, "different sizes"),
    ({"do_center_crop": "yes"}, "do_center_crop='yes'; it must be true or false"),
    ({"do_pad": True}, "do_pad"),
    ({"resample": 9}, "resample=9"),
    ({"resample": "cubic"}, "resample='cubic'"),
    ({"image_mean": [0.5, 0.5]}, "image_mean=.* three"),
    ({"image_std": [0.5, 0.5, 0]}, "image_std=.* positive"),
    ({"image_mean": [0.5, float("nan"), 0.5]}, "image_mean="),
    ({"rescale_factor": 0}, "rescale_factor=0"),
    ({"image_processor_type": "ConvNextImageProcessor", "size": 224, "crop_pct": 2}, "crop_pct=2"),
]


@pytest.mark.parametrize(("values", "message"), BAD)
def test_bad_settings_are_one_line(values, message, tmp_path):
    with pytest.raises(UserError, match=f"preprocessor_config.json has {message}|gives pictures of {message}"):
        read_preprocessing(checkpoint(tmp_path, preprocessor_config=values), PROCESSORS["CLIP"], None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"input_size": [1, 32, 32]}, "input_size="),
        ({"input_size": [3, 32, 64]}, "input_size="),
        ({"crop_pct": 1.5}, "crop_pct=1.5"),
        ({"crop_mode": "random"}, "crop_mode='random'; valid: center, squash, border"),
        ({"interpolation": "random"}, "interpolation='random'"),
        ({"mean": "dark"}, "mean='dark'"),
    ],
)
def test_bad_settings_of_timm_are_one_line(values, message, tmp_path):
    bad = checkpoint(tmp_path, config={"architecture": "resnet18", "pretrained_cfg": values})
    with pytest.raises(UserError, match=f"config.json has {message}"):
        read_preprocessing(bad, {}, None)


def test_unknown_processor_is_told(tmp_path, capsys):
    unknown = checkpoint(tmp_path, preprocessor_config={"image_processor_type": "FooImageProcessor", "size": 20})
    assert read_preprocessing(unknown, PROCESSORS["ViT"], None).size == 20
    assert "unknown image processor 'FooImageProcessor'" in capsys.readouterr().err
