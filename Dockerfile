# The relay's image: what serving needs, no torch, no root, nothing to build with.
#   make image BASE=python:3.12-slim-bookworm@sha256:...
# BASE is pinned by its digest, which `docker buildx imagetools inspect python:3.12-slim-bookworm` tells.
# The interception path is compiled, for which the first stage has a compiler; --build-arg COMPILE=0 leaves that out.
ARG BASE
FROM ${BASE} AS build
ARG COMPILE=1
# hadolint ignore=DL3008
RUN if [ "${COMPILE}" != 0 ]; then \
      apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; \
    fi
ENV TOCSIN_COMPILE=${COMPILE}
WORKDIR /src
RUN python -m venv /opt/tocsin
COPY pyproject.toml setup.py README.md LICENSE ./
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
