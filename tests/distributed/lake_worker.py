"""One rank of a run at a URL; each rank has a scratch folder of its own, as ranks of different nodes have."""

from __future__ import annotations

import json
import os
import sys

if __name__ == "__main__":
    os.environ["INTRR_SCRATCH"] += f"-{os.environ['RANK']}"
    os.environ["LOCAL_WORLD_SIZE"] = "1"
    import intrr_rec as ir

    asked = json.loads(sys.argv[1])
    ir.train(asked["dataset"], asked["ids"], asked["run"], recipe=ir.load_recipe(None, asked["words"]))
