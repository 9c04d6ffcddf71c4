"""K-means and the encoder of images on this machine's devices."""

import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from rgjax.config import method_config
from rgjax.encoders import make_encoder
from rgjax.regroup import kmeans as rgjax_kmeans
from tests.accelerator.figures import Figures
from tests.support.downloads import write_clip

DIM = 512


def kmeans(figures: Figures) -> None:
    """From given centers, so that scikit-learn's fit of the smaller case can tell whether the result is right."""
    from sklearn.cluster import KMeans

    for points, clusters, iterations in ((49_500, 99, 12), (1_000_000, 200, 5)):
        if figures.tiny:
            points, clusters = points // 100, clusters // 10
        rng = np.random.default_rng(0)
        middles = rng.normal(scale=0.5, size=(clusters, DIM)).astype(np.float32)
        x = middles[rng.integers(0, clusters, points)] + rng.standard_normal((points, DIM), np.float32)
        settings, init = rgjax_kmeans.KMeansSettings(max_iter=iterations, tol=0.0), x[:clusters].copy()

        def fit(x=x, clusters=clusters, settings=settings, init=init):
            return rgjax_kmeans.kmeans(x, clusters, settings, init=init)

        case, first = f"K-means, {points:,} x {DIM}, {clusters} clusters, {iterations} iterations", fit()
        seconds, second = _timed(fit)
        same = all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
        figures.add(case, seconds=seconds, examples_per_s=points * iterations / seconds, same_bits=same)
        if points <= 50_000:
            theirs = KMeans(clusters, init=init, n_init=1, max_iter=iterations, tol=0).fit(x)
            agreement = float((theirs.labels_ == first.labels).mean())
            inertia = float(first.inertia / theirs.inertia_ - 1)
            equal = agreement > 0.999 and abs(inertia) < 1e-4
            figures.add(case, agreement=agreement, relative_inertia=inertia, equals_reference=equal)


def encoder(figures: Figures) -> None:
    """A random CLIP tower of full size on JPEG files of 224 pixels in memory: decoded, prepared and encoded."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "clip"
        write_clip(folder, layers=1 if figures.tiny else 12)
        config = method_config("rg", {"encoder.name": "clip", "encoder.checkpoint": str(folder)}).encoder
        clip = make_encoder(config, "images", max_length=0, encoder_of_run=_no_run)
        pictures = [_jpeg(i) for i in range(8 if figures.tiny else 2048)]
        clip.encode(pictures[:64])  # compiles
        seconds, features = _timed(lambda: clip.encode(pictures))
        again = clip.encode(pictures)
        case = "CLIP ViT-B/32, from JPEG to features"
        figures.add(case, examples_per_s=len(pictures) / seconds, same_bits=np.array_equal(features, again))


def _jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (28, 28, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((224, 224)).save(file, "JPEG")
    return file.getvalue()


def _no_run(*_):
    raise ValueError("no finished run encodes here")


def _timed(function: Callable) -> tuple[float, object]:
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result
