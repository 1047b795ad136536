# The relay's image: what serving needs, no torch, no root, no compiler, no pip. `make image` builds it (image/build-image).
#   BASE     a Debian with `python` 3.11 or newer, pinned by its digest: python:3.12-slim-bookworm@sha256:...
#   COMPILE  0 leaves the interception path as plain Python
#   VERSION  of the package; without it `fallback_version` in pyproject.toml, as the context has no git
# The build is the same on amd64 and arm64: `make image PLATFORM=linux/arm64`.
ARG BASE
FROM ${BASE} AS build
# What the base has by itself is part of the list of contents; the compiler that comes now is not.
RUN cp /var/lib/dpkg/status /base-packages
# hadolint ignore=DL3008,SC2086
RUN packages="gcc libc6-dev" \
 && if [ -e /usr/bin/python ]; then packages="$packages python3-dev python3-venv"; fi \
 && apt-get update && apt-get install --yes --no-install-recommends ${packages} && rm -rf /var/lib/apt/lists/* \
 && python -m venv /opt/tocsin && python -m venv /opt/tools
# Where an index is behind a proxy with an authority of its own, the authority's certificate is a secret of the build.
COPY image/pip-install /usr/local/bin/pip-install
RUN --mount=type=secret,id=certificates pip-install /opt/tools 'cyclonedx-bom>=7,<8' 'python-debian>=1,<2'
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY proto ./proto
COPY detectors ./detectors
COPY calibration ./calibration
COPY middleware ./middleware
ARG COMPILE=1
ARG VERSION=
RUN --mount=type=secret,id=certificates CFLAGS=-g0 TOCSIN_COMPILE=${COMPILE} \
  SETUPTOOLS_SCM_PRETEND_VERSION_FOR_TOCSIN=${VERSION} pip-install /opt/tocsin '.[redis,otel,fetch]'
COPY image/prune.py image/inventory.py ./image/
RUN python image/prune.py /opt/tocsin && /opt/tools/bin/python image/inventory.py /opt/tocsin /base-packages

FROM ${BASE}
COPY --from=build /opt/tocsin /opt/tocsin
RUN if python -c 'import pip' 2>/dev/null; then python -m pip uninstall --yes --root-user-action=ignore pip; fi
ENV PATH=/opt/tocsin/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
LABEL org.opencontainers.image.title="tocsin" \
      org.opencontainers.image.description="Runtime monitoring and guardrails for deployed models" \
      org.opencontainers.image.vendor="the Tocsin authors" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
EXPOSE 8001 9464
# Where `metrics` has another port, so has this: docker run --health-cmd. Kubernetes asks by probes of its own.
HEALTHCHECK --interval=30s --timeout=3s --start-period=30s \
  CMD ["python", "-I", "-c", "import urllib.request as web; web.urlopen('http://127.0.0.1:9464/healthz', timeout=2)"]
CMD ["tocsin", "serve", "--config", "/etc/tocsin/tocsin.yaml"]
