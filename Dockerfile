# One image for every stage: KFP's steps and `docker run twhin/twhin:0.1.0 twhin train ...` alike, so no entrypoint.
#   docker build -t twhin/twhin:0.1.0 .
#   docker build -t twhin/twhin:0.1.0-cuda --build-arg DEVICE=cuda .
FROM python:3.11-slim-bookworm

# cpu or cuda: which of requirements/{cpu,cuda}.txt is installed. torch brings the CUDA libraries itself.
ARG DEVICE=cpu
# For cpu: PyTorch's index of CPU builds. Without it pip takes the CUDA build, which works too and is larger.
ARG PIP_EXTRA_INDEX_URL=""

WORKDIR /opt/twhin
COPY requirements/ requirements/
# torchrec comes last and without its dependencies; requirements/torchrec.txt says why.
RUN pip install --no-cache-dir -r "requirements/${DEVICE}.txt" \
    && pip install --no-cache-dir --no-deps -r requirements/torchrec.txt

COPY pyproject.toml README.md LICENSE ./
COPY twhin_core/ twhin_core/
COPY components/ components/
COPY pipelines/ pipelines/
RUN pip install --no-cache-dir --no-deps --no-build-isolation . \
    && useradd --create-home --uid 1000 twhin

USER 1000
WORKDIR /home/twhin
COPY --chown=twhin configs/ configs/
# Logs must not wait for a buffer to fill.
ENV PYTHONUNBUFFERED=1
CMD ["twhin", "--help"]
