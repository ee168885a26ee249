"""Every table on speed, one after the other: overhead.py, tables.py and modes.py.

    python examples/benchmarks/speed.py --data DIR

DIR as for modes.py. Takes hours on two cores: modes.py keeps its rows in --out and goes on where it
was."""
from pathlib import Path

import modes
import overhead
import tables
from fastcore.script import call_parse


@call_parse
def main(
    data: Path = Path('.'),  # Folder of the data sets' folders
    out: Path = Path('modes.csv'),  # Rows of modes.py
    n: int = 1500,  # Training images of modes.py, from scratch
    sizes: str = tables.SIZES,  # Items x classes of tables.py, separated by commas
):
    "Print the tables; returns them as a list of DataFrames"
    return [overhead.main(), tables.main(sizes=sizes),
            modes.main(data=data, out=out, n=n)]
