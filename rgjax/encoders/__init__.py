"""Encoders: the features on which classes are clustered."""

from rgjax.encoders.encoder import GIVEN as GIVEN
from rgjax.encoders.encoder import Encoder as Encoder
from rgjax.encoders.encoder import encode_cached as encode_cached
from rgjax.encoders.encoder import features_of as features_of
from rgjax.encoders.factory import make_encoder as make_encoder
from rgjax.encoders.projection import encode_images as encode_images
from rgjax.encoders.text import encode_tokens as encode_tokens
