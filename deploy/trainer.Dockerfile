# Training and retraining, with torch: gigabytes, and only for jobs. From the repository's root:
#   docker build --file deploy/trainer.Dockerfile --tag guardline-trainer:0.1.0 .
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY monitor monitor
COPY trainer trainer
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/guardline \
    && pip wheel --no-deps --wheel-dir /wheels . \
    && /opt/guardline/bin/pip install --constraint constraints.txt "$(ls /wheels/guardline-*.whl)[trainer,monitor]"

FROM python:3.11.14-slim-bookworm
# The same ids as in the monitor's image, because both have the volume /runs.
RUN groupadd --gid 10001 guardline \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin guardline \
    && install --directory --owner=10001 --group=10001 /runs
COPY --from=build /opt/guardline /opt/guardline
# The base encoder comes from a package, so nothing is asked of a hub; ONNX Runtime's Linux wheels report usage to
# Microsoft unless told not to. What libraries cache goes to /tmp, the only other place that can be written.
ENV PATH=/opt/guardline/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    HOME=/tmp \
    HF_HUB_OFFLINE=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    TOKENIZERS_PARALLELISM=false
USER 10001:10001
WORKDIR /runs
ENTRYPOINT ["guardline"]
CMD ["train"]
