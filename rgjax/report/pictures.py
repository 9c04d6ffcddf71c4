"""Pictures of a regrouping, to judge by eye whether its groups make sense."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from rgjax.regroup import Regrouping
from rgjax.report.text import escape_markdown, file_name, shorten
from rgjax.sampling.deepsmote import Synthetic
from rgjax.storage.files import atomic_path

_NEAREST, _RANDOM = 8, 4  # members shown for each group
_TILE, _GAP, _MARGIN = 64, 4, 72  # pixels
_SHORT_NAME = 11  # characters that fit the margin
_BAR, _MAX_WIDTH = 0.16, 16.0  # inches of a bar with a name, and of all bars
_SHADES = "#0072B2", "#E69F00"
_MAX_CHARACTERS = 2000  # of a sentence


class _Group(NamedTuple):
    """A group, its subclass if it is one, and indices of members to show."""

    number: int
    name: str
    size: int
    nearest: np.ndarray
    random: np.ndarray


def draw_groups(
    folder: Path,
    inputs: np.ndarray,
    indices: np.ndarray,
    regrouping: Regrouping,
    features: np.ndarray | None,
    class_names: tuple[str, ...],
) -> None:
    """Write a picture or a Markdown table for each split class, and `sizes.png`.

    Each group shows the members nearest to its center, and some random ones.

    Args:
        folder: where the files go.
        inputs: images [M, H, W, 3] or sentences [M] of the whole data set.
        indices: the training examples [N] among the inputs.
        regrouping: the groups of the training examples.
        features: features [N, D] of the training examples, or None to show random members only.
        class_names: the classes, in order.
    """
    for c, name in enumerate(class_names):
        numbers = np.flatnonzero(regrouping.parent == c)
        if len(numbers) < 2:
            continue
        groups = [_group(regrouping, int(number), indices, features) for number in numbers]
        path = folder / f"{c}-{file_name(name)}"
        if inputs.ndim == 1:
            with atomic_path(path.with_name(f"{path.name}.md")) as temporary:
                temporary.write_text(_group_table(name, inputs, groups), encoding="utf-8")
        else:
            with atomic_path(path.with_name(f"{path.name}.png")) as temporary:
                _group_sheet(inputs, groups).save(temporary)
    with atomic_path(folder / "sizes.png") as temporary:
        _draw_sizes(temporary, regrouping, class_names)


def draw_synthetic(
    folder: Path, real: np.ndarray, regrouping: Regrouping, synthetic: Synthetic, class_names: tuple[str, ...]
) -> None:
    """Write a picture of real, reconstructed and synthetic images for each class.

    Args:
        folder: where the files go.
        real: the images [S, H, W, 3] that the autoencoder reconstructed, `synthetic.shown`.
        regrouping: the classes of the pseudo-classes.
        synthetic: the reconstructions and the synthetic images.
        class_names: the classes, in order.
    """
    real_classes = regrouping.parent[regrouping.pseudo_labels[synthetic.shown]]
    synthetic_classes = regrouping.parent[synthetic.labels]
    columns = _NEAREST + _RANDOM
    for c, name in enumerate(class_names):
        rng = np.random.default_rng(0)
        shown = rng.permutation(np.flatnonzero(real_classes == c))[:columns]
        made = rng.permutation(np.flatnonzero(synthetic_classes == c))[: 2 * columns]
        rows = [("real", real[shown]), ("reconstructed", synthetic.reconstructed[shown])]
        rows += [("synthetic", synthetic.images[half]) for half in (made[:columns], made[columns:]) if len(half)]
        with atomic_path(folder / f"{c}-{file_name(name)}.png") as temporary:
            _labeled_sheet(rows, columns).save(temporary)


def _group(regrouping: Regrouping, number: int, indices: np.ndarray, features: np.ndarray | None) -> _Group:
    rows = np.flatnonzero(regrouping.pseudo_labels == number)
    nearest = rows[:0]
    if features is not None:
        distances = np.linalg.norm(features[rows] - features[rows].mean(axis=0), axis=1)
        nearest = rows[np.argsort(distances, kind="stable")[:_NEAREST]]
    random = np.random.default_rng(0).permutation(np.setdiff1d(rows, nearest))[:_RANDOM]
    name = regrouping.names[number] if regrouping.names else ""
    return _Group(number, name, len(rows), indices[nearest], indices[random])


def _group_sheet(images: np.ndarray, groups: Sequence[_Group]) -> Image.Image:
    """A row for each group: number, size, nearest members, a gap, random members."""
    step = _TILE + _GAP
    width = _MARGIN + (_NEAREST + _RANDOM) * step + 4 * _GAP
    sheet = Image.new("RGB", (width, len(groups) * step + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for line, group in enumerate(groups):
        top = _GAP + line * step
        text = f"group {group.number}\n{group.size} images\n{group.name[:_SHORT_NAME]}"
        pen.text((_GAP, top + _TILE // 2 - 12), text, fill="black", font_size=11)
        for column, index in (*enumerate(group.nearest), *enumerate(group.random, start=_NEAREST)):
            left = _MARGIN + column * step + (4 * _GAP if column >= _NEAREST else 0)
            sheet.paste(Image.fromarray(images[index]).resize((_TILE, _TILE)), (left, top))
    return sheet


def _labeled_sheet(rows: Sequence[tuple[str, np.ndarray]], columns: int) -> Image.Image:
    """Rows of images, each behind its name."""
    step = _TILE + _GAP
    sheet = Image.new("RGB", (_MARGIN + columns * step, len(rows) * step + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for line, (name, images) in enumerate(rows):
        top = _GAP + line * step
        pen.text((_GAP, top + _TILE // 2 - 6), name, fill="black", font_size=10)
        for column, image in enumerate(images):
            sheet.paste(Image.fromarray(image).resize((_TILE, _TILE)), (_MARGIN + column * step, top))
    return sheet


def _group_table(name: str, sentences: np.ndarray, groups: Sequence[_Group]) -> str:
    def sentence(index: int) -> str:
        return escape_markdown(str(sentences[index])[:_MAX_CHARACTERS])

    def lines() -> Iterator[str]:
        yield f"# {escape_markdown(name)}: {len(groups)} groups"
        for group in groups:
            subclass = f" ({escape_markdown(group.name)})" if group.name else ""
            yield f"\n## Group {group.number}{subclass}: {group.size} sentences\n\n| | |\n|---|---|"
            yield from (f"| central | {sentence(index)} |" for index in group.nearest)
            yield from (f"| random | {sentence(index)} |" for index in group.random)

    return "\n".join(lines()) + "\n"


def _draw_sizes(path: Path, regrouping: Regrouping, class_names: tuple[str, ...]) -> None:
    """A bar for each pseudo-class, in alternate colors by class.

    Class names that would overlap are left out.
    """
    # Imported here: it takes a second, and most commands draw nothing.
    from matplotlib.figure import Figure

    width = min(max(6.4, regrouping.num_pseudo_classes * _BAR), _MAX_WIDTH)
    bar = 0.85 * width / regrouping.num_pseudo_classes
    figure = Figure(figsize=(width, 4), layout="constrained")
    axes = figure.subplots()
    ticks: dict[float, str] = {}
    for c, name in enumerate(class_names):
        groups = np.flatnonzero(regrouping.parent == c)
        axes.bar(groups, np.sort(regrouping.counts[groups])[::-1], color=_SHADES[c % 2])
        if not ticks or (groups.mean() - max(ticks)) * bar >= _BAR:
            ticks[groups.mean()] = shorten(name, 18)
    level = np.diff([*ticks]).min(initial=np.inf) * bar >= 1
    axes.set_xticks([*ticks], [*ticks.values()], rotation=0 if level else 90)
    axes.set(xlabel="pseudo-classes, by class and size", ylabel="training examples")
    axes.margins(x=0.01)
    figure.savefig(path, dpi=120)
