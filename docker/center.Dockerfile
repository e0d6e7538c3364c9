# The coordinating center: SuperLink, SuperExec and nginx under one supervisor; consilium-center run beside it.
#
#   docker build -f docker/center.Dockerfile -t consilium-center .
#   make sbom                                                        # its bill of materials (CycloneDX)
#
# Down to its packages this is site.Dockerfile word for word, so that an engine keeps them once for worker and center.

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

FROM base AS center
RUN --mount=type=bind,from=needs,source=/needs,target=/needs /needs/install.sh whole
# The newest nginx of this Debian: old ones leave its mirrors.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends nginx-light \
    && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,from=needs,source=/needs,target=/needs \
    --mount=type=bind,from=source,source=/source,target=/source,rw /needs/install.sh release
USER 10001:10001
WORKDIR /var/lib/consilium
EXPOSE 443
HEALTHCHECK --interval=30s --timeout=20s --start-period=120s \
    CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 443), 5)"]
ENTRYPOINT ["consilium-center"]
CMD ["up", "/var/lib/consilium/federation"]
