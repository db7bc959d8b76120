"""What the two papers printed, as data, each figure with the way it was measured.

The papers are *Deblurring via Video Diffusion Models* (``VDM``, Tables 1 and 2) and *Coding-Prior Guided
Diffusion Network for Video Deblurring* (``CPGD-Net``, Tables I to IV). Their tables hold figures of other
methods that were measured in other ways, so that columns cannot be read downwards: ``protocol`` says by which of
the known ways PSNR and SSIM were measured, ``unknown`` where nobody says. The rows of ground truth are left out.
"""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

COMPARISONS = {"VDM": ("1", "2"), "CPGD-Net": ("I",)}
"""Tables that compare methods; the others are ablations."""

_SETS = {"gopro": "GoPro", "dvd": "DVD", "deepvideodeblurring": "DVD"}


@dataclass(frozen=True)
class PublishedFigure:
    """One number of a paper."""

    paper: str
    """``VDM`` or ``CPGD-Net``."""
    table: str
    section: str
    dataset: str
    """``GoPro`` or ``DVD``."""
    method: str
    """In ablation tables a key of :mod:`unsmear.evaluation.ablation`."""
    metric: str
    """A name of :data:`unsmear.metrics.catalogue.METRICS`, or ``gflops`` (10⁹ operations a flow field)."""
    printed: str
    """The digits as they stand in the paper."""
    protocol: str
    """A name of :data:`unsmear.metrics.protocols.PROTOCOLS`, or ``koehler`` or ``unknown``."""
    remark: str = ""

    @property
    def value(self) -> float:
        return float(self.printed)


@dataclass(frozen=True)
class PublishedRow:
    """What one table of one paper says about one method under one protocol."""

    paper: str
    table: str
    dataset: str
    method: str
    protocol: str
    printed: dict[str, str]
    """By metric, the digits as printed."""
    remarks: tuple[str, ...] = ()


@cache
def published_figures() -> tuple[PublishedFigure, ...]:
    """Every figure, in the papers' order."""
    text = (files("unsmear.evaluation") / "published.csv").read_text(encoding="utf-8")
    rows = [{k if k != "value" else "printed": v for k, v in row.items()} for row in csv.DictReader(text.splitlines())]
    return tuple(PublishedFigure(**row) for row in rows)


def published_rows(dataset: str) -> list[PublishedRow]:
    """Rows of the comparisons on a data set, one for each table, method and protocol.

    Args:
        dataset: a name or a path that begins one of its parts with GoPro or DVD, in any spelling
            (``GOPRO_Large/test``); others were not published on, which gives no rows.
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
    """``GoPro`` or ``DVD`` where a name or path speaks of them."""
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
