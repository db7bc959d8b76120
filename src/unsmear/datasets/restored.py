"""Mark of a data set whose blurred frames were restored by stage 1 (``unsmear data restore``)."""

from pathlib import Path

from unsmear.errors import DataLayoutError
from unsmear.files import read_json

FACTS_FILE = "restored.json"
"""In its top folder: ``restored_by``, the checksum of stage 1; ``source``, the data set with the blurred frames; and
``complete``, whether all clips are there."""


def refuse_restored(dataset: Path) -> None:
    """Raise DataLayoutError for a restored data set, whose priors are those of the blurred frames."""
    path = dataset / FACTS_FILE
    if path.exists():
        source = read_json(path, "make the data set again").get("source", "its source")
        raise DataLayoutError(
            f"{dataset}: is a restored copy, with the priors of the blurred frames; name {source}, which has both"
        )
