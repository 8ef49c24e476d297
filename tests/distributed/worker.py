"""One rank of a small group: trains the runs named in a JSON file, one after another, so that imports are paid for once."""

import json
import os
import sys
from pathlib import Path

from intrr_rec.training.trainer import train
from tests import tiny


def main(jobs_file: str) -> None:
    for job in json.loads(Path(jobs_file).read_text()):
        os.environ["MASTER_PORT"] = str(job["port"])
        line = tiny.Line(*(Path(path) for path in job["line"]))
        train(tiny.recipe(*job["overrides"]), **line.inputs(), out=Path(job["out"]))


if __name__ == "__main__":
    main(sys.argv[1])
