"""Figures printed in the two papers, with their protocols.

The papers are *Deblurring via Video Diffusion Models* (``VDM``, Tables 1 and 2) and *Coding-Prior Guided
Diffusion Network for Video Deblurring* (``CPGD-Net``, Tables I to IV). Their tables contain figures of other
methods measured under different protocols, so that values in one column are not comparable: ``protocol`` states the
protocol of PSNR and SSIM, ``unknown`` where it is not stated. The rows of ground truth are left out.
"""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

COMPARISONS = {"VDM": ("1", "2"), "CPGD-Net": ("I",)}
"""Tables of each paper that compare methods; the others are ablations."""

_SETS = {"gopro": "GoPro", "dvd": "DVD", "deepvideodeblurring": "DVD"}


@dataclass(frozen=True)
class PublishedFigure:
    """One figure of a paper."""

    paper: str
    """``VDM`` or ``CPGD-Net``."""
    table: str
    section: str
    dataset: str
    """``GoPro`` or ``DVD``."""
    method: str
    """Name of the method; in ablation tables a key of :mod:`unsmear.evaluation.variants`."""
    metric: str
    """A key of :data:`unsmear.metrics.catalogue.METRICS`, or ``gflops`` (10⁹ operations per flow field)."""
    printed: str
    """The digits as printed in the paper."""
    protocol: str
    """A key of :data:`unsmear.metrics.protocols.PROTOCOLS`, or ``unknown``."""
    remark: str = ""

    @property
    def value(self) -> float:
        """The figure as a number."""
        return float(self.printed)


@dataclass(frozen=True)
class PublishedRow:
    """Figures of one method under one protocol in one table of a paper."""

    paper: str
    table: str
    dataset: str
    method: str
    protocol: str
    printed: dict[str, str]
    """Digits as printed, by metric."""
    remarks: tuple[str, ...] = ()


@cache
def published_figures() -> tuple[PublishedFigure, ...]:
    """All figures, in the order of the papers."""
    text = (files("unsmear.evaluation") / "published.csv").read_text(encoding="utf-8")
    rows = [{k if k != "value" else "printed": v for k, v in row.items()} for row in csv.DictReader(text.splitlines())]
    return tuple(PublishedFigure(**row) for row in rows)


def published_rows(dataset: str) -> list[PublishedRow]:
    """Rows of the comparison tables for a data set, one for each table, method and protocol.

    Args:
        dataset: a name, or a path with a part that begins with GoPro or DVD, in any spelling
            (``GOPRO_Large/test``); for other data sets there are no rows.
    """
    name = known_dataset(dataset)
    return _rows(f for f in published_figures() if f.table in COMPARISONS[f.paper] and f.dataset == name)


def ablation_rows(table: str, dataset: str = "") -> list[PublishedRow]:
    """Rows of CPGD-Net's tables, one for each method and protocol.

    Args:
        table: ``I`` to ``IV``; others have none.
        dataset: whose part of Table I, as for :func:`published_rows`; the other tables have one part.
    """
    name = known_dataset(dataset)
    return _rows(
        f
        for f in published_figures()
        if f.paper == "CPGD-Net" and f.table == table and (table != "I" or f.dataset == name)
    )


def known_dataset(name: str) -> str | None:
    """``GoPro`` or ``DVD`` where a part of a name or path begins with these; else None."""
    for part in reversed(re.split(r"[/\\]", name)):
        plain = re.sub(r"[^a-z]", "", part.lower())
        for start, known in _SETS.items():
            if plain.startswith(start):
                return known
    return None


def _rows(figures: Iterable[PublishedFigure]) -> list[PublishedRow]:
    groups: dict[tuple[str, str, str, str, str], list[PublishedFigure]] = {}
    for f in figures:
        groups.setdefault((f.paper, f.table, f.dataset, f.method, f.protocol), []).append(f)
    return [
        PublishedRow(
            *key,
            printed={f.metric: f.printed for f in members},
            remarks=tuple(dict.fromkeys(f.remark for f in members if f.remark)),
        )
        for key, members in groups.items()
    ]
