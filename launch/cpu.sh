#!/bin/sh
# Run a command on a CPU with huge memory pages, e.g. launch/cpu.sh rgjax.main --config=FILE
GLIBC_TUNABLES=glibc.malloc.hugetlb=1 exec uv run python -m "$@"
