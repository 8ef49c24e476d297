# The image of the jobs, from the locks: `docker build --build-arg STACK=cuda .`, or STACK=cpu. TorchX gives the command, so
# there is no entry point. The CUDA libraries come with the lock; only the driver is the host's.
FROM python:3.11-slim-bookworm

ARG STACK=cpu
# Where torch alone is taken from: the default index has one torch for Linux, a CUDA build, which needs the CUDA libraries
# even on a CPU (docs/dependencies.md).
ARG TORCH_INDEX_URL=

ENV PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /opt/intrr_rec

COPY requirements requirements
RUN pip install --no-cache-dir --no-deps ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} --requirement requirements/torch.txt \
    && pip install --no-cache-dir --no-deps --require-hashes --requirement "requirements/${STACK}.txt" \
    && python -c "import torch"

COPY pyproject.toml setup.py README.md LICENSE ./
COPY intrr_rec intrr_rec
COPY torchx_components torchx_components
COPY configs configs
COPY datasets datasets
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable . \
    && useradd --uid 1000 --create-home intrr \
    && intrr --help >/dev/null

USER 1000
WORKDIR /home/intrr
# Of a server: does it answer? A large bundle takes minutes to open its port. Other verbs are well for as long as they run.
HEALTHCHECK --interval=30s --timeout=10s --start-period=10m --retries=3 \
    CMD ["python", "-m", "intrr_rec.serving.http.health"]
CMD ["intrr", "--help"]
