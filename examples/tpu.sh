#!/usr/bin/env bash
# Trains on a Cloud TPU slice, from this machine, by `gcloud`. docs/tpu.md explains each step.
#
#   examples/tpu.sh create NAME ZONE TYPE [--spot]  asks for a machine, such as v5litepod-16
#   examples/tpu.sh state  NAME ZONE                of the queue, the machine, and each worker
#   examples/tpu.sh run    NAME ZONE WORD...        copies this folder to all workers, installs it,
#                                                   starts `python train.py WORD...` on each
#   examples/tpu.sh log    NAME ZONE                follows the log of worker 0
#   examples/tpu.sh stop   NAME ZONE                ends the run; it saves first
#   examples/tpu.sh delete NAME ZONE                deletes the machine, which costs money until then
#
# `run` goes on when this machine is switched off. Run it from the root of the repository.
# Versions can be set: PYTHON=3.12 JAX=0.10.2. COORDINATOR_PORT=8476 is one that Google opens.
set -euo pipefail

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2; }
[ $# -ge 3 ] || usage
action=$1 name=$2 zone=$3
shift 3
python=${PYTHON:-3.12} jax=${JAX:-0.10.2} port=${COORDINATOR_PORT:-8476}
queue=$name-queue

on_workers() { # WHICH COMMAND
  gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker "$1" --command "$2"
}

case $action in
create)
  [ $# -ge 1 ] || usage
  case $1 in
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    *) runtime=tpu-ubuntu2204-base ;;
  esac
  gcloud compute tpus queued-resources create "$queue" --node-id "$name" --zone "$zone" \
    --accelerator-type "$1" --runtime-version "$runtime" "${@:2}"
  ;;
state)
  gcloud compute tpus queued-resources describe "$queue" --zone "$zone" --format "value(state.state)"
  gcloud compute tpus tpu-vm describe "$name" --zone "$zone" --format "value(state)" || exit 0
  on_workers all 'kill -0 $(cat train.pid) && echo runs || echo "does not run"; tail -n 1 train.log'
  ;;
run)
  [ -f train.py ] || { echo "error: run it from the root of the repository" >&2; exit 2; }
  code=$(mktemp)
  trap 'rm -f "$code"' EXIT
  tar czf "$code" --exclude ./.git --exclude ./.venv --exclude ./runs --exclude __pycache__ .
  gcloud compute tpus tpu-vm scp "$code" "$name:ldm_jax.tar.gz" --zone "$zone" --worker all
  # The images have Python 3.10; uv brings another. All workers must have the same JAX.
  on_workers all "set -e
    if kill -0 \$(cat train.pid) 2> /dev/null; then echo 'a run is going on: stop it first'; exit 2; fi
    rm -rf ldm_jax && mkdir ldm_jax && tar xzf ldm_jax.tar.gz -C ldm_jax
    python3 -m pip install --quiet --user uv
    uv=\$HOME/.local/bin/uv
    \$uv venv --quiet --clear --python $python env
    \$uv pip install --quiet --python env/bin/python -e 'ldm_jax[tpu,gcs]' 'jax[tpu]==$jax'"
  words=$(printf '%q ' "$@")
  on_workers all "cd ldm_jax
    export JAX_COORDINATOR_PORT=$port ${JAX_COMPILATION_CACHE_DIR:+JAX_COMPILATION_CACHE_DIR=$JAX_COMPILATION_CACHE_DIR}
    nohup \$HOME/env/bin/python train.py $words > \$HOME/train.log 2>&1 < /dev/null &
    echo \$! > \$HOME/train.pid"
  ;;
log) on_workers 0 'tail -n 40 -F train.log' ;;
stop) on_workers all 'kill -TERM $(cat train.pid)' ;;
delete)
  gcloud compute tpus queued-resources delete "$queue" --zone "$zone" --force
  ;;
*) usage ;;
esac
