# The worker's image; docs/images.md says how it is built, run and checked.
# FLAVOUR: gpu (vLLM's official wheel), cpu (the same engine built for CPUs), stub (no engine; `rollstream` is in each).
ARG BASE=python:3.11.14-slim-bookworm

# What writes the list of an image's parts; it stays behind. The secret, here and below, is a pip.conf for those whose
# packages come from an index of their own; an image holds nothing of it.
FROM ${BASE} AS sbom
COPY tools/image/sbom.txt ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf set -eu; python -m venv --without-pip /opt/sbom; \
    PIP_PYTHON=/opt/sbom/bin/python python -m pip install --no-cache-dir --no-compile --requirement sbom.txt

FROM ${BASE} AS requirements
ARG FLAVOUR=gpu
RUN case "$FLAVOUR" in gpu|cpu|stub) ;; *) echo "FLAVOUR=$FLAVOUR: not one of gpu, cpu, stub" >&2; exit 1 ;; esac
COPY pyproject.toml tools/image/requirements.py ./
RUN python requirements.py "$FLAVOUR" > requirements.txt

# Everything that Python needs, at its final place. It is made from pins alone, so a change of our code keeps this layer.
FROM ${BASE} AS dependencies
ARG FLAVOUR=gpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_PYTHON=/opt/rollstream/bin/python \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY tools/cpu_torch.sh tools/constraints.txt tools/image/constraints-gpu.txt ./
COPY --from=requirements requirements.txt ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf set -eu; \
    python -m venv --without-pip /opt/rollstream; \
    case "$FLAVOUR" in \
        gpu) export PIP_CONSTRAINT=constraints-gpu.txt ;; \
        *) export PIP_CONSTRAINT=constraints.txt; bash cpu_torch.sh python ;; \
    esac; \
    python -m pip install --requirement requirements.txt; \
    if [ "$FLAVOUR" = cpu ]; then python -m pip uninstall --yes torchvision torchaudio torchcodec; fi

# Our own code alone, below /new, and the list of all parts.
FROM dependencies AS code
COPY LICENSE README.md pyproject.toml ./
COPY schemas schemas
COPY transport transport
COPY producer producer
COPY worker worker
COPY rollstream rollstream
RUN set -eu; \
    python -m pip wheel --no-index --no-deps --no-build-isolation --wheel-dir dist .; \
    python -m pip install --no-index --no-deps --root /new dist/*.whl; \
    python -m pip install --no-index --no-deps dist/*.whl
COPY --from=sbom /opt/sbom /opt/sbom
RUN /opt/sbom/bin/cyclonedx-py environment --output-reproducible --output-format JSON \
        --output-file /new/opt/rollstream/sbom.cdx.json /opt/rollstream

FROM ${BASE}
ARG FLAVOUR=gpu
# tini is process 1: it passes signals on from its first millisecond, and buries orphans. The engines load libnuma; on a
# GPU, Triton compiles its launchers with gcc when the worker starts.
RUN set -eu; packages=tini; \
    case "$FLAVOUR" in gpu) packages="$packages gcc libc6-dev libnuma1" ;; cpu) packages="$packages libnuma1" ;; esac; \
    apt-get update; apt-get install --yes --no-install-recommends $packages; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/ldconfig/* /var/log/apt /var/log/dpkg.log; \
    groupadd --gid 10001 worker; useradd --uid 10001 --gid worker --no-log-init --create-home worker; \
    install -d -o worker -g worker /home/worker/.cache
COPY --from=dependencies /opt/rollstream /opt/rollstream
COPY --from=code /new/opt/rollstream /opt/rollstream

# Three places are written, and no others: /home/worker/.cache (what engines compile; a volume there makes the next start
# faster), /tmp and /dev/shm. There is no nvcc: FlashInfer must not try to compile its sampler.
ENV PATH=/opt/rollstream/bin:$PATH \
    HOME=/home/worker \
    PYTHONUNBUFFERED=1 \
    TRITON_CACHE_DIR=/home/worker/.cache/triton \
    TORCHINDUCTOR_CACHE_DIR=/home/worker/.cache/torchinductor \
    CUDA_CACHE_PATH=/home/worker/.cache/nv \
    VLLM_CONFIG_ROOT=/home/worker/.cache/vllm-config \
    VLLM_USE_FLASHINFER_SAMPLER=0
ARG BASE
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=
LABEL org.opencontainers.image.title="rollstream ($FLAVOUR)" \
      org.opencontainers.image.description="Prompts in, padded rollouts out, over Redis streams: a worker" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="$BASE"
# A number, so that Kubernetes sees that it is not root.
USER 10001:10001
WORKDIR /home/worker
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--", "rollstream-worker"]
