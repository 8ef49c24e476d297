#!/usr/bin/env bash
# What each kind of feature is worth on logs whose next item depends on it, and on logs where it tells nothing.
# Usage: [USERS=3000 ITEMS=3000 EVENTS=12 CODES=64 SIGNALS="action item"] benchmarks/features.sh WORK [SEED ...]; what is there in WORK
# is not made again. Figures: benchmarks/results/features.md.
set -euo pipefail
work=$1
shift
seeds=("${@:-0}")
signals=${SIGNALS:-action none context item user}
export OMP_NUM_THREADS=1
mkdir -p "$work"
cat >"$work/features.yaml" <<'Y'
prepare:
  k_core: 1
  features:
    event: {action: categorical, device: {kind: categorical, asked: true}}
    item: {season: categorical}
    user: {plan: categorical}
Y
model=(model.hstu.layers=2 model.hstu.width=64 train.learning_rate=0.005 train.batch_users=128 train.epochs=8 evaluate.beam=20)
for seed in "${seeds[@]}"; do
    for signal in $signals; do
        at=$work/$signal
        if [ ! -e "$at/ids/manifest.json" ]; then
            carries=(--signal "$signal")
            [ "$signal" = none ] && carries=(--features)
            intrr generate --out "$at/logs" --users "${USERS:-3000}" --items "${ITEMS:-3000}" --events-per-user "${EVENTS:-12}" \
                --dimension 32 "${carries[@]}"
            intrr prepare --interactions "$at/logs/interactions" --items "$at/logs/items" --users "$at/logs/users" \
                --out "$at/dataset" --config "$work/features.yaml"
            intrr index --dataset "$at/dataset" --vectors "$at/logs/vectors" --out "$at/ids" index.codes="${CODES:-64}"
        fi
        for features in with without; do
            words=("${model[@]}" train.seed="$seed")
            [ "$features" = without ] && words+=('model.features=[]')
            [ -e "$at/$features-$seed/results.json" ] ||
                intrr train --dataset "$at/dataset" --semantic-ids "$at/ids" --vectors "$at/logs/vectors" \
                    --out "$at/$features-$seed" "${words[@]}"
        done
    done
done
for signal in $signals; do
    of=()
    for seed in "${seeds[@]}"; do
        of+=(--run "$work/$signal/with-$seed" --against "$work/$signal/without-$seed")
    done
    echo "signal: $signal"
    intrr compare "${of[@]}"
done
