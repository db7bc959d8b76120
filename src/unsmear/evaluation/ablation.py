"""Tables of CPGD-Net (I to IV; Figs. 6 to 9 and 11) and ablations of stage 2's options, compared with the paper.

Rows without a checkpoint of their own are measured with one network, trained with coding motion and residuals, where
its options allow it; the paper does not state whether a network was trained for each row.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from unsmear.errors import UsageError
from unsmear.evaluation.generation import Generators
from unsmear.evaluation.motion import MovedRestorer, motion_cost
from unsmear.evaluation.pictures import Picture, Rgb, most_blurred_crop, side_by_side
from unsmear.evaluation.published import PublishedRow, ablation_rows
from unsmear.evaluation.results import Result
from unsmear.evaluation.tables import MISSING, Block, Cell, best_of, figure_cell, heading
from unsmear.evaluation.variants import TABLES, TITLES, Variant, find_table
from unsmear.metrics import psnr
from unsmear.metrics.catalogue import METRICS
from unsmear.models import zoo
from unsmear.models.motion_sources import find_source
from unsmear.priors.flow import Cost
from unsmear.restore.restorer import Restorer

log = logging.getLogger(__name__)

Evaluate = Callable[[Restorer, str], tuple[Result, Sequence[Picture]]]
"""(restorer, name of the row) → result and pictures."""


@dataclass(frozen=True)
class AblationRow:
    """A row with its result."""

    variant: Variant
    result: Result | None = None
    pictures: Sequence[Picture] = ()
    cost: Cost | None = None
    """Cost of motion fields; Table III only."""
    cost_size: tuple[int, int] | None = None
    """Width and height at which the cost was measured, pixels."""
    reason: str = ""
    """Reason why there is no result."""
    same_weights: bool = False
    """Whether it was measured with the weights of ``full``, which were trained for other options."""
    model: str = ""
    """Name or folder of the model, for rows of stage 2."""
    published: Sequence[PublishedRow] = ()
    """Figures of the paper, one group per protocol; empty for our rows."""

    @property
    def paper(self) -> dict[str, str]:
        """Those figures by metric, as printed."""
        return {metric: text for group in self.published for metric, text in group.printed.items()}

    @property
    def label(self) -> str:
        """Label in tables."""
        return f"{self.variant.label}, same weights" if self.same_weights and self.result else self.variant.label


def run_ablation(
    table: str,
    load: Callable[[str], Restorer],
    evaluate: Evaluate,
    *,
    models: Mapping[str, str] | None = None,
    only: Sequence[str] | None = None,
    raft: Path | None = None,
    sample: Sequence[np.ndarray] = (),
    dataset: str = "",
    progress: Callable[[str], None] | None = None,
) -> list[AblationRow]:
    """Measure all available rows of a table.

    Args:
        table: ``I``, ``II``, ``III``, ``IV`` or ``options``.
        load: name of a shipped model or folder of weights → restorer.
        evaluate: function that measures a restorer.
        models: model of each row, by key. That of ``mv`` or ``without_cpc`` is the default stage 1, else ``cpfp``;
            that of ``full`` is the default of rows of stage 2, else the shipped model.
        only: keys of the rows to measure; None for all.
        raft: weights of RAFT.
        sample: consecutive frames ``(H, W, 3)`` for the cost of motion; empty for no cost.
        dataset: name or path of the data set, which selects the figures of Table I.
        progress: called with the label of each row before it is measured.

    Raises:
        UsageError: an unknown table or row; a checkpoint that does not match its row.
        WeightsError: RAFT's weights are damaged or do not fit.
    """
    table = find_table(table)
    models = dict(models or {})
    variants = TABLES[table]
    for option, keys in (("`models`", models), ("`only`", only or ())):
        unknown = sorted(set(keys) - {v.key for v in variants})
        if unknown:
            known = ", ".join(v.key for v in variants)
            raise UsageError(f"{option} {unknown[0]}: {TITLES[table]} has no such row; its rows are {known}")
    for variant in variants:
        if variant.part == "own" and variant.key in models:
            _check_lacks(variant, models[variant.key])
        if variant.part == "other" and variant.key in models:
            raise UsageError(f"`models` {variant.key}={models[variant.key]}: {_OTHER}")
    generators = Generators(load, models, variants)
    published = ablation_rows(table, dataset)
    reasons = {v.key: _reason(v, models, generators, raft) for v in variants}  # before any long measurement
    reasons |= {v.key: "left out" for v in variants if only is not None and v.key not in only}
    rows = []
    for variant in variants:
        beside = tuple(group for group in published if group.method == (variant.published or variant.key))
        row = AblationRow(variant, reason=reasons[variant.key], published=beside)
        if not row.reason:
            if progress:
                progress(variant.label)
            if variant.part == "stage 2":
                result, pictures = evaluate(generators.restorer(variant), variant.key)
                row = replace(row, result=result, pictures=pictures)
                row = replace(row, same_weights=generators.shares(variant), model=generators.model(variant))
            else:
                name = models.get(variant.key) or models.get("mv") or models.get("without_cpc")
                inner = (None if name else generators.first) or load(name or "cpfp")
                row = _measured(row, inner, evaluate, raft, sample if table == "III" else ())
        rows.append(row)
    return rows


_OTHER = "another method: `unsmear evaluate OUTPUT TARGET` measures its frames"


def _reason(variant: Variant, models: Mapping[str, str], generators: Generators, raft: Path | None) -> str:
    """Reason why a row cannot be measured; empty where it can."""
    if variant.part == "stage 2":
        return generators.reason(variant)
    if variant.part == "other":
        return _OTHER
    if variant.part == "own" and variant.key not in models:
        return f"needs a checkpoint trained without {variant.lacks}: give {variant.key}=DIR as `models`"
    if variant.motion.startswith("raft"):
        if raft is None:
            return "needs RAFT's weights: give them as `raft`"
        try:
            find_source(variant.motion, raft)
        except UsageError as error:
            return str(error)
    return ""


def _measured(
    row: AblationRow, inner: Restorer, evaluate: Evaluate, raft: Path | None, sample: Sequence[np.ndarray]
) -> AblationRow:
    """Measure a row of stage 1."""
    variant = row.variant
    source = find_source(variant.motion, raft, inner.device)
    # Names are unique for each row, also in files of finished clips.
    name = f"{inner.name}-{variant.key}"
    restorer = MovedRestorer(inner, source, residual=variant.residual, name=name)
    cost = size = None
    if len(sample) > 1:
        cost = motion_cost(source, sample)
        size = (sample[0].shape[1], sample[0].shape[0])
    result, pictures = evaluate(restorer, variant.key)
    return replace(row, result=result, pictures=pictures, cost=cost, cost_size=size)


def _check_lacks(variant: Variant, model: str) -> None:
    if zoo.find(model).config.get("use_residual", True):
        raise UsageError(
            f"`models` {variant.key}={model}: this network is conditioned on coding residuals; "
            "give one trained with use_residual: false"
        )


def as_dicts(rows: Sequence[AblationRow]) -> list[dict[str, Any]]:
    """JSON values of all rows: results, costs, reasons, and figures of the paper."""
    return [
        {
            "row": row.variant.key,
            "label": row.label,
            "same_weights": row.same_weights,
            "result": row.result.as_dict() if row.result else None,
            "cost": row.cost.as_dict() if row.cost else None,
            "reason": row.reason,
            "paper": row.paper,
        }
        for row in rows
    ]


def ablation_block(table: str, rows: Sequence[AblationRow]) -> Block:
    """Table of our results and those of the paper, with reasons for missing ones."""
    results = [row.result for row in rows if row.result is not None]
    names = [n for n in METRICS if any(n in r.metrics for r in results) or any(n in row.paper for row in rows)]
    heads, columns = ["row", "ours"], [[Cell(row.label, row.variant.key) for row in rows]]
    columns.append([Cell("not available" if row.reason else "measured", row.reason) for row in rows])
    for name in names:
        metric = METRICS[name]
        values = [row.result.mean(name) if row.result else None for row in rows]
        if any(v is not None for v in values):
            best, cells = best_of(values, metric), []
            for i, (row, value) in enumerate(zip(rows, values, strict=True)):
                interval = row.result.interval(name) if row.result else None
                cells.append(figure_cell(value, metric.decimals, i in best, interval))
            heads.append(heading(metric))
            columns.append(cells)
        if any(name in row.paper for row in rows):
            heads.append(f"{metric.label} in the paper")
            columns.append([_printed(row, name) for row in rows])
    if table == "III":
        heads += ["GFLOPs a field", "in the paper", "ms a field"]
        columns.append([_per_field(row.cost, 1e-9 * row.cost.flops if row.cost else 0, 1) for row in rows])
        columns.append([_printed(row, "gflops") for row in rows])
        columns.append([_per_field(row.cost, 1e3 * row.cost.seconds if row.cost else 0, 1) for row in rows])
    where = f"on {results[0].dataset}, protocol {results[0].protocol}" if results else "nothing measured"
    return Block(
        "ablation",
        f"{TITLES[table]}: {where}",
        tuple(heads),
        tuple(zip(*columns, strict=True)),
        2,
        tuple(_notes(table, rows)),
    )


def _notes(table: str, rows: Sequence[AblationRow]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.reason:
            reasons.setdefault(row.reason, []).append(row.label)
    notes = [f"Not available: {'; '.join(labels)} ({reason})." for reason, labels in reasons.items()]
    if any(row.same_weights for row in rows):
        notes.append(
            "Same weights: the row was measured with the networks of `full`, which were trained for other options; "
            "networks trained for it may perform better."
        )
    published = [group for row in rows for group in row.published]
    if table == "I":
        notes += _by_protocol(published)
    elif published:
        remarks = dict.fromkeys(part for row in published for remark in row.remarks for part in remark.split("; "))
        first = published[0]
        notes.append(
            f"The paper's figures are assumed to be of {first.dataset}, protocol {first.protocol} "
            f"({'; '.join(remarks)})."
        )
    if table == "III":
        sizes = dict.fromkeys(f"{w}x{h}" for w, h in (row.cost_size for row in rows if row.cost_size))
        measured = f", measured at {', '.join(sizes)}; the paper does not state its size" if sizes else ""
        notes.append(
            f"A field is the motion between two frames, one way{measured}. For MVs the time is that of the re-encode "
            "with its residuals, and operations are counted as zero, as in the paper."
        )
    return notes


def _by_protocol(published: Sequence[PublishedRow]) -> list[str]:
    """How the figures of Table I were measured: not all in one way."""
    if not published:
        return ["The paper prints this table for GoPro and for DVD; the name of this data set says neither."]
    ways: dict[str, list[str]] = {}
    remarks: dict[str, list[str]] = {}
    for group in published:
        names = ", ".join(METRICS[name].label for name in group.printed)
        ways.setdefault(f"{names} by {group.protocol}", []).append(group.method)
        for remark in group.remarks:
            remarks.setdefault(remark, []).append(group.method)
    told, said = (
        "; ".join(f"{words} ({', '.join(dict.fromkeys(methods))})" for words, methods in found.items())
        for found in (ways, remarks)
    )
    whose = f"The paper's figures for {published[0].dataset}"
    return [f"{whose} were measured in several ways, and no column can be compared downwards: {told}.", f"{said}."]


def _printed(row: AblationRow, metric: str) -> Cell:
    text = row.paper.get(metric)
    return Cell(MISSING) if text is None else Cell(text, float(text))


def _per_field(cost: Cost | None, total: float, decimals: int) -> Cell:
    return figure_cell(None if cost is None else total / max(cost.fields, 1), decimals, False, None)


def ablation_figure(rows: Sequence[AblationRow], size: tuple[int, int] = (240, 180)) -> Rgb | None:
    """Figure with a strip of crops for each picture that all rows have: input, measured rows, truth; PSNR below.

    Args:
        rows: rows of a table.
        size: (width, height) of crops, pixels.

    Returns:
        ``(H, W, 3)`` uint8 RGB; None where no picture is common to all rows.
    """
    pictured = [row for row in rows if row.pictures]
    if not pictured:
        return None
    strips = []
    for first in pictured[0].pictures:
        where = (first.clip, first.frame)
        matching = [next((p for p in row.pictures if (p.clip, p.frame) == where), None) for row in pictured]
        pictures = [p for p in matching if p is not None]
        if len(pictures) == len(pictured):
            strips.append(_strip([row.variant.key for row in pictured], pictures, size))
    if not strips:
        return None
    width = max(strip.shape[1] for strip in strips)
    return np.vstack(
        [cv2.copyMakeBorder(s, 0, 6, 0, width - s.shape[1], cv2.BORDER_CONSTANT, value=(255,) * 3) for s in strips]
    ).astype(np.uint8)


def _strip(keys: Sequence[str], pictures: Sequence[Picture], size: tuple[int, int]) -> Rgb:
    first = pictures[0]
    before, truth = first.before, first.truth
    reference = first.after if truth is None else truth
    box = most_blurred_crop(first.after if before is None else before, reference, size)
    panels = [(p.after, key) for p, key in zip(pictures, keys, strict=True)]
    if before is not None:
        panels.insert(0, (before, "input"))
    crops = [box.cut(image) for image, _ in panels]
    labels = [label for _, label in panels]
    if truth is None:
        return side_by_side(crops, labels)
    sharp = box.cut(truth)
    details = [f"{psnr(crop, sharp):.2f} dB" for crop in crops]
    return side_by_side([*crops, sharp], [*labels, "truth"], [*details, f"{first.clip}, frame {first.frame}"])
