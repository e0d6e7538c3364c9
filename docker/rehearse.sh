#!/bin/sh
# rehearse.sh [REPORT]: three invented hospitals and a center on this machine, from empty folders to REPORT (report.html).
# Needs Docker with compose, and 8 GB of disk; images are built at the first time. ROUNDS=10 makes the study longer than 3.
set -eu
umask 022  # what is made here is read by the containers' own user
report=${1:-report.html}
case $report in /*) ;; *) report=$PWD/$report ;; esac
cd "$(dirname "$0")/.."
docker compose version > /dev/null 2>&1 && docker info > /dev/null 2>&1 || {
    echo "docker compose does not answer: install Docker Engine with its compose plugin, start it, and be of its group or root" >&2
    exit 2
}
REHEARSAL=$(mktemp -d)
export REHEARSAL
compose() { docker compose --file docker/compose.rehearsal.yml "$@"; }
center() { compose run --rm --no-deps -T center "$@"; }
finish() {
    ended=$?
    if [ "$ended" != 0 ]; then compose ps --all; compose logs --tail 40; fi
    compose down --volumes || true
    rm -rf "$REHEARSAL"
    exit "$ended"
}
trap finish EXIT
trap 'exit 130' INT TERM

compose build center alder-worker alder-relay  # of which the others are made as well
mkdir "$REHEARSAL/study"
sed "s/^rounds = .*/rounds = ${ROUNDS:-3}/" site_configs/demo/study.toml > "$REHEARSAL/study/study.toml"
for site in alder birch cedar; do
    docker run --rm --network none --user "$(id -u):$(id -g)" --volume "$REHEARSAL:/out" consilium-worker \
        synthesize --out /out --hospital "$site" --patients 120 --seed 7
    mkdir "$REHEARSAL/$site/kit"
done
center provision --out federation --host center
for site in alder birch cedar; do
    compose run --rm --no-deps -T --volume "$REHEARSAL/$site:/site:ro" "$site-relay" enrol /site/site.toml --out /tmp/request.json
    compose run --rm --no-deps -T --entrypoint cat "$site-relay" request.json > "$REHEARSAL/study/$site.request.json"
    center approve-site federation "/study/$site.request.json"
    compose run --rm --no-deps -T --entrypoint cat center "federation/kits/$site.kit.json" > "$REHEARSAL/$site/kit/kit.json"
    compose run --rm --no-deps -T --volume "$REHEARSAL/study:/study" "$site-worker" \
        approve /study/study.toml --site /etc/consilium/site.toml --state /var/lib/consilium --yes --by "the rehearsal"
done
compose up --detach --wait
# In the container that is up: SuperLink answers there, on loopback, and nowhere else.
compose exec -T center consilium-center run /study/study.toml --federation federation --sites alder,birch,cedar --out run
compose cp center:/var/lib/consilium/run/report.html "$report"
echo "report: $report"
