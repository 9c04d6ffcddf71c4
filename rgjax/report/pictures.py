"""Pictures of a regrouping, by which a person judges whether the groups make sense."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from rgjax.regroup import Regrouping
from rgjax.sampling.deepsmote import Synthetic
from rgjax.storage.files import atomic_path

_NEAREST, _RANDOM = 8, 4  # members shown of each group
_TILE, _GAP, _MARGIN = 64, 4, 72  # pixels
_LONGEST = 2000  # characters of a sentence


def draw_groups(
    folder: Path,
    inputs: np.ndarray,
    rows: np.ndarray,
    regrouping: Regrouping,
    features: np.ndarray | None,
    class_names: tuple[str, ...],
) -> None:
    """Write into `folder` a picture (images [M, H, W, 3]) or a Markdown table (sentences [M]) for each class that is
    split, and `sizes.png`, the sizes of all groups. Those are the groups of the training `rows` [N] of the inputs.

    Each group shows the members nearest to its center in `features` [N, D], and some random ones; without features
    only those.
    """
    for c, name in enumerate(class_names):
        groups = np.flatnonzero(regrouping.parent == c)
        if len(groups) < 2:
            continue
        members = (_members(regrouping.pseudo_labels == group, features) for group in groups)
        shown = [
            (group, size, rows[nearest], rows[others])
            for group, (size, nearest, others) in zip(groups, members, strict=True)
        ]
        path = folder / _file_name(c, name)
        if inputs.ndim == 1:
            with atomic_path(path.with_suffix(".md")) as temporary:
                temporary.write_text(_table(name, inputs, shown), encoding="utf-8")
        else:
            with atomic_path(path.with_suffix(".png")) as temporary:
                _sheet(inputs, shown).save(temporary)
    with atomic_path(folder / "sizes.png") as temporary:
        _draw_sizes(temporary, regrouping, class_names)


def draw_synthetic(
    folder: Path, shown: np.ndarray, regrouping: Regrouping, synthetic: Synthetic, class_names: tuple[str, ...]
) -> None:
    """Write into `folder` a picture of each class: of its real images among the `shown` [S, H, W, 3], below them what
    the autoencoder makes of each, and below those synthetic ones, if the class has any."""
    labels = regrouping.parent[regrouping.pseudo_labels[synthetic.shown]]
    made = regrouping.parent[synthetic.labels]
    columns = _NEAREST + _RANDOM
    for c, name in enumerate(class_names):
        rng = np.random.default_rng(0)
        seen = rng.permutation(np.flatnonzero(labels == c))[:columns]
        drawn = rng.permutation(np.flatnonzero(made == c))[: 2 * columns]
        lines = [("real", shown[seen]), ("reconstructed", synthetic.reconstructed[seen])]
        lines += [("synthetic", synthetic.images[part]) for part in (drawn[:columns], drawn[columns:]) if len(part)]
        with atomic_path(folder / f"{_file_name(c, name)}.png") as temporary:
            _lines(lines, columns).save(temporary)


def _file_name(c: int, name: str) -> str:
    return f"{c}-{re.sub(r'[^A-Za-z0-9]+', '_', name)}"


def _lines(lines: list[tuple[str, np.ndarray]], columns: int) -> Image.Image:
    """One row of images for each line, behind its name."""
    step = _TILE + _GAP
    sheet = Image.new("RGB", (_MARGIN + columns * step, len(lines) * step + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for line, (name, images) in enumerate(lines):
        top = _GAP + line * step
        pen.text((_GAP, top + _TILE // 2 - 6), name, fill="black", font_size=10)
        for column, image in enumerate(images):
            sheet.paste(Image.fromarray(image).resize((_TILE, _TILE)), (_MARGIN + column * step, top))
    return sheet


def _members(inside: np.ndarray, features: np.ndarray | None) -> tuple[int, np.ndarray, np.ndarray]:
    """A group's size, its rows nearest to the center, and random others of its rows."""
    rows = np.flatnonzero(inside)
    nearest = rows[:0]
    if features is not None:
        distances = np.linalg.norm(features[rows] - features[rows].mean(axis=0), axis=1)
        nearest = rows[np.argsort(distances, kind="stable")[:_NEAREST]]
    others = np.setdiff1d(rows, nearest)
    return len(rows), nearest, np.random.default_rng(0).permutation(others)[:_RANDOM]


def _sheet(images: np.ndarray, shown) -> Image.Image:
    """One row a group: its number and size, the nearest members, and after a gap the random ones."""
    step = _TILE + _GAP
    width = _MARGIN + (_NEAREST + _RANDOM) * step + 4 * _GAP
    sheet = Image.new("RGB", (width, len(shown) * step + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for line, (group, size, nearest, others) in enumerate(shown):
        top = _GAP + line * step
        pen.text((_GAP, top + _TILE // 2 - 12), f"group {group}\n{size} images", fill="black", font_size=11)
        for column, row in (*enumerate(nearest), *enumerate(others, start=_NEAREST)):
            left = _MARGIN + column * step + (4 * _GAP if column >= _NEAREST else 0)
            sheet.paste(Image.fromarray(images[row]).resize((_TILE, _TILE)), (left, top))
    return sheet


def _table(name: str, sentences: np.ndarray, shown) -> str:
    def lines() -> Iterator[str]:
        yield f"# {_plain(name)}: {len(shown)} groups"
        for group, size, nearest, others in shown:
            yield f"\n## Group {group}: {size} sentences\n\n| | |\n|---|---|"
            yield from (f"| central | {_plain(str(sentences[row])[:_LONGEST])} |" for row in nearest)
            yield from (f"| random | {_plain(str(sentences[row])[:_LONGEST])} |" for row in others)

    return "\n".join(lines()) + "\n"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", " ".join(text.split()))


def _draw_sizes(path: Path, regrouping: Regrouping, class_names: tuple[str, ...]) -> None:
    # Imported here: it takes a second, and most calls of the command draw nothing.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.4, regrouping.num_pseudo_classes / 8), 4), layout="constrained")
    axes = figure.subplots()
    for c, name in enumerate(class_names):
        groups = np.flatnonzero(regrouping.parent == c)
        axes.bar(groups, np.sort(regrouping.counts[groups])[::-1], label=name.replace("$", r"\$"), color=f"C{c % 10}")
    axes.set(xlabel="pseudo-classes, by class and size", ylabel="training rows", xticks=[])
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(path, dpi=120)
