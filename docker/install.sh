#!/bin/sh
# install.sh list            the packages of pyproject.toml, into whole-requirements.txt
# install.sh relay|whole     what the relay needs, or everybody else, in exact versions
# install.sh release         this release, whose source is in /source
#
# From ./wheelhouse, if wheelhouse.sh has filled it.
set -eu
cd "$(dirname "$0")"
options="--constraint constraints.txt"
if [ -e wheelhouse/SHA256SUMS ]; then options="$options --no-index --find-links wheelhouse"; fi
# shellcheck disable=SC2086  # $options is several words on purpose
case $1 in
    list) python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        > whole-requirements.txt ;;
    relay | whole) pip install $options --requirement "$1-requirements.txt" ;;
    release) pip install $options --no-deps "${SOURCE:-/source}" ;;
    *) echo "install.sh list|relay|whole|release, not $1" >&2; exit 2 ;;
esac
