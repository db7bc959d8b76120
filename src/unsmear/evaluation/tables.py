"""Tables of results, independent of the format (Markdown, LaTeX or HTML).

Only comparable methods are ranked in one block: on one data set, under one protocol and one way of averaging.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import isclose, isnan

from unsmear.evaluation.published import PublishedRow, published_rows
from unsmear.evaluation.results import INPUT, Result
from unsmear.metrics.catalogue import METRICS, Metric
from unsmear.metrics.protocols import PROTOCOLS

ARROWS = {"higher": "↑", "lower": "↓"}
MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """One entry of a table."""

    text: str
    value: float | str | None = None
    """Value for sorting."""
    best: bool = False
    """Whether it is the best of comparable values."""
    interval: tuple[str, str] | None = None
    """Ends of the 95 % interval, rounded like the value."""


@dataclass(frozen=True)
class Block:
    """A table with its title and notes."""

    kind: str
    """``overall``, ``clips``, ``published`` or ``ablation``."""
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: int = 1
    """Number of columns, from the left, that contain text instead of numbers."""
    notes: tuple[str, ...] = field(default=())


def overall_blocks(results: Iterable[Result]) -> list[Block]:
    """One block for each data set, protocol and way of averaging, with a row for each method."""
    return [_overall(group) for group in comparable_groups(results)]


def clip_blocks(results: Iterable[Result]) -> list[Block]:
    """One block for each result, with a row for each clip and columns of input and output."""
    return [_clips(result) for group in comparable_groups(results) for result in group]


def published_blocks(results: Iterable[Result]) -> list[Block]:
    """Published figures on the data sets of these results: one block per protocol, without ranking.

    Figures of unknown protocol have one block per source table.
    """
    blocks = []
    for dataset in dict.fromkeys(r.dataset for r in results):
        groups: dict[tuple[str, str], list[PublishedRow]] = {}
        for row in published_rows(dataset):
            source = _source(row) if row.protocol == "unknown" else ""
            groups.setdefault((row.protocol, source), []).append(row)
        blocks += [_published(protocol, rows) for (protocol, _), rows in groups.items()]
    return blocks


def all_blocks(results: Sequence[Result]) -> list[Block]:
    """Overall blocks, then published ones, then those of clips."""
    return [*overall_blocks(results), *published_blocks(results), *clip_blocks(results)]


def comparable_groups(results: Iterable[Result]) -> list[list[Result]]:
    """Group results that are comparable in one table, in the given order."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.dataset, result.protocol, result.average), []).append(result)
    return list(groups.values())


def heading(metric: Metric) -> str:
    """Heading of a metric with direction and unit, such as ``PSNR ↑ dB``."""
    return " ".join(filter(None, (metric.label, ARROWS[metric.better], metric.unit)))


def number(value: float, decimals: int) -> str:
    """Format a number with fixed decimals and a minus sign; infinity is ∞, NaN is ``MISSING``."""
    if isnan(value):
        return MISSING
    if value in (float("inf"), float("-inf")):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{decimals}f}".replace("-", "−")


def _overall(group: Sequence[Result]) -> Block:
    first = group[0]
    scored = {tuple(sorted((clip.clip, clip.frames) for clip in r.clips)) for r in group}
    inputs = _inputs(group)
    same_clips = len(scored) == 1 and len(inputs) < 2
    rows = [*inputs, *group]
    metrics = [METRICS[name] for name in METRICS if any(name in r.metrics for r in group)]
    table = _Columns(rows, rank=same_clips and len(rows) > 1)
    table.words("method", lambda r: r.method)
    table.plain("clips", lambda r: len(r.clips))
    table.plain("frames", lambda r: sum(clip.frames for clip in r.clips))
    for m in metrics:
        table.metric(m)
        if m.name == "psnr":
            table.gain(m)
    table.measured("s a frame ↓", lambda r: r.seconds_per_frame, 3)
    table.measured("peak MiB ↓", lambda r: r.peak_memory_mb, 0)
    table.words("device", lambda r: r.device)
    table.words("dtype", lambda r: r.dtype)
    notes = [_measured_how(first)]
    if any(cell.interval for row in table.cells() for cell in row):
        notes.append("Ranges are 95 % bootstrap intervals over clips.")
    if not same_clips:
        notes.append("The methods were scored on different clips, frames or inputs: do not compare them.")
    title = f"{first.dataset}, protocol {first.protocol}"
    return Block("overall", title, table.heads(), table.cells(), 1, tuple(notes))


def _inputs(group: Sequence[Result]) -> list[Result]:
    """Results of the blurred input: one where all methods have the same input, else one per method."""
    inputs = [(r, result) for r in group if (result := r.input_result()) is not None]
    known: dict[tuple[str, str], float] = {}
    for _, result in inputs:
        for clip in result.clips:
            for metric, value in clip.values.items():
                if not isclose(known.setdefault((clip.clip, metric), value), value, rel_tol=1e-6):
                    return [replace(i, method=f"{INPUT} of {r.method}") for r, i in inputs]
    scored = {clip.clip: clip for _, result in inputs for clip in result.clips}
    clips = tuple(
        replace(clip, values={metric: v for (name, metric), v in known.items() if name == clip.clip})
        for clip in scored.values()
    )
    return [replace(inputs[0][1], clips=clips)] if inputs else []


_AVERAGES = {
    "clips": "mean per clip, then over clips",
    "frames": "mean over all frames",
    "windows": "mean per window, then over windows",
}


def _measured_how(result: Result) -> str:
    """Summary of the protocol; for an unknown protocol, or another average, the average only."""
    protocol = PROTOCOLS.get(result.protocol)
    if protocol is not None and protocol.average == result.average:
        return f"{result.protocol}: {protocol.summary}."
    return f"Average: {_AVERAGES.get(result.average, result.average)}."


class _Columns:
    """Columns of a table; those without any value are dropped."""

    def __init__(self, rows: Sequence[Result], *, rank: bool):
        self.rows, self.rank = rows, rank
        self._columns: list[tuple[str, list[Cell]]] = []

    def heads(self) -> tuple[str, ...]:
        return tuple(head for head, _ in self._columns)

    def cells(self) -> tuple[tuple[Cell, ...], ...]:
        return tuple(zip(*(column for _, column in self._columns), strict=True))

    def words(self, head: str, get: Callable[[Result], str]) -> None:
        self._add(head, [Cell(get(r) or MISSING, get(r) or None) for r in self.rows])

    def plain(self, head: str, get: Callable[[Result], int]) -> None:
        self._add(head, [Cell(str(get(r)), get(r)) for r in self.rows])

    def measured(self, head: str, get: Callable[[Result], float | None], decimals: int) -> None:
        values = [get(r) for r in self.rows]
        self._add(head, [Cell(MISSING) if v is None else Cell(number(v, decimals), v) for v in values])

    def metric(self, m: Metric) -> None:
        values = [r.mean(m.name) for r in self.rows]
        best = best_of(values, m) if self.rank else set()
        cells = []
        for i, (row, value) in enumerate(zip(self.rows, values, strict=True)):
            interval = row.interval(m.name)
            cells.append(figure_cell(value, m.decimals, i in best, interval))
        self._add(heading(m), cells)

    def gain(self, m: Metric) -> None:
        cells = []
        for row in self.rows:
            interval = row.interval(m.name, gain=True)
            cells.append(figure_cell(row.mean_gain(m.name), m.decimals, False, interval, signed=True))
        self._add(f"{m.label} gain {m.unit}".strip(), cells)

    def _add(self, head: str, cells: list[Cell]) -> None:
        if any(cell.value is not None for cell in cells):
            self._columns.append((head, cells))


def figure_cell(
    value: float | None, decimals: int, best: bool, interval: tuple[float, float] | None, *, signed: bool = False
) -> Cell:
    """Cell of a rounded value and its interval; ``MISSING`` for None."""
    if value is None:
        return Cell(MISSING)

    def shown(x: float) -> str:
        return f"+{number(x, decimals)}" if signed and x > 0 else number(x, decimals)

    ends = None if interval is None else (shown(interval[0]), shown(interval[1]))
    return Cell(shown(value), value, best, ends)


def best_of(values: Sequence[float | None], metric: Metric) -> set[int]:
    """Indices of the best value, including ties at the printed precision; empty for fewer than two values."""
    rounded = [(round(v, metric.decimals), i) for i, v in enumerate(values) if v is not None]
    if len(rounded) < 2:
        return set()
    best = max(rounded)[0] if metric.better == "higher" else min(rounded)[0]
    return {i for v, i in rounded if v == best}


def _clips(result: Result) -> Block:
    heads = ["clip", "frames"]
    columns: list[list[Cell]] = [
        [Cell(c.clip, c.clip) for c in result.clips],
        [Cell(str(c.frames), c.frames) for c in result.clips],
    ]
    for name in result.metrics:
        m = METRICS[name]
        before = [c.before.get(name) for c in result.clips]
        after = [c.values.get(name) for c in result.clips]
        best = [best_of(pair, m) for pair in zip(before, after, strict=True)]
        if any(v is not None for v in before):
            heads += [f"{m.label} input", heading(m)]
            columns.append([figure_cell(v, m.decimals, 0 in b, None) for v, b in zip(before, best, strict=True)])
        else:
            heads.append(heading(m))
        columns.append([figure_cell(v, m.decimals, 1 in b, None) for v, b in zip(after, best, strict=True)])
    for head, costs, decimals in (
        ("s a frame", [c.seconds_per_frame for c in result.clips], 3),
        ("peak MiB", [c.peak_memory_mb for c in result.clips], 0),
    ):
        if any(v is not None for v in costs):
            heads.append(head)
            columns.append([figure_cell(v, decimals, False, None) for v in costs])
    if any(c.note for c in result.clips):
        heads.append("note")
        columns.append([Cell(c.note, c.note) for c in result.clips])
    title = f"{result.method} on {result.dataset}, protocol {result.protocol}, clip by clip"
    return Block("clips", title, tuple(heads), tuple(zip(*columns, strict=True)))


def _source(row: PublishedRow) -> str:
    return f"{row.paper}, Table {row.table}"


def _published(protocol: str, rows: Sequence[PublishedRow]) -> Block:
    metrics = [METRICS[name] for name in METRICS if any(name in row.printed for row in rows)]
    body = []
    for row in rows:
        figures = [row.printed.get(m.name) for m in metrics]
        words = [Cell(row.method, row.method), Cell(_source(row), _source(row))]
        body.append((*words, *(Cell(MISSING) if p is None else Cell(p, float(p)) for p in figures)))
    remarks: dict[str, list[str]] = {}
    for row in rows:
        for remark in row.remarks:
            remarks.setdefault(remark, []).append(row.method)
    label = f"unknown ({_source(rows[0])})" if protocol == "unknown" else protocol
    return Block(
        "published",
        f"Published on {rows[0].dataset}, protocol {label}",
        ("method", "source", *(heading(m) for m in metrics)),
        tuple(body),
        2,
        (
            "Copied from the papers, not measured here.",
            *([f"{protocol}: {PROTOCOLS[protocol].summary}."] if protocol in PROTOCOLS else []),
            *(f"{', '.join(dict.fromkeys(methods))}: {remark}." for remark, methods in remarks.items()),
        ),
    )
