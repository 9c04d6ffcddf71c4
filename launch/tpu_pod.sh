#!/bin/bash
# One run on all hosts of a TPU pod slice; the workdir lies in a bucket that each host mounts at /mnt/runs. From the
# checkout, with gcloud logged in:
#
#     BUCKET=NAME launch/tpu_pod.sh --config=configs/ham10000.py:rg --config.data.manual_dir=/mnt/runs/download \
#         --workdir=/mnt/runs/ham10000-rg
#
# The same command goes on with an interrupted run, on the same slice or a new one. The slice costs until you delete it:
# gcloud compute tpus tpu-vm delete rgjax --zone=us-west4-a
set -euo pipefail

BUCKET=${BUCKET:?the name of a bucket, best with a hierarchical namespace: it renames a checkpoint in one step}
NAME=${NAME:-rgjax}
ZONE=${ZONE:-us-west4-a}
TYPE=${TYPE:-v5litepod-16} # four hosts of four chips
SOFTWARE=${SOFTWARE:-v2-alpha-tpuv5-lite}

tpu_vm() { gcloud compute tpus tpu-vm "$@" --zone="$ZONE"; }

tpu_vm describe "$NAME" >/dev/null 2>&1 ||
    tpu_vm create "$NAME" --accelerator-type="$TYPE" --version="$SOFTWARE" \
        --scopes=https://www.googleapis.com/auth/cloud-platform

code=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$code"' EXIT
git archive --output="$code" HEAD # what is committed: no environment and no runs
tpu_vm scp "$code" "$NAME:rgjax.tar.gz" --worker=all

# What each host does. Its view of the bucket must not be cached, for the hosts wait for each other's files; Orbax
# renames a finished checkpoint, a folder, which gcsfuse refuses by default in a bucket without hierarchical namespace.
host=$(
    cat <<'HOST'
set -eu
if ! command -v gcsfuse >/dev/null; then
    key=/usr/share/keyrings/cloud.google.asc
    curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
        sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    sudo apt-get -qq update # a new machine is busy with updates of its own
    sudo apt-get -qq -o DPkg::Lock::Timeout=600 install gcsfuse
fi
sudo mkdir -p /mnt/runs && sudo chown "$USER" /mnt/runs
mountpoint -q /mnt/runs ||
    gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --rename-dir-limit=100000 "$BUCKET" /mnt/runs
mkdir -p rgjax && tar -xzf rgjax.tar.gz -C rgjax && cd rgjax
pip install --quiet --user uv && export PATH="$HOME/.local/bin:$PATH"
uv sync --quiet --locked --extra tpu
exec uv run --no-sync python -m rgjax.main --distributed "$@"
HOST
)
tpu_vm ssh "$NAME" --worker=all --command="BUCKET=$(printf %q "$BUCKET") bash -c $(printf '%q ' "$host" rgjax "$@")"
