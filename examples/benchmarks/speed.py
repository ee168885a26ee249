"""Every table on speed, one after the other: modes.py, overhead.py, and tables.py at two sizes.

    python examples/benchmarks/speed.py --data DIR

DIR as for cifar10n.py; Fashion-MNIST from Debian's package dataset-fashion-mnist. Takes hours on two cores: modes.py
keeps its rows in --out and goes on where it was."""
from pathlib import Path

import modes
import overhead
import tables
from fastcore.script import call_parse


@call_parse
def main(
    data: Path = Path('.'),  # Folder with CIFAR-10N's labels.csv and images.tar
    fashion_mnist: Path = modes.DEBIAN,  # Folder with Fashion-MNIST's files
    out: Path = Path('modes.csv'),  # Rows of modes.py
    n: int = 3000,  # Training images of modes.py
    sizes: str = '200000,1280000',  # Items of tables.py, separated by commas; of the largest, cleanlab is run once
):
    "Print the tables; returns them as a list of DataFrames"
    sizes = [int(o) for o in sizes.split(',')]
    res = [overhead.main()]
    res += [tables.main(n=o, cleanlab_repeats=1 if o == max(sizes) else None) for o in sizes]
    return [*res, modes.main(data=data, fashion_mnist=fashion_mnist, out=out, n=n)]
