"""`python -m tests.bench.tokenizer`: speed of the tokenizer in the graph on one core, `tokenizers` beside it.

Medians of some runs; the exponent is the slope of log(time) over log(tokens), from 1,000 to 100,000.
"""

import argparse
import functools
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table
from tests.bench.machine import processor
from tests.data import humaneval_tasks, novel_chapters
from tests.tokenizer.graphs import Pair, family

REPEATS = 9
SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tokenizer", description=__doc__)
    parser.add_argument("--family", default="gpt2")
    options = parser.parse_args(arguments)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tested = family(options.family)
    table = Table(title=f"{options.family}, milliseconds, median of {REPEATS}; {processor()}, one thread")
    for column in ("text", "tokens", "graph", "tokenizers"):
        table.add_column(column, justify="left" if column == "text" else "right")
    measured: dict[str, list[tuple[int, float]]] = {"English": [], "code": []}
    for name, text in texts(tested):
        tokens, seconds = len(tested.expected([text])[0]), median(functools.partial(tested.tokenize, [text]))
        rival = median(functools.partial(tested.expected, [text]))
        table.add_row(name, f"{tokens:,}", f"{1000 * seconds:.1f}", f"{1000 * rival:.1f}")
        if name in measured:
            measured[name].append((tokens, seconds))
    console = Console()
    console.print(table)
    for name, points in measured.items():
        console.print(f"{name}: time grows with tokens to the power of {exponent(points):.2f}")
    return 0


def texts(tested: Pair) -> list[tuple[str, str]]:
    """Named texts: two kinds in growing sizes, and words without end."""
    code = "".join(task["prompt"] + task["canonical_solution"] for task in humaneval_tasks())
    kinds = {"English": "".join(novel_chapters()), "code": code * 4}
    chance = random.Random(8)
    return [
        *((name, cut(tested, text, size)) for name, text in kinds.items() for size in SIZES),
        ("2,000 CJK characters", "".join(chr(chance.randint(0x4E00, 0x9FFF)) for _ in range(2_000))),
        ("100,000 random letters", "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=100_000))),
        ("100,000 times a", "a" * 100_000),
    ]


def cut(tested: Pair, text: str, tokens: int) -> str:
    """The beginning of the text that makes so many tokens."""
    offsets = tested.reference.encode(text, add_special_tokens=False).offsets
    return text[: offsets[min(tokens, len(offsets)) - 1][1]]


def median(work: Callable[[], object]) -> float:
    """Seconds."""
    times = []
    for _ in range(REPEATS + 1):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def exponent(points: Sequence[tuple[int, float]]) -> float:
    """Slope of a straight line through the logarithms."""
    tokens, seconds = np.log(np.array(points)).T
    return float(np.polyfit(tokens, seconds, 1)[0])


if __name__ == "__main__":
    sys.exit(main())
