# shellcheck shell=bash
# Sourced by the scripts that measure on MovieLens 100K: `make_line DESCRIPTOR CODES` makes dataset, vectors and Semantic IDs in "$work" of
# the files in "$data", once.
make_line() {
    mkdir -p "$work"
    [ ! -e "$work/ids/manifest.json" ] || return 0
    python "$here/movielens_vectors.py" "$data/u.item" "$work/vectors.parquet"
    intrr prepare "$1" --data "$data" --out "$work/dataset"
    intrr index --dataset "$work/dataset" --vectors "$work/vectors.parquet" --out "$work/ids" index.codes="$2"
}
