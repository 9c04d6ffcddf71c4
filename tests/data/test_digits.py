import numpy as np
from sklearn.datasets import load_digits

from rgjax.data.digits import load
from tests.support.data import data_config


def test_digits_equal_scikit_learns():
    source = load(data_config("digits", image_size=8))
    np.testing.assert_array_equal(source.labels, load_digits().target)
    np.testing.assert_allclose(source.inputs[..., 0], load_digits().images * 255 / 16, atol=0.5)
    assert load(data_config("digits", image_size=32)).inputs.shape == (1797, 32, 32, 3)
    assert load(data_config("digits", image_size=16)).fingerprint != source.fingerprint
