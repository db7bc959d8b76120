"""Table of containers for ``docs/formats.md``: what each of them holds, from ``unsmear.video.containers``.

python tools/formats.py            # print it
python tools/formats.py --write    # put it into docs/formats.md
"""

import argparse
import re
from pathlib import Path

from unsmear.video.containers import CONTAINERS, Container

PAGE = Path(__file__).parents[1] / "docs" / "formats.md"
BEGIN, END = "<!-- table -->\n", "<!-- end -->"
TIMES = {
    "exact": "to the source's unit",
    "ticks": "to a tick",
    "slots": "constant rate with gaps",
    "packs": "constant rate with gaps, roughly",
    "order": "constant rate",
}


def table() -> str:
    """Markdown, a row for each container."""
    lines = ["| files | pictures | sound as it is | other sound becomes | times |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(_row(container))} |" for container in CONTAINERS]
    return "\n".join(lines) + "\n"


def _row(container: Container) -> list[str]:
    times = TIMES[container.times]
    if container.from_zero:
        times += ", from 0"
    if container.ends:
        times += ", last duration"
    return [
        " ".join(f"`{suffix}`" for suffix in container.suffixes),
        " ".join(container.video),
        " ".join(container.sound) or "–",
        " or ".join(container.encoders) or "–",
        times,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/formats.md")
    if not parser.parse_args().write:
        print(table(), end="")
        return
    page = PAGE.read_text()
    PAGE.write_text(re.sub(f"{BEGIN}.*?{END}", lambda _: BEGIN + table() + END, page, flags=re.DOTALL))


if __name__ == "__main__":
    main()
