#!/bin/sh
# A command of this project on a CPU with huge pages for its memory, e.g. launch/cpu.sh rgjax.main --config=FILE
GLIBC_TUNABLES=glibc.malloc.hugetlb=1 exec uv run python -m "$@"
