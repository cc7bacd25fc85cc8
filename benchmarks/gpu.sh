#!/usr/bin/env bash
# Everything here that wants a GPU, in order of value: tests, benchmarks, then runs of the paper's networks.
#
#   benchmarks/gpu.sh OUT [DATA]
#
# Works for at most SLICE seconds (default 520), then packs what there is into OUT/results.tar.gz (without weights, so a
# few MB). Run it again, with OUT as it left it, to go on where it stopped, until it says "all done". Needs no network and
# no installer: PYTHON (default python3) must have torch, numpy, safetensors, tyro and what else pyproject.toml names;
# DATA is a data set that `wrn train` takes offline (default: the tables' own, CIFAR, prepared before with
# WRN_CACHE_DIR=OUT/cache). ONLY="tests train-wrn-16-4 …" leaves out all other steps, for who has minutes. DEVICE (default
# cuda) may be cpu, to try it.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:?name a folder for the results}" && cd "$1" && pwd)
device=${DEVICE:-cuda} python=${PYTHON:-python3} slice=${SLICE:-520}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} WRN_CACHE_DIR=${WRN_CACHE_DIR:-$out/cache}

"$python" -c 'import pytest, torch, wrn.cli, wrn.training.session' || exit 1 # before steps are noted as failed

pack() {
    (cd "$out" && find . \( -name cache -o -name checkpoints \) -prune -o -type f \
        \( -name '*.json' -o -name '*.jsonl' -o -name '*.log' -o -name '*.svg' -o -name '*.html' -o -name '*.failed' \) -print0 |
        tar --null -czf results.tar.gz -T -)
    echo "$1; packed: $out/results.tar.gz ($(du -h "$out/results.tar.gz" | cut -f1))"
}

# step NAME COMMAND...: once; what is cut off goes on in the next slice, what fails is noted and not tried again
step() {
    local name=$1 left=$((slice - SECONDS)) code
    shift
    if [ -e "$out/$name.done" ] || [ -e "$out/$name.failed" ]; then return; fi
    if [ -n "${ONLY:-}" ] && [[ " $ONLY " != *" $name "* ]]; then return; fi
    if [ "$left" -lt 20 ]; then
        pack "this slice is over: run it again"
        exit 0
    fi
    echo "$name ($left s left)"
    timeout --signal=TERM --kill-after=15 "$left" "$@" >>"$out/$name.log" 2>&1
    code=$?
    case $code in
    0) touch "$out/$name.done" ;;
    124 | 137 | 143) # runs go on where they stopped; a benchmark that had a whole slice will never end in one
        case $name in run-*) ;; *) [ "$left" -lt $((slice - 20)) ] || echo "longer than a slice" >"$out/$name.failed" ;; esac
        pack "$name was cut off: run it again"
        exit 0
        ;;
    *)
        echo "exit status $code" >"$out/$name.failed"
        tail -n 3 "$out/$name.log"
        ;;
    esac
}

wrn() { # a step of our own command
    local name=$1
    shift
    step "$name" "$python" -m wrn "$@"
}

bench=$out/runs/bench/$device # where `wrn report` looks
pytest() { # what needs little time first: compiling takes most
    [ "$device" = cpu ] || step "$1" "$python" -m pytest -q -o addopts= -o filterwarnings= -m gpu tests/test_gpu.py -k "$2"
}
pytest tests "not compiled and not graphs_train"
pytest tests-graphs "graphs_train and not True"
pytest tests-compiled "compiled or graphs_train and True"
for model in wrn-28-10 wrn-40-4 wrn-16-4; do
    wrn "train-$model" bench train "$model" --compare --device "$device" --out "$bench/train-$model.json"
    if [ -e "$out/train-$model.failed" ]; then # another's loop did not work there
        wrn "train-$model-alone" bench train "$model" --device "$device" --out "$bench/train-$model.json"
    fi
    if [ "$device" != cpu ]; then
        for ways in graphs compile "compile graphs"; do
            name=train-$model-${ways// /-}
            # shellcheck disable=SC2086 # a word is an option
            wrn "$name" bench train "$model" $(printf -- '--%s ' $ways) --device "$device" --out "$bench/$name.json"
        done
    fi
done
for model in wrn-16-4 wrn-28-10; do
    wrn "infer-$model" bench infer "$model" --device "$device" --out "$bench/infer-$model.json"
done
wrn memory bench memory wrn-28-10 --batch-size 128 --device "$device" --out "$bench/memory.json"
wrn data bench data wrn-16-4 --device "$device" --out "$bench/data.json"
wrn fig4 reproduce fig4 --device "$device" --precision bf16 --out "$out/runs"

# `fast` against the paper's recipe; then Tables 4, 2 and 3, one seed each, cheap networks first. EPOCHS and LABELS
# shorten them, to try the script; not `fast`, whose rows differ by their epochs
where=(--seeds 1 --precision bf16 --device "$device" --out "$out/runs" ${2:+--data "$2"}
    ${EPOCHS:+--epochs "$EPOCHS"} ${LABELS:+--labels "$LABELS"})
[ -n "${EPOCHS:-}" ] || wrn run-fast reproduce fast "${where[@]}"
wrn run-thin reproduce table4 --rows wrn-40-1 wrn-40-2 wrn-16-8 "${where[@]}"
wrn run-wide reproduce table4 --rows wrn-40-4 wrn-22-8 wrn-28-10 "${where[@]}"
wrn run-table2 reproduce table2 "${where[@]}"
wrn run-table3 reproduce table3 "${where[@]}"
wrn report report "$out/runs" --out "$out/report.html"
pack "all done"
