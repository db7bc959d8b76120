"""Output files of an evaluation: tables in four formats, the page, and strips of crops."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unsmear.evaluation.evaluate import Evaluation
from unsmear.evaluation.formats import csv_text, latex, markdown
from unsmear.evaluation.page import write_page
from unsmear.evaluation.pictures import Picture, most_blurred_crop, side_by_side
from unsmear.evaluation.results import write_results
from unsmear.files import write_whole
from unsmear.video.images import write_png


def write_report(runs: Sequence[Evaluation], folder: Path) -> list[Path]:
    """Write tables as Markdown, CSV, LaTeX and JSON, the page, and a strip of crops for each picture.

    Returns:
        Paths of the files and of the folder of strips.
    """
    results = [run.result for run in runs]
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"results.md": markdown(results), "results.csv": csv_text(results), "results.tex": latex(results)}
    for name, text in texts.items():
        write_whole(folder / name, text.encode())
    write_results(results, folder / "results.json")
    pictures = [picture for run in runs for picture in run.pictures]
    write_page(folder / "index.html", results, pictures)
    for picture in pictures:
        name = f"{picture.clip.replace('/', '~')}.{picture.frame:06d}.{picture.method}.png"
        (folder / "crops").mkdir(exist_ok=True)
        write_png(folder / "crops" / name, strip(picture))
    return [folder / name for name in (*texts, "results.json", "index.html", *(["crops"] if pictures else []))]


def strip(picture: Picture) -> np.ndarray:
    """Crops of the most blurred part of a picture: before, after, truth and error map (as in VDM, Fig. 4).

    Returns:
        (H, W, 3) uint8 RGB.
    """
    parts = {"before": picture.before, picture.method: picture.after, "truth": picture.truth, "error": picture.error}
    available = {label: image for label, image in parts.items() if image is not None}
    reference = picture.before if picture.before is not None else picture.after
    box = most_blurred_crop(reference, picture.truth if picture.truth is not None else picture.after)
    return side_by_side([box.cut(image) for image in available.values()], list(available))
