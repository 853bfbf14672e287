"""A million comparisons from one file, in a process of their own: seconds of CPU and the most memory.

The bars: under 60 s and 1 GB (`RUSAGE` of the child, which reads the file once and does nothing else).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

ROWS = 1_000_000
SECONDS, MEGABYTES = 60, 1000
CHILD = """
import json, resource, sys
from commonground.data.hub import read_source
from commonground.data.request import SourceSpec
read, bad, _ = read_source(SourceSpec("pairs", sys.argv[1]), "taste")
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([len(read.rows), bad.count, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""


def row(number: int) -> dict[str, str]:
    return {
        "person": f"person {number % 20_000}",
        "prompt": f"What do you think of number {number}?",
        "chosen": f"It is a fine number, {number}, and one more than {number - 1}.",
        "rejected": f"I would rather say nothing about {number}.",
    }


@pytest.fixture(scope="module", params=["jsonl", "parquet"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("million") / f"pairs.{request.param}"
    if request.param == "jsonl":
        with path.open("w") as out:
            out.writelines(json.dumps(row(number)) + "\n" for number in range(ROWS))
        return path
    schema = pyarrow.Table.from_pylist([row(0)]).schema
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, ROWS, 50_000):
            some = [row(number) for number in range(start, start + 50_000)]
            writer.write_table(pyarrow.Table.from_pylist(some))
    return path


def test_a_million_comparisons_are_read(file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(file)], capture_output=True, text=True, check=True
    )
    rows, bad, seconds, megabytes = json.loads(done.stdout)
    print(f"\n{file.suffix}: {rows:,} comparisons, {seconds:.1f} s of CPU, {megabytes:.0f} MB")
    assert (rows, bad) == (ROWS, 0)
    assert seconds < SECONDS
    assert megabytes < MEGABYTES
