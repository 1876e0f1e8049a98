# The worker's image. FLAVOUR: gpu (vLLM's official wheel), cpu (the same engine built for CPUs), stub (no engine).
FROM python:3.11-slim
ARG FLAVOUR=gpu

# The engines load libnuma; on a GPU, Triton compiles its launchers with gcc when the worker starts.
RUN set -eu; packages=; \
    case "$FLAVOUR" in \
        gpu) packages="gcc libc6-dev libnuma1" ;; \
        cpu) packages="libnuma1" ;; \
        stub) ;; \
        *) echo "FLAVOUR=$FLAVOUR: not one of gpu, cpu, stub" >&2; exit 1 ;; \
    esac; \
    if [ -n "$packages" ]; then \
        apt-get update; apt-get install --yes --no-install-recommends $packages; rm -rf /var/lib/apt/lists/*; \
    fi

# The home folder holds the engine's compile cache: a volume there makes the next start faster.
RUN useradd --uid 10001 --create-home worker && install -d -o worker -g worker /home/worker/.cache

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# Dependencies change more rarely than code: a layer of their own, made from pyproject.toml alone.
WORKDIR /build
COPY tools/cpu_torch.sh tools/cpu_torch.sh
RUN [ "$FLAVOUR" = gpu ] || bash tools/cpu_torch.sh python
COPY pyproject.toml ./
RUN set -eu; \
    python -c 'import sys, tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
extras = project["optional-dependencies"]; \
print(*project["dependencies"], *extras["observe"], *extras.get(sys.argv[1], []), sep="\n")' \
        "$FLAVOUR" > requirements.txt; \
    pip install -r requirements.txt; \
    if [ "$FLAVOUR" = cpu ]; then pip uninstall --yes torchvision torchaudio torchcodec; fi

COPY LICENSE README.md ./
COPY schemas schemas
COPY transport transport
COPY producer producer
COPY worker worker
COPY rollstream rollstream
RUN pip install --no-deps .

# There is no nvcc in the image: FlashInfer must not try to compile its sampler.
ENV VLLM_USE_FLASHINFER_SAMPLER=0
USER worker
WORKDIR /home/worker
STOPSIGNAL SIGTERM
ENTRYPOINT ["rollstream-worker"]
