# Every process that runs on: worker, alerts, console, canary, audit log, intake. No torch, no transformers, no compiler.
# Build from the repository's root:
#   docker build --file deploy/monitor.Dockerfile --tag guardline-monitor:0.1.0 .
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY monitor monitor
COPY trainer trainer
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/guardline \
    && pip wheel --no-deps --wheel-dir /wheels . \
    && /opt/guardline/bin/pip install --constraint constraints.txt "$(ls /wheels/guardline-*.whl)[monitor,console,tracing]"

FROM python:3.11.14-slim-bookworm
# The same ids as in the trainer's image, because both have the volume /runs.
RUN groupadd --gid 10001 guardline \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin guardline \
    && install --directory --owner=10001 --group=10001 /runs /var/lib/guardline
COPY --from=build /opt/guardline /opt/guardline
# The root file system is read-only in production, so what Python compiles must be there already (pip did it). ONNX
# Runtime's Linux wheels report usage to Microsoft unless told not to; a monitor of health data reports to nobody.
ENV PATH=/opt/guardline/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    GUARDLINE_METRICS_PORT=9464
# Fails the build if an ML framework came in with a dependency.
RUN ["python", "-c", "import importlib.util as u, sys; sys.exit(any(map(u.find_spec, ('torch', 'transformers', 'sklearn'))))"]
USER 10001:10001
WORKDIR /runs
EXPOSE 9464
# Is the process alive? A waiting monitor is healthy: while Triton or Kafka is away it pauses and loses nothing. The
# image has no curl; `guardline doctor` asks the services too and is for people.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['GUARDLINE_METRICS_PORT'] + '/metrics', timeout=4)"]
ENTRYPOINT ["guardline"]
CMD ["monitor"]
