# A miner in a container: docs/miner.md says how to build and run it.
#   docker build -t templar_pl .                                    torch as the package index has it: CUDA, on Linux x86-64
#   docker build -t templar_pl --build-arg TORCH_INDEX=ADDRESS .    torch from another index as well, such as the one of
#                                                                   its builds for CPUs, which takes some GB less
# No key, wallet or password belongs into an image: they come with `docker run`.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml README.md LICENSE hatch_build.py build_native.py hparams.json hparams.local.json ./
COPY templar_pl templar_pl
ARG TORCH_INDEX=""
RUN pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} .

FROM python:${PYTHON}-slim
COPY --from=build /opt/venv /opt/venv
COPY configs /node/configs
# The numbers of a caller who has no account in the image (docker run --user): all that is written goes to /node/runs, and
# what libraries keep for themselves to /node/runs/.cache.
RUN useradd --uid 10001 --no-create-home templar && mkdir -p /node/runs /wallets && chown templar /node/runs
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 HOME=/node/runs/.cache XDG_CACHE_HOME=/node/runs/.cache \
    HF_HOME=/node/runs/.cache/huggingface MPLCONFIGDIR=/tmp/matplotlib BITTENSOR_RUNTIME_CACHE_DIR=/node/runs/.cache/bittensor
WORKDIR /node
USER templar
VOLUME /node/runs
STOPSIGNAL SIGTERM
# Without a shell between: SIGTERM reaches the node itself.
ENTRYPOINT ["python", "-m", "templar_pl"]
CMD ["--help"]
