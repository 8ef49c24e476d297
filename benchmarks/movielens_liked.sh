#!/usr/bin/env bash
# MovieLens 100K, asked for films that will be liked (a rating of 4 or 5): models that read ratings, genres and people against one that
# is blind to them. Usage: benchmarks/movielens_liked.sh FOLDER_OF_ml-100k WORK [SEED ...]. Figures: benchmarks/results/features.md.
set -euo pipefail
data=$1 work=$2
shift 2
seeds=("${@:-0}")
here=$(dirname "$0")
export OMP_NUM_THREADS=1
source "$here/movielens_line.sh"
make_line "$here/../datasets/movielens_100k.yaml" 32
model=(model.window=100 model.hstu.layers=2 model.hstu.width=64 train.learning_rate=0.003 train.batch_users=64 train.epochs=8
    evaluate.exclude_seen=true)
declare -A words=(
    [blind]="model.features=[] train.learn_all=true" # every film is predicted, liked or not
    [asked]="train.learn_all=true"                   # every film is predicted, told whether it will be liked
    [targets]=""                                     # liked films alone are predicted
)
for name in blind asked targets; do
    for seed in "${seeds[@]}"; do
        read -ra own <<<"${words[$name]}"
        [ -e "$work/$name-$seed/results.json" ] ||
            intrr train --dataset "$work/dataset" --semantic-ids "$work/ids" --vectors "$work/vectors.parquet" \
                --out "$work/$name-$seed" "${model[@]}" train.seed="$seed" "${own[@]}"
    done
done
for name in asked targets; do
    of=()
    for seed in "${seeds[@]}"; do
        of+=(--run "$work/$name-$seed" --against "$work/blind-$seed")
    done
    echo "$name against blind"
    intrr compare "${of[@]}"
done
