#!/bin/bash
# One run on all hosts of a TPU pod slice. Its workdir is in a bucket, which every host mounts at /mnt/runs. From the
# checkout, with gcloud logged in:
#
#     BUCKET=NAME launch/tpu_pod.sh --config=configs/ham10000.py:rg --config.data.manual_dir=/mnt/runs/download \
#         --workdir=/mnt/runs/ham10000-rg
#
# The same command resumes an interrupted run, on the same slice or a new one. You pay for a slice until you delete it:
# gcloud compute tpus tpu-vm delete rgjax --zone=us-west4-a
set -euo pipefail

BUCKET=${BUCKET:?name a bucket, preferably one with a hierarchical namespace, which renames a checkpoint in one step}
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
git archive --output="$code" HEAD # only committed files: no environment, no runs
tpu_vm scp "$code" "$NAME:rgjax.tar.gz" --worker=all

# The script of each host. gcsfuse must not cache metadata, because the hosts wait for each other's files. Orbax renames
# the folder of a finished checkpoint, which gcsfuse refuses by default in a bucket without a hierarchical namespace.
host=$(
    cat <<'HOST'
set -eu
if ! command -v gcsfuse >/dev/null; then
    key=/usr/share/keyrings/cloud.google.asc
    curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
        sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    sudo apt-get -qq update # a new machine may still be updating itself
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
