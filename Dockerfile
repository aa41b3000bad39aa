# A small image that serves models on a CPU. For a GPU, build with TORCH_INDEX= so that pip takes
# its default build of torch, which has CUDA.
FROM python:3.11-slim-bookworm AS build

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src

# For the C kernels. They use the OpenMP library that torch brings: the second stage needs nothing.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

RUN python3 -m venv /opt/penwright
COPY constraints.txt ./
# First and alone: the largest layer, which changes least.
RUN /opt/penwright/bin/pip install --constraint constraints.txt \
    ${TORCH_INDEX:+--index-url ${TORCH_INDEX}} torch
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY app app
COPY model model
COPY training training
COPY checkpoints/default checkpoints/default
RUN /opt/penwright/bin/pip install --constraint constraints.txt .

FROM python:3.11-slim-bookworm

RUN useradd --create-home --uid 10001 penwright
COPY --from=build /opt/penwright /opt/penwright
ENV PATH=/opt/penwright/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PENWRIGHT_HOST=0.0.0.0 \
    PENWRIGHT_PORT=8000 \
    PENWRIGHT_LOG_FORMAT=json
USER penwright
WORKDIR /home/penwright
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['PENWRIGHT_PORT'] + '/readyz', timeout=4)"]
STOPSIGNAL SIGTERM
CMD ["penwright-serve"]
