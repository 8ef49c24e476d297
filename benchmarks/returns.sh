#!/usr/bin/env bash
# `best` and the baseline without training on logs whose users return to items they had, each kind of return on its own.
# Usage: benchmarks/returns.sh WORK [RECIPE ...]; what is there in WORK is not made again. Figures: benchmarks/results/returns.md.
set -euo pipefail
work=$1
shift
recipes=("${@:-best}")
export OMP_NUM_THREADS=1
for returns in soon periodic often mixed never; do
    at=$work/$returns
    if [ ! -e "$at/ids/manifest.json" ]; then
        how=(--returns "$returns")
        [ "$returns" = never ] && how=()
        intrr generate --out "$at/logs" --users 2000 --items 1000 --events-per-user 30 --dimension 32 "${how[@]}"
        intrr prepare --interactions "$at/logs/interactions" --items "$at/logs/items" --out "$at/dataset"
        intrr index --dataset "$at/dataset" --vectors "$at/logs/vectors" --out "$at/ids" index.codes=32
    fi
    for recipe in item_knn "${recipes[@]}"; do
        [ -e "$at/$recipe/results.json" ] ||
            intrr train --dataset "$at/dataset" --semantic-ids "$at/ids" --vectors "$at/logs/vectors" \
                --out "$at/$recipe" --config "$recipe"
    done
    python "$(dirname "$0")/own_history.py" "$at/dataset"
done
