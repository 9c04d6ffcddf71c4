"""The page: one HTML file that needs nothing else, neither network nor the folder that it lies in."""

import base64
import io
import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from PIL import Image

from rgjax.report.plots.charts import Chart
from rgjax.report.runs import Run
from rgjax.report.study import Choice, Difference, Line, Study, caption, choices, differences, state, statuses, table

_log = logging.getLogger(__name__)

_THUMBNAIL = 640, 6000  # pixels


@dataclass(frozen=True)
class Section:
    """What the page shows of a study."""

    study: Study
    lines: Sequence[Line]
    caption: str
    choices: Sequence[Choice]
    differences: Sequence[tuple[Difference, Difference | None]]  # BA, macro AP
    figures: Sequence[tuple[str, Chart]]  # data URI, what it is of
    grouped: Run | None  # whose groups are shown
    pictures: Sequence[tuple[str, str]]  # data URI, file
    texts: Sequence[tuple[str, str]]  # text, file


def page(title: str, command: str | None, drawn: Iterable[tuple[Study, Sequence[Chart]]]) -> str:
    """The whole page; `drawn` are the studies with their figures."""
    sections = [_section(study, charts) for study, charts in drawn]
    counts = statuses(section.study for section in sections)
    runs = [run for section in sections for run in section.study.runs]
    return _template().render(
        title=title,
        state=state(counts),
        complete=not sum(n for status, n in counts.items() if status != "done"),
        command=command,
        sections=sections,
        origins=_origins(runs),
        fingerprints=_fingerprints(runs),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("rgjax.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent}
    return environment.get_template("report.html.jinja")


def _section(study: Study, charts: Sequence[Chart]) -> Section:
    lines = table(study)
    macro_ap = {difference.label: difference for difference in differences(study, "test_macro_ap")}
    grouped, pictures, texts = _groups(study)
    return Section(
        study,
        lines,
        caption(study, lines),
        choices(study),
        [(ba, macro_ap.get(ba.label)) for ba in differences(study, "test_ba")],
        [(_uri(chart.svg.read_bytes(), "svg+xml"), chart) for chart in charts],
        grouped,
        pictures,
        texts,
    )


def _groups(study: Study) -> tuple[Run | None, list, list]:
    """The cluster pictures and texts of the first run that has any, reported runs before those of tuning."""
    for run in sorted(study.runs, key=lambda run: -run.stage):
        paths = sorted((run.folder / "groups").glob("*"), key=lambda path: (path.stem == "sizes", path.name))
        pictures = [(uri, path.name) for path in paths if path.suffix == ".png" and (uri := _thumbnail(path))]
        texts = [(_unescaped(path), path.name) for path in paths if path.suffix == ".md"]
        if pictures or texts:
            return run, pictures, texts
    return None, [], []


def _thumbnail(path: Path) -> str | None:
    try:
        with Image.open(path) as picture:  # noqa: TID251
            small = picture.convert("RGB")
            small.thumbnail(_THUMBNAIL)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        _log.warning(f"{path} is damaged and left out: {error}")
        return None
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return _uri(file.getvalue(), "jpeg")


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _unescaped(path: Path) -> str:
    """A Markdown table of rgjax.figures as plain text."""
    text = re.sub(r"^(\| \| \||\|---\|---\|)\n", "", path.read_text(encoding="utf-8", errors="replace"), flags=re.M)
    text = re.sub(r"^\| (\w+) \| (.*) \|$", r"\1: \2", text, flags=re.M)
    return re.sub(r"\\([^\w\s])", r"\1", text)


def _origins(runs: Iterable[Run]) -> list[tuple[dict[str, str], int]]:
    """What the runs were made with, the most frequent first."""
    found = Counter(json.dumps(_origin(run.provenance), sort_keys=True) for run in runs if run.provenance)
    return [(json.loads(text), count) for text, count in found.most_common()]


def _origin(provenance: dict) -> dict[str, str]:
    git, packages, devices = (provenance.get(name) for name in ("git", "packages", "devices"))
    code = "not from a git clone"
    if isinstance(git, dict):
        code = f"{git.get('commit')}{' with uncommitted changes' if git.get('dirty') else ''}"
    named = [f"{name} {version}" for name, version in packages.items()] if isinstance(packages, dict) else []
    kinds = Counter(map(str, devices)) if isinstance(devices, list) else {}
    return {
        "code": code,
        "packages": ", ".join([f"Python {provenance.get('python')}", *named]),
        "devices": ", ".join(f"{n} x {kind}" for kind, n in kinds.items()),
    }


def _fingerprints(runs: Iterable[Run]) -> list[tuple[str, str, list[tuple[str, int]]]]:
    """Study, what was fingerprinted, and each value with the number of its runs."""
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for run in runs:
        prints = run.provenance.get("fingerprints")
        for name, value in (prints if isinstance(prints, dict) else {}).items():
            found[run.row["study"], name][str(value)] += 1
    return [(*key, counts.most_common()) for key, counts in sorted(found.items())]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
