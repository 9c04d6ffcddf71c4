"""Features of the untrained network, and the cache of features."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import normalized_mutual_info_score

from rgjax.encoders import encode_cached
from rgjax.encoders.projection import projection
from rgjax.errors import UserError
from rgjax.regroup.kmeans import kmeans


def digit_images(n):
    digits = load_digits()
    images = np.repeat(np.repeat(digits.images[:n], 4, axis=1), 4, axis=2) * 255 / 16
    return np.repeat(images[..., None], 3, axis=3).astype(np.uint8), digits.target[:n]


@pytest.mark.long
def test_features_are_deterministic_and_differ_by_seed():
    images, _ = digit_images(130)  # more than a batch, and not a multiple of it
    encoded = projection(seed=0).encode(images)
    assert encoded.shape == (130, 512)
    assert encoded.dtype == np.float32
    np.testing.assert_array_equal(encoded, projection(seed=0).encode(images))
    assert not np.allclose(encoded, projection(seed=1).encode(images))


@pytest.mark.long
def test_clusters_of_the_features_follow_the_digits():
    images, digits = digit_images(600)
    clusters = kmeans(projection(seed=0).encode(images), 10).labels
    assert normalized_mutual_info_score(digits, clusters) > 0.3


@pytest.mark.long
def test_features_are_cached_by_content(monkeypatch, tmp_path):
    monkeypatch.setenv("RGJAX_CACHE", str(tmp_path))
    images, _ = digit_images(10)
    encoder = projection(seed=0)
    first = encode_cached(encoder, images, "a")
    cached = encoder._replace(encode=lambda images: pytest.fail("encoded again"))
    np.testing.assert_array_equal(encode_cached(cached, images, "a"), first)
    broken = encoder._replace(fingerprint="broken", encode=lambda images: first * np.nan)
    with pytest.raises(UserError, match="not finite"):
        encode_cached(broken, images, "a")
    other = encoder._replace(fingerprint="other weights", encode=lambda images: first + 1)
    np.testing.assert_array_equal(encode_cached(other, images, "a"), first + 1)
