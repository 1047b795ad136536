# The relay's image: what serving needs, no torch, no root, nothing to build with.
#   make image BASE=python:3.12-slim-bookworm@sha256:...
# BASE is pinned by its digest, which `docker buildx imagetools inspect python:3.12-slim-bookworm` tells.
ARG BASE
FROM ${BASE} AS build
WORKDIR /src
RUN python -m venv /opt/tocsin
COPY pyproject.toml README.md LICENSE ./
COPY proto ./proto
COPY detectors ./detectors
COPY calibration ./calibration
COPY middleware ./middleware
RUN /opt/tocsin/bin/pip install --no-cache-dir '.[redis,otel,fetch]' \
 && /opt/tocsin/bin/python -m compileall -q /opt/tocsin/lib \
 && /opt/tocsin/bin/pip uninstall --yes pip setuptools

FROM ${BASE}
LABEL org.opencontainers.image.title="tocsin" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/tocsin /opt/tocsin
ENV PATH=/opt/tocsin/bin:$PATH PYTHONUNBUFFERED=1
USER 65532:65532
EXPOSE 8001 9464
CMD ["tocsin", "serve", "--config", "/etc/tocsin/tocsin.yaml"]
