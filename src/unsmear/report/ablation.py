"""The ablations of CPGD-Net (Tables II, III and IV; Figs. 6, 9 and 11), as far as their parts exist, beside the paper.

One network, trained with coding motion and residuals, runs every row that has no checkpoint of its own; whether the
paper trained one a row it does not say.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from unsmear.errors import UsageError
from unsmear.metrics import psnr
from unsmear.metrics.catalogue import METRICS
from unsmear.models import zoo
from unsmear.priors.sources import Cost
from unsmear.report.blocks import MISSING, Block, Cell, best_of, figure_cell, heading
from unsmear.report.motion import MovedRestorer, motion_cost, motion_source
from unsmear.report.pictures import Picture, Rgb, most_blurred_crop, side_by_side
from unsmear.report.published import ablation_rows
from unsmear.report.results import Result
from unsmear.restore.restorer import Restorer

log = logging.getLogger(__name__)

Part = Literal["stage 1", "own", "stage 2"]

Evaluate = Callable[[Restorer, str], tuple[Result, Sequence[Picture]]]
"""Scores a restorer under the name of its row, and shows some frames of it."""


@dataclass(frozen=True)
class Variant:
    """One row of a table."""

    key: str
    """What ``--model KEY=DIR`` calls it; for the paper's rows also their key in ``published.csv``."""
    label: str
    part: Part = "stage 1"
    """``stage 1`` runs the CPFP at hand, ``own`` needs a checkpoint of its own, ``stage 2`` the diffusion model."""
    motion: str = "mv"
    residual: bool = True
    lacks: str = ""
    """For ``own``: what its checkpoint must do without."""


TABLES: dict[str, tuple[Variant, ...]] = {
    "II": (
        Variant("without_cpfp", "without CPFP (stage 2 sees the blurred frame)", "stage 2"),
        Variant("without_cpc", "without CPC (stage 1 alone)"),
        Variant("ircontrolnet", "with IRControlNet (stage 2 without priors)", "stage 2"),
        Variant("full", "stage 1 and CPC", "stage 2"),
    ),
    "III": (
        Variant("without_crs", "without CRs", "own", lacks="coding residuals"),
        Variant("mv", "MVs"),
        Variant("raft-4", "RAFT, 4 iterations", motion="raft-4"),
        Variant("raft-4-warm", "RAFT, 4 iterations from MVs", motion="raft-4-warm"),
        Variant("raft-20", "RAFT, 20 iterations", motion="raft-20"),
        Variant("dis", "DIS flow (ours)", motion="dis"),
        Variant("none", "no motion, same weights (ours)", motion="none"),
        Variant("zero_crs", "MVs, CRs set to 0, same weights (ours)", residual=False),
    ),
    "IV": (
        Variant("without_extra_data", "without additional data", "stage 2"),
        Variant("full", "with additional data", "stage 2"),
    ),
}

FIGURES = {"II": "Figs. 6 and 9", "III": "no figure of its own in the paper", "IV": "Fig. 11"}
"""Which of the paper's pictures a table's strip of crops stands for."""

STAGE_2_MISSING = "stage 2 (CPC) is not built yet"


@dataclass(frozen=True)
class AblationRow:
    """A row as it came out."""

    variant: Variant
    result: Result | None = None
    pictures: Sequence[Picture] = ()
    cost: Cost | None = None
    """Of one field of motion; Table III alone."""
    cost_size: tuple[int, int] | None = None
    """Width and height at which the cost was measured."""
    reason: str = ""
    """Why there is no result."""
    paper: Mapping[str, str] = field(default_factory=dict)
    """The paper's own figures by metric, as printed; empty for rows of ours."""


def find_table(name: str) -> str:
    """``II``, ``III`` or ``IV``, also as 2, 3, 4 and in small letters. Raises UsageError for others."""
    known = {str(i): table for i, table in enumerate(TABLES, 2)} | {table: table for table in TABLES}
    try:
        return known[name.upper()]
    except KeyError:
        raise UsageError(f"table {name!r} is unknown; choose one of {', '.join(TABLES)} (of CPGD-Net)") from None


def run_ablation(
    table: str,
    load: Callable[[str], Restorer],
    evaluate: Evaluate,
    *,
    models: Mapping[str, str] | None = None,
    raft: Path | None = None,
    sample: Sequence[np.ndarray] = (),
    progress: Callable[[str], None] | None = None,
) -> list[AblationRow]:
    """Measure every row that can be.

    Args:
        table: ``II``, ``III`` or ``IV``.
        load: a restorer from the name of a shipped model or a folder of weights.
        evaluate: scores it.
        models: by row, the model it runs instead of ``cpfp``; one for ``mv`` or ``without_cpc`` serves as stage 1
            wherever none is given.
        raft: torchvision's RAFT weights.
        sample: consecutive frames on which the cost of motion is measured, ``(H, W, 3)``; none, no cost.
        progress: called with the label of each row before it is measured.

    Raises:
        UsageError: an unknown table; a model for a row that the table does not have; a checkpoint that is not what
            its row asks for.
        WeightsError: RAFT's weights are damaged or do not fit.
    """
    table = find_table(table)
    models = dict(models or {})
    variants = TABLES[table]
    strange = sorted(set(models) - {v.key for v in variants})
    if strange:
        known = ", ".join(v.key for v in variants)
        raise UsageError(f"--model {strange[0]}=…: Table {table} has no such row; its rows are {known}")
    for variant in variants:
        if variant.part == "own" and variant.key in models:
            _check_lacks(variant, models[variant.key])
    published = {row.method: row.printed for row in ablation_rows(table)}
    reasons = {variant.key: _reason(variant, models, raft) for variant in variants}  # all, before any hours of work
    rows = []
    for variant in variants:
        row = AblationRow(variant, reason=reasons[variant.key], paper=published.get(variant.key, {}))
        if not row.reason:
            if progress:
                progress(variant.label)
            row = _measured(row, load, evaluate, models, raft, sample if table == "III" else ())
        rows.append(row)
    return rows


def _reason(variant: Variant, models: Mapping[str, str], raft: Path | None) -> str:
    """Why a row cannot be measured; empty where it can."""
    given = variant.key in models
    if variant.part == "stage 2" and not given:
        return STAGE_2_MISSING
    if variant.part == "own" and not given:
        return f"needs a checkpoint trained without {variant.lacks}: give --model {variant.key}=DIR"
    if variant.motion.startswith("raft"):
        if raft is None:
            return "needs RAFT's weights: give --raft WEIGHTS"
        try:
            motion_source(variant.motion, raft)
        except UsageError as error:
            return str(error)
    return ""


def _measured(
    row: AblationRow,
    load: Callable[[str], Restorer],
    evaluate: Evaluate,
    models: Mapping[str, str],
    raft: Path | None,
    sample: Sequence[np.ndarray],
) -> AblationRow:
    variant = row.variant
    inner = load(models.get(variant.key) or models.get("mv") or models.get("without_cpc") or "cpfp")
    source = motion_source(variant.motion, raft, inner.device)
    # Rows are told apart by their names, also in files of finished clips.
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
            f"--model {variant.key}={model}: this network reads coding residuals; "
            "give one trained with use_residual: false"
        )


def as_dicts(rows: Sequence[AblationRow]) -> list[dict[str, Any]]:
    """JSON values: figures, costs and reasons of every row, and the paper's."""
    return [
        {
            "row": row.variant.key,
            "label": row.variant.label,
            "result": row.result.as_dict() if row.result else None,
            "cost": row.cost.as_dict() if row.cost else None,
            "reason": row.reason,
            "paper": dict(row.paper),
        }
        for row in rows
    ]


def ablation_block(table: str, rows: Sequence[AblationRow]) -> Block:
    """Ours beside the paper's, a row each; what is not available says why."""
    results = [row.result for row in rows if row.result is not None]
    names = [n for n in METRICS if any(n in r.metrics for r in results) or any(n in row.paper for row in rows)]
    heads, columns = ["row", "ours"], [[Cell(row.variant.label, row.variant.key) for row in rows]]
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
        f"CPGD-Net, Table {table}: {where}",
        tuple(heads),
        tuple(zip(*columns, strict=True)),
        2,
        tuple(_notes(table, rows)),
    )


def _notes(table: str, rows: Sequence[AblationRow]) -> list[str]:
    published = ablation_rows(table)
    remarks = dict.fromkeys(part for row in published for remark in row.remarks for part in remark.split("; "))
    first = published[0]
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.reason:
            reasons.setdefault(row.reason, []).append(row.variant.label)
    notes = [f"Not available: {'; '.join(labels)} ({reason})." for reason, labels in reasons.items()]
    notes.append(
        f"The paper's figures are taken for {first.dataset}, protocol {first.protocol} ({'; '.join(remarks)})."
    )
    if table == "III":
        sizes = dict.fromkeys(f"{w}x{h}" for w, h in (row.cost_size for row in rows if row.cost_size))
        measured = f", measured at {', '.join(sizes)}; the paper does not state its size" if sizes else ""
        notes.append(
            f"A field is the motion between two frames, one way{measured}. For MVs the time is that of the re-encode "
            "with its residuals, and the arithmetic counts as none, as in the paper."
        )
    return notes


def _printed(row: AblationRow, metric: str) -> Cell:
    text = row.paper.get(metric)
    return Cell(MISSING) if text is None else Cell(text, float(text))


def _per_field(cost: Cost | None, total: float, decimals: int) -> Cell:
    return figure_cell(None if cost is None else total / max(cost.fields, 1), decimals, False, None)


def ablation_figure(rows: Sequence[AblationRow], size: tuple[int, int] = (240, 180)) -> Rgb | None:
    """Crops of input, every measured row and truth, a strip for each picture that all rows have; PSNR below each.

    Returns:
        ``(H, W, 3)`` uint8 RGB, or None where no row has pictures.
    """
    shown = [row for row in rows if row.pictures]
    if not shown:
        return None
    strips = []
    for first in shown[0].pictures:
        where = (first.clip, first.frame)
        found = [next((p for p in row.pictures if (p.clip, p.frame) == where), None) for row in shown]
        pictures = [p for p in found if p is not None]
        if len(pictures) == len(shown):
            strips.append(_strip([row.variant.key for row in shown], pictures, size))
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
