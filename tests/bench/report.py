"""A result as a row of the table."""

HEADER = (
    f"{'case':<23} {'ours ms':>9} {'min - max':>16} {'theirs ms':>9} {'min - max':>16} {'ratio':>6} {'min - max':>12} "
    f"{'GFLOP/s':>9} {'of peak':>9} rounds, fastest of theirs"
)


def against_peak(result: dict, peak: float) -> dict:
    """The result with the machine's `peak` GFLOP/s for matrix products, and the share of it that either way reaches."""
    shares = {
        f"{way}_of_peak": result[f"{way}_gflops"] / peak for way in ("ours", "theirs") if f"{way}_gflops" in result
    }
    return result | {"peak_gflops": peak} | shares


def row(name: str, result: dict) -> str:
    columns = [f"{name:<23}"]
    for way in ("ours", "theirs"):
        columns.append(_cell(result[way], 9, lambda v: f"{1e3 * v:.1f}"))
        columns.append(_span(result, way, 16, lambda v: f"{1e3 * v:.1f}"))
    columns.append(_cell(result["ratio"], 6, lambda v: f"{v:.2f}"))
    columns.append(_span(result, "ratio", 12, lambda v: f"{v:.2f}"))
    columns.append(_pair(result, "gflops", lambda v: f"{v:.0f}"))
    columns.append(_pair(result, "of_peak", lambda v: f"{v:.0%}"))
    return " ".join([*columns, f"{result['rounds']}, {result.get('fastest', 'not installed')}"])


def _cell(value: float | None, width: int, text) -> str:
    return f"{'-' if value is None else text(value):>{width}}"


def _span(result: dict, name: str, width: int, text) -> str:
    low, high = result.get(f"{name}_min"), result.get(f"{name}_max")
    return f"{'-' if low is None else f'{text(low)} - {text(high)}':>{width}}"


def _pair(result: dict, name: str, text) -> str:
    """Ours and theirs in one column."""
    values = [result.get(f"{way}_{name}") for way in ("ours", "theirs")]
    return f"{'/'.join('-' if value is None else text(value) for value in values):>9}"
