"""Data sets: sources, splits, custom data, decoding and augmentation."""

from rgjax.data.dataset import Dataset as Dataset
from rgjax.data.dataset import Source as Source
from rgjax.data.load import display_name as display_name
from rgjax.data.load import load_data as load_data
