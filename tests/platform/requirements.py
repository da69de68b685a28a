"""What has to be installed, and how to get what is not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from tests.fixtures_kafka import find_kafka
from tests.fixtures_services import TRITON_VENV
from tests.observability.tools import PACKAGES

_PROGRAMS = {name: PACKAGES[name] for name in ("prometheus", "prometheus-alertmanager")} | {
    "redis-server": "redis-server"
}


def missing() -> Iterator[str]:
    """Yield a line for each tool that is not there: its name, and how to get it."""
    kind, place = find_kafka()
    if kind == "bootstrap":
        yield f"a Kafka to start: KAFKA_BOOTSTRAP names one that runs already ({place}); unset it"
    elif kind is None:
        yield "Kafka: unpack one (https://kafka.apache.org/downloads), set GUARDLINE_KAFKA_HOME to it, install Java 17"
    yield from (
        f"{program}: apt-get install {package}"
        for program, package in _PROGRAMS.items()
        if shutil.which(program) is None
    )
    if not any(TRITON_VENV.glob("lib/python3.*/site-packages/pytriton/tritonserver")):
        yield "tritonserver: `make platform` puts it into .venv-triton (deploy/triton/requirements.txt)"
