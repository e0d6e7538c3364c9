# The coordinating center: SuperLink, SuperExec and nginx under one supervisor; consilium-center run beside it.
#
#   docker build -f docker/center.Dockerfile -t consilium-center .
#   make sbom                                                        # its bill of materials (CycloneDX)

FROM python:3.11-slim-bookworm
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
# The newest nginx of this Debian: old ones leave its mirrors.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends nginx-light \
    && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 consilium \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/consilium --shell /usr/sbin/nologin consilium \
    && install -d -o consilium -g consilium -m 0700 /var/lib/consilium
WORKDIR /opt/consilium
COPY docker/install.sh .ci/constraints.txt ./
COPY pyproject.toml README.md LICENSE ./source/
COPY server ./source/server
COPY client ./source/client
COPY shared_model ./source/shared_model
COPY site_configs ./source/site_configs
COPY wheelhous[e] ./wheelhouse
RUN ./install.sh center && rm -rf source wheelhouse
USER 10001:10001
WORKDIR /var/lib/consilium
EXPOSE 443
HEALTHCHECK --interval=60s --timeout=20s --start-period=120s \
    CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 443), 5)"]
ENTRYPOINT ["consilium-center"]
CMD ["up", "/var/lib/consilium/federation"]
