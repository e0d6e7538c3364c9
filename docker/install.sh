#!/bin/sh
# install.sh relay|worker|center: this release and what it needs, in exact versions, from ./wheelhouse if there is one.
set -eu
part=$1
cd "$(dirname "$0")"
options="--constraint constraints.txt"
if [ -d wheelhouse ]; then options="$options --no-index --find-links wheelhouse"; fi
if [ "$part" = relay ]; then
    # shellcheck disable=SC2086  # several words on purpose
    pip install $options --requirement relay-requirements.txt
    # shellcheck disable=SC2086
    pip install $options --no-deps ./source
else
    # shellcheck disable=SC2086
    pip install $options ./source
fi
