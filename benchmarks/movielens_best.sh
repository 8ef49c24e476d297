#!/usr/bin/env bash
# Recipes as they stand on MovieLens 100K, every rating an event, leave-one-out.
# Usage: benchmarks/movielens_best.sh FOLDER_OF_ml-100k WORK [RECIPE ...]. Figures: benchmarks/LOG.md.
set -euo pipefail
data=$1 work=$2
shift 2
recipes=("${@:-best}")
here=$(dirname "$0")
export OMP_NUM_THREADS=1
source "$here/movielens_line.sh"
make_line "$here/descriptors/movielens_all.yaml" 64
for recipe in "${recipes[@]}"; do
    intrr train --dataset "$work/dataset" --semantic-ids "$work/ids" --vectors "$work/vectors.parquet" --out "$work/$recipe" --config "$recipe"
done
