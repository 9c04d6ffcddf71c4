"""The report as one HTML file that needs neither a network nor its folder."""

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

from rgjax.report.details import Table, details, rank_tables
from rgjax.report.paragraph import paragraphs
from rgjax.report.plots.charts import Chart
from rgjax.report.runs import RunRecord
from rgjax.report.study import (
    ChosenSettings,
    Study,
    TableRow,
    chosen_settings,
    count_statuses,
    describe_progress,
    overall_titles,
    score_table,
    table_caption,
)
from rgjax.report.text import unescape_markdown

_log = logging.getLogger(__name__)

_THUMBNAIL_SIZE = 640, 6000  # pixels


@dataclass(frozen=True)
class Section:
    """The part of the page that shows one study."""

    study: Study
    rows: Sequence[TableRow]
    caption: str
    chosen: Sequence[ChosenSettings]
    details: Sequence[Table]
    figures: Sequence[tuple[str, Chart]]  # with the data URI
    regrouped: RunRecord | None  # the run whose groups are shown
    pictures: Sequence[tuple[str, str]]  # data URI, file name
    texts: Sequence[tuple[str, str]]  # text, file name

    @property
    def overall(self) -> list[str]:
        return overall_titles(self.rows)


def render_page(title: str, command: str | None, charts: Iterable[tuple[Study, Sequence[Chart]]]) -> str:
    """The page on the studies with their charts; `command` started the sweep."""
    sections = [_section(study, study_charts) for study, study_charts in charts]
    counts = count_statuses(section.study for section in sections)
    runs = [run for section in sections for run in section.study.runs]
    return _template().render(
        title=title,
        progress=describe_progress(counts),
        complete=not sum(n for status, n in counts.items() if status != "done"),
        command=command,
        paragraphs=paragraphs([section.study for section in sections]),
        ranks=rank_tables([section.study for section in sections]),
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
    environment.filters |= {"percent": lambda share: "" if share is None else f"{100 * share:.1f}"}
    return environment.get_template("report.html.jinja")


def _section(study: Study, charts: Sequence[Chart]) -> Section:
    rows = score_table(study)
    regrouped, pictures, texts = _groups(study)
    return Section(
        study,
        rows,
        table_caption(study, rows),
        chosen_settings(study),
        details(study),
        [(_data_uri(chart.svg.read_bytes(), "svg+xml"), chart) for chart in charts],
        regrouped,
        pictures,
        texts,
    )


# Pictures and texts of groups


def _groups(study: Study) -> tuple[RunRecord | None, list, list]:
    """Pictures and texts of the first run with groups, reported runs first."""
    for run in sorted(study.runs, key=lambda run: -run.stage):
        paths = sorted((run.folder / "groups").glob("*"), key=lambda path: (path.stem == "sizes", path.name))
        pictures = [(uri, path.name) for path in paths if path.suffix == ".png" and (uri := _thumbnail(path))]
        texts = [(_plain_text(path), path.name) for path in paths if path.suffix == ".md"]
        if pictures or texts:
            return run, pictures, texts
    return None, [], []


def _thumbnail(path: Path) -> str | None:
    """The data URI of a smaller copy; None, with a warning, if the file is corrupted."""
    try:
        with Image.open(path) as picture:  # noqa: TID251
            small = picture.convert("RGB")
            small.thumbnail(_THUMBNAIL_SIZE)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        _log.warning(f"{path}: corrupted ({error}); skipped")
        return None
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return _data_uri(file.getvalue(), "jpeg")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _plain_text(path: Path) -> str:
    """A Markdown table by `rgjax.report.pictures` as plain text."""
    text = re.sub(r"^(\| \| \||\|---\|---\|)\n", "", path.read_text(encoding="utf-8", errors="replace"), flags=re.M)
    return unescape_markdown(re.sub(r"^\| (\w+) \| (.*) \|$", r"\1: \2", text, flags=re.M))


# Provenance


def _origins(runs: Iterable[RunRecord]) -> list[tuple[dict[str, str], int]]:
    """Distinct combinations of code, packages and devices, with their run counts."""
    origins = Counter(json.dumps(_origin(run.provenance), sort_keys=True) for run in runs if run.provenance)
    return [(json.loads(text), count) for text, count in origins.most_common()]


def _origin(provenance: dict) -> dict[str, str]:
    git, packages, devices = (provenance.get(name) for name in ("git", "packages", "devices"))
    code = "not from a git clone"
    if isinstance(git, dict):
        code = f"{git.get('commit')}{' with uncommitted changes' if git.get('dirty') else ''}"
    versions = [f"{name} {version}" for name, version in packages.items()] if isinstance(packages, dict) else []
    kinds = Counter(map(str, devices)) if isinstance(devices, list) else {}
    return {
        "code": code,
        "packages": ", ".join([f"Python {provenance.get('python')}", *versions]),
        "devices": ", ".join(f"{n} x {kind}" for kind, n in kinds.items()),
    }


def _fingerprints(runs: Iterable[RunRecord]) -> list[tuple[str, str, list[tuple[str, int]]]]:
    """Study, input, and the fingerprints of that input with their numbers of runs."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for run in runs:
        fingerprints = run.provenance.get("fingerprints")
        for name, value in (fingerprints if isinstance(fingerprints, dict) else {}).items():
            counts[run.row["study"], name][str(value)] += 1
    return [(*key, values.most_common()) for key, values in sorted(counts.items())]
