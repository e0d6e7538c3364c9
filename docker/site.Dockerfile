# A hospital's two containers, which share nothing but a socket.
#
#   docker build -f docker/site.Dockerfile --target relay  -t consilium-relay  .   # has a network, sees no patients
#   docker build -f docker/site.Dockerfile --target worker -t consilium-worker .   # sees patients, has no network
#   make sbom                                                                      # CycloneDX, one file an image
#
# Without an internet connection: put the wheels of docker/wheelhouse.sh into ./wheelhouse first.

FROM python:3.11-slim-bookworm AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
# One number for both containers: the worker answers nobody but its own user.
RUN groupadd --gid 10001 consilium \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/consilium --shell /usr/sbin/nologin consilium \
    && install -d -o consilium -g consilium -m 0700 /var/lib/consilium /run/consilium
WORKDIR /opt/consilium
COPY docker/install.sh docker/relay-requirements.txt .ci/constraints.txt ./
COPY pyproject.toml README.md LICENSE ./source/
COPY server ./source/server
COPY client ./source/client
COPY shared_model ./source/shared_model
COPY site_configs ./source/site_configs
COPY wheelhous[e] ./wheelhouse

FROM base AS relay
ENV CONSILIUM_HOME=/var/lib/consilium
RUN ./install.sh relay && rm -rf source wheelhouse
USER 10001:10001
WORKDIR /var/lib/consilium
# join writes this file every few seconds for as long as the center answers.
HEALTHCHECK --interval=60s --timeout=10s --start-period=90s CMD ["sh", "-c", "find \"$CONSILIUM_HOME/online\" -mmin -2 | grep -q ."]
ENTRYPOINT ["consilium-site"]
CMD ["join", "/etc/consilium/kit.json", "--worker", "/run/consilium/worker.sock"]

FROM base AS worker
RUN ./install.sh worker && rm -rf source wheelhouse
USER 10001:10001
WORKDIR /var/lib/consilium
HEALTHCHECK --interval=60s --timeout=20s --start-period=180s CMD ["test", "-S", "/run/consilium/worker.sock"]
ENTRYPOINT ["consilium-site"]
CMD ["worker", "/etc/consilium/site.toml", "--socket", "/run/consilium/worker.sock", "--state", "/var/lib/consilium"]
