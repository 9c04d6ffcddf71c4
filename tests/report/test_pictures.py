import re

import numpy as np
import pytest
from PIL import Image

from rgjax.regroup import Regrouping
from rgjax.report.pictures import draw_groups, draw_synthetic
from rgjax.sampling.deepsmote import Synthetic

# Class 0 in two groups of 20 around 0 and 10; class 1 whole.
REGROUPING = Regrouping(np.repeat([0, 1, 2], 20).astype(np.int32), np.array([0, 0, 1], np.int32))
FEATURES = np.concatenate([np.arange(-10, 10), np.arange(0, 20), np.zeros(20)])[:, None].astype(np.float32)


def test_sentence_tables_show_the_members_nearest_to_the_center(tmp_path):
    sentences = np.array([f"sentence {i:02d} | <b>*bold*</b>" for i in range(60)])
    held_out = np.array(["held out"] * 3)  # the training examples are not the first ones
    inputs = np.concatenate([held_out, sentences])
    draw_groups(tmp_path, inputs, np.arange(3, 63), REGROUPING, FEATURES, ("ne/ut<ral", "negative"))
    assert {path.name for path in tmp_path.iterdir()} == {"0-ne_ut_ral.md", "sizes.png"}
    text = (tmp_path / "0-ne_ut_ral.md").read_text()
    assert text.startswith(r"# ne/ut\<ral: 2 groups")
    assert "## Group 1: 20 sentences" in text
    assert r"sentence 10 \| \<b\>\*bold\*\</b\> |" in text
    central = [[int(n) for n in re.findall(r"central \| sentence (\d+)", part)] for part in text.split("## ")[1:]]
    # The mean of -10..9 is -0.5, so sentences 9 and 10 are nearest to the first center.
    assert [sorted(group) for group in central] == [list(range(6, 14)), list(range(26, 34))]
    assert len(re.findall(r"random \| sentence", text)) == 8


@pytest.mark.parametrize("features", [FEATURES, None])
def test_image_sheets_have_a_row_for_each_group(features, tmp_path):
    images = np.zeros((60, 8, 8, 3), np.uint8)
    images[:20, :, :, 0] = 255
    images[20:40, :, :, 2] = 255
    draw_groups(tmp_path, images, np.arange(60), REGROUPING, features, ("a", "b"))
    sheet = np.asarray(Image.open(tmp_path / "0-a.png"))
    red, blue = (sheet == [255, 0, 0]).all(axis=2), (sheet == [0, 0, 255]).all(axis=2)
    shown = 12 if features is not None else 4
    assert red.sum() == blue.sum() == shown * 64 * 64
    assert np.flatnonzero(red.any(axis=1)).max() < np.flatnonzero(blue.any(axis=1)).min()
    with Image.open(tmp_path / "sizes.png") as chart:
        assert chart.width > 600


def test_synthetic_sheets_show_real_above_reconstructed_above_synthetic(tmp_path):
    def filled(value, count):
        return np.full((count, 8, 8, 3), value, np.uint8)

    # Two training examples of class 0, in its two groups, and one of class 1.
    shown = np.array([3, 23, 45])
    synthetic = Synthetic(filled(150, 14), np.array([1] * 14), shown, filled(100, 3))
    draw_synthetic(tmp_path, filled(50, 3), REGROUPING, synthetic, ("a/b", "c"))
    first, second = (np.asarray(Image.open(tmp_path / name)) for name in ("0-a_b.png", "1-c.png"))
    assert [(first == value).all(axis=2).sum() // 64**2 for value in (50, 100, 150)] == [2, 2, 14]
    assert [(second == value).all(axis=2).sum() // 64**2 for value in (50, 100, 150)] == [1, 1, 0]
    tops = [np.flatnonzero((first == value).all(axis=2).any(axis=1)).min() for value in (50, 100, 150)]
    assert tops == sorted(tops)
