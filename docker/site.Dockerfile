# A hospital's two containers, which share nothing but a socket.
#
#   docker build -f docker/site.Dockerfile --target relay  -t consilium-relay  .   # has a network, sees no patients
#   docker build -f docker/site.Dockerfile --target worker -t consilium-worker .   # sees patients, has no network
#   make sbom                                                                      # CycloneDX, one file an image
#
# Without an internet connection: put the wheels of docker/wheelhouse.sh into ./wheelhouse first.
# Needs BuildKit (Docker 23, or DOCKER_BUILDKIT=1). What installing reads is mounted, so that images do not keep it; packages come
# before this release, so that a newer one is a few megabytes of an image, not all of it.

FROM python:3.11-slim-bookworm AS needs
WORKDIR /needs
COPY docker/install.sh docker/relay-requirements.txt .ci/constraints.txt pyproject.toml ./
RUN ./install.sh list && rm pyproject.toml
# With a file that is always there: Podman refuses to copy nothing.
COPY .ci/constraints.txt wheelhous[e] ./wheelhouse/

FROM scratch AS source
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY server ./server
COPY client ./client
COPY shared_model ./shared_model
COPY site_configs ./site_configs

FROM python:3.11-slim-bookworm AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
# One number for all containers: a worker answers nobody but its own user.
RUN groupadd --gid 10001 consilium \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/consilium --shell /usr/sbin/nologin consilium \
    && install -d -o consilium -g consilium -m 0700 /var/lib/consilium /run/consilium

FROM base AS relay
RUN --mount=type=bind,from=needs,source=/needs,target=/needs /needs/install.sh relay
RUN --mount=type=bind,from=needs,source=/needs,target=/needs \
    --mount=type=bind,from=source,source=/source,target=/source,rw /needs/install.sh release
# numpy starts a thread for each processor of the machine, which count as processes; nothing here computes.
ENV CONSILIUM_HOME=/var/lib/consilium OPENBLAS_NUM_THREADS=1
USER 10001:10001
WORKDIR /var/lib/consilium
# join writes this file every few seconds for as long as the center answers.
HEALTHCHECK --interval=20s --timeout=10s --start-period=90s CMD ["sh", "-c", "find \"$CONSILIUM_HOME/online\" -mmin -2 | grep -q ."]
ENTRYPOINT ["consilium-site"]
CMD ["join", "/etc/consilium/kit.json", "--worker", "/run/consilium/worker.sock"]

FROM base AS worker
RUN --mount=type=bind,from=needs,source=/needs,target=/needs /needs/install.sh whole
RUN --mount=type=bind,from=needs,source=/needs,target=/needs \
    --mount=type=bind,from=source,source=/source,target=/source,rw /needs/install.sh release
USER 10001:10001
WORKDIR /var/lib/consilium
HEALTHCHECK --interval=20s --timeout=20s --start-period=180s \
    CMD ["python", "-c", "import socket; socket.socket(socket.AF_UNIX).connect('/run/consilium/worker.sock')"]
ENTRYPOINT ["consilium-site"]
CMD ["worker", "/etc/consilium/site.toml", "--socket", "/run/consilium/worker.sock", "--state", "/var/lib/consilium"]
