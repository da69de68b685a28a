"""Write the rules as a PrometheusRule, for clusters in which the Prometheus operator loads them.

python deploy/prometheus/operator.py     (make reference)
"""

from __future__ import annotations

from pathlib import Path

import yaml

RULES = Path(__file__).parent
WRITTEN = RULES.parent / "kubernetes/components/prometheus/rules.yaml"


def resource() -> str:
    """Return the resource: the groups of both files, as they are."""
    files = [RULES / "guardline.recording.yml", RULES / "guardline.alerts.yml"]
    groups = [group for file in files for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "guardline"},
        "spec": {"groups": groups},
    }
    note = "# Written by deploy/prometheus/operator.py from the rules there; `make reference` writes it again.\n"
    return note + str(yaml.safe_dump(rule, sort_keys=False, width=120, allow_unicode=True))


if __name__ == "__main__":
    WRITTEN.write_text(resource(), encoding="utf-8")
