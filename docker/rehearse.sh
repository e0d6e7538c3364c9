#!/bin/sh
# rehearse.sh: three invented hospitals and a center on this machine, from empty folders to a report. Needs Docker with compose.
set -eu
cd "$(dirname "$0")/.."
REHEARSAL=$(mktemp -d)
export REHEARSAL
compose() { docker compose --file docker/compose.rehearsal.yml "$@"; }
center() { compose run --rm --no-deps -T center "$@"; }
trap 'compose down --volumes --timeout 20; rm -rf "$REHEARSAL"' EXIT

compose build
mkdir "$REHEARSAL/study"
sed 's/^rounds = .*/rounds = 3/' site_configs/demo/study.toml > "$REHEARSAL/study/study.toml"
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
compose cp center:/var/lib/consilium/run/report.html report.html
echo "report: report.html"
