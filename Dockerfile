# One image for every stage: KFP's steps and `docker run twhin/twhin:0.1.0 twhin train ...` alike, so no entrypoint.
#   make image                      what requirements/cpu.txt pins
#   make image DEVICE=cuda          with the CUDA libraries that torch brings itself
# All stages begin with the same base, since a virtual environment is bound to the Python that made it. A tag can be
# moved: where the registry can be reached, pin it by digest, as docs/deploy.md says.
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
ARG DEVICE=cpu
# For cpu: PyTorch's index of CPU builds. Without it pip takes the CUDA build, which works too and is larger.
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
RUN python3 -m venv /opt/twhin
COPY requirements/ requirements/
# An index of one's own, with its credentials, comes as the secret `pip`: it is in no layer.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    requirements/install.sh /opt/twhin/bin/python "${DEVICE}"
COPY pyproject.toml README.md LICENSE ./
COPY twhin_core/ twhin_core/
COPY components/ components/
COPY pipelines/ pipelines/
COPY twhin/ twhin/
RUN /opt/twhin/bin/pip install --no-deps --no-build-isolation . \
    && /opt/twhin/bin/pip uninstall --yes pip

# What lists the packages is not among them.
FROM build AS sbom
RUN python3 -m venv /opt/audit
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    requirements/install.sh /opt/audit/bin/python audit
RUN requirements/sbom.sh /opt/audit/bin /opt/twhin/bin/python /sbom

FROM ${BASE}
ARG DEVICE=cpu
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="twhin" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/twhin /opt/twhin
COPY --from=sbom /sbom /usr/share/doc/twhin
# Triton, which makes the fused loss for the GPU at hand, compiles a few lines of C when it starts: any compiler does.
# hadolint ignore=DL3008
RUN if [ "${DEVICE}" = cuda ]; then apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; fi
RUN useradd --create-home --uid 1000 twhin
USER 1000
WORKDIR /home/twhin
COPY --chown=twhin configs/ configs/
# Logs must not wait for a buffer to fill. GKE mounts the libraries of a GPU's driver where no loader looks by itself.
ENV PATH="/opt/twhin/bin:${PATH}" PYTHONUNBUFFERED=1 LD_LIBRARY_PATH=/usr/local/nvidia/lib64
HEALTHCHECK CMD ["twhin", "--version"]
CMD ["twhin", "--help"]
