"""Formatting of results as Markdown, CSV and LaTeX; for JSON see :func:`unsmear.evaluation.results.write_results`."""

import csv
import io
import re
from collections.abc import Iterator, Sequence

from unsmear.evaluation.published import COMPARISONS, known_dataset, published_figures
from unsmear.evaluation.results import ClipResult, Result
from unsmear.evaluation.tables import Block, Cell, all_blocks
from unsmear.metrics.catalogue import METRICS

CSV_COLUMNS = (
    "kind",
    "dataset",
    "protocol",
    "average",
    "method",
    "clip",
    "frames",
    "metric",
    "unit",
    "better",
    "value",
    "input",
    "low_95",
    "high_95",
    "device",
    "dtype",
    "source",
    "remark",
)
"""Columns of the CSV, one value per line; ``kind`` is overall, clip or published."""

LATEX_HEAD = "% Needs \\usepackage{booktabs} and \\usepackage{graphicx}.\n"

_COSTS = {"seconds_per_frame": "s", "peak_memory_mb": "MiB"}


def markdown(results: Sequence[Result]) -> str:
    """All tables as Markdown: overall, published on the same data sets, per clip. The best comparable value is bold."""
    return "\n".join(block_markdown(block) for block in all_blocks(results))


def latex(results: Sequence[Result]) -> str:
    """All tables as LaTeX ``table`` environments, which need the packages ``booktabs`` and ``graphicx``."""
    return LATEX_HEAD + "\n".join(block_latex(block) for block in all_blocks(results))


def csv_text(results: Sequence[Result]) -> str:
    """All results as CSV with the columns ``CSV_COLUMNS``, one value per line in full precision."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_csv_rows(results))
    return out.getvalue()


def block_markdown(block: Block) -> str:
    """One table as Markdown, with its title and notes."""

    def shown(cell: Cell) -> str:
        text = _one_line(cell.text).replace("\\", "\\\\").replace("|", "\\|")
        text = f"**{text}**" if cell.best else text
        return f"{text} [{cell.interval[0]}, {cell.interval[1]}]" if cell.interval else text

    rules = ["---"] * block.words + ["---:"] * (len(block.columns) - block.words)
    lines = [f"### {_one_line(block.title)}", "", *(f"{note}  " for note in block.notes)]
    if block.notes:
        lines.append("")
    lines += [_row(block.columns), _row(rules), *(_row([shown(c) for c in row]) for row in block.rows), ""]
    return "\n".join(lines)


def _row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _one_line(text: str) -> str:
    return " ".join(text.split())


_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: "\\" + c for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "∞": r"$\infty$",
    "−": r"$-$",
    "–": "--",
}


def escape_latex(text: str) -> str:
    """Escape text for LaTeX; characters that are neither ASCII nor in the table of escapes are replaced by ``?``."""
    out = "".join(_LATEX.get(c) or (c if c.isascii() and c.isprintable() else "?") for c in _one_line(text))
    return re.sub(r"\[", "{[}", out)  # after \\ a bracket would be an optional argument


def block_latex(block: Block) -> str:
    """One table as a LaTeX ``table`` environment, with its notes in the caption."""

    def shown(cell: Cell) -> str:
        text = escape_latex(cell.text)
        text = rf"\textbf{{{text}}}" if cell.best else text
        if cell.interval:
            low, high = map(escape_latex, cell.interval)
            text += rf" {{\scriptsize {{[}}{low}, {high}]}}"
        return text

    def line(texts: Sequence[str]) -> str:
        return "      " + " & ".join(texts) + r" \\"

    spec = "l" * block.words + "r" * (len(block.columns) - block.words)
    notes = " ".join(escape_latex(note) for note in block.notes)
    caption = f"{escape_latex(block.title)}. {notes}".strip()
    return "\n".join(
        [
            r"\begin{table}[ht]",
            r"  \centering",
            rf"  \caption{{{caption}}}",
            r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"    \begin{{tabular}}{{{spec}}}",
            r"      \toprule",
            line([escape_latex(c) for c in block.columns]),
            r"      \midrule",
            *(line([shown(cell) for cell in row]) for row in block.rows),
            r"      \bottomrule",
            r"    \end{tabular}}",
            r"\end{table}",
            "",
        ]
    )


def _csv_rows(results: Sequence[Result]) -> Iterator[dict[str, object]]:
    for result in results:
        head = {
            "dataset": result.dataset,
            "protocol": result.protocol,
            "average": result.average,
            "method": result.method,
            "device": result.device,
            "dtype": result.dtype,
        }
        for name in result.metrics:
            low, high = result.interval(name) or ("", "")
            yield (
                head
                | _metric(name)
                | {
                    "kind": "overall",
                    "frames": sum(c.frames for c in result.clips if name in c.values),
                    "value": result.mean(name),
                    "input": _or_empty(result.mean(name, before=True)),
                    "low_95": low,
                    "high_95": high,
                }
            )
        yield from _costs(head | {"kind": "overall", "frames": sum(c.frames for c in result.clips)}, result)
        for clip in result.clips:
            own = head | {"kind": "clip", "clip": clip.clip, "frames": clip.frames, "remark": clip.note}
            for name in (n for n in METRICS if n in clip.values):
                yield own | _metric(name) | {"value": clip.values[name], "input": clip.before.get(name, "")}
            yield from _costs(own, clip)
    for dataset in dict.fromkeys(r.dataset for r in results):
        for f in published_figures():
            if f.dataset == known_dataset(dataset) and f.metric in METRICS and f.table in COMPARISONS[f.paper]:
                yield _metric(f.metric) | {
                    "kind": "published",
                    "dataset": f.dataset,
                    "protocol": f.protocol,
                    "method": f.method,
                    "value": f.printed,
                    "source": f"{f.paper}, Table {f.table}",
                    "remark": f.remark,
                }


def _metric(name: str) -> dict[str, object]:
    metric = METRICS[name]
    return {"metric": name, "unit": metric.unit, "better": metric.better}


def _costs(head: dict[str, object], measured: Result | ClipResult) -> Iterator[dict[str, object]]:
    for name, unit in _COSTS.items():
        value = getattr(measured, name)
        if value is not None:
            yield head | {"metric": name, "unit": unit, "better": "lower", "value": value}


def _or_empty(value: float | None) -> float | str:
    return "" if value is None else value
