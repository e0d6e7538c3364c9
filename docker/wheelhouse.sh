#!/bin/sh
# wheelhouse.sh [relay]: every wheel that the images install, into ./wheelhouse, for a machine without an internet connection; or
# those of the relay's image alone, which are few.
# Run it where there is one, at the top of the source tree; carry ./wheelhouse over, compare SHA256SUMS, then build there.
set -eu
cd "$(dirname "$0")/.."
python3 -m pip download --dest wheelhouse --only-binary :all: --constraint .ci/constraints.txt --python-version 3.11 \
    --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 \
    --requirement docker/relay-requirements.txt setuptools wheel pip
if [ "${1:-}" != relay ]; then
    python3 -m pip wheel --wheel-dir wheelhouse --constraint .ci/constraints.txt .
fi
(cd wheelhouse && sha256sum -- *.whl > SHA256SUMS)
echo "$(find wheelhouse -name '*.whl' | wc -l) wheels in wheelhouse/, their hashes in wheelhouse/SHA256SUMS"
