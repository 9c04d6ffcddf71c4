"""SMOTE on features: imbalanced-learn's counts and neighbors."""

import numpy as np
from imblearn.over_sampling import SMOTE

from rgjax.sampling import feature_smote
from rgjax.sampling.smote import nearest
from tests.support.features import blobs


def test_features_are_made_as_by_imbalanced_learn():
    features, labels = blobs((60, 25, 4))
    made = feature_smote(features, labels, neighbors=3, seed=0)
    reference = SMOTE(k_neighbors=3, random_state=0)
    _, resampled = reference.fit_resample(features, labels)
    np.testing.assert_array_equal(np.bincount(made.labels), np.bincount(resampled[len(labels) :]))
    assert made.inputs.dtype == np.float32

    for label in (1, 2):
        members = features[labels == label]
        near = nearest(members, 3)
        expected = reference.nn_k_.fit(members).kneighbors(members, return_distance=False)[:, 1:]
        np.testing.assert_array_equal(np.sort(near), np.sort(expected))
        # Each lies on a segment from a member to one of its neighbors.
        start, way = members[:, None], members[near] - members[:, None]
        ahead = made.inputs[made.labels == label][:, None, None] - start
        share = (ahead * way).sum(-1) / (way**2).sum(-1)
        off = np.linalg.norm(ahead - np.clip(share, 0, 1)[..., None] * way, axis=-1)
        assert off.min(axis=(1, 2)).max() < 1e-4


def test_the_seed_draws_the_features():
    features, labels = blobs((20, 8))
    draws = [feature_smote(features, labels, neighbors=5, seed=seed).inputs for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_a_class_of_one_example_is_copied():
    features, labels = blobs((5, 1))
    np.testing.assert_array_equal(feature_smote(features, labels, neighbors=5, seed=0).inputs, features[[5] * 4])
