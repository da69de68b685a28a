"""Overlays build, keep to the schemas and fit the code; the checker reports copies in which something is broken."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import tomllib
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from monitor.settings import Settings
from tests.deploy.kubernetes import Cluster, problems

ROOT = Path(__file__).parents[2]
OVERLAYS = sorted(path.parent.name for path in (ROOT / "deploy/kubernetes/overlays").glob("*/kustomization.yaml"))
#: The oldest whose fields are used, and the newest that the schemas are there for.
VERSIONS = ("1.31", kubernetes_validate.latest_version())
CUSTOM = yaml.safe_load((ROOT / "tests/deploy/custom_resources.yaml").read_text())
NO_KUSTOMIZE = "no kustomize: install `kubectl` 1.27 or later, or `kustomize`, to build the manifests"


@cache
def _kustomize() -> tuple[str, ...] | None:
    """Return the command that builds overlays; components came with kustomize 3.7, which kubectl has since 1.21."""
    if shutil.which("kustomize"):
        return ("kustomize", "build")
    if shutil.which("kubectl"):
        told = subprocess.run(["kubectl", "version", "--client"], capture_output=True, text=True)
        if "Kustomize Version: v5" in told.stdout:
            return ("kubectl", "kustomize")
    return None


@cache
def build(overlay: str) -> str:
    command = _kustomize()
    if command is None:
        pytest.skip(NO_KUSTOMIZE)
    path = ROOT / "deploy/kubernetes/overlays" / overlay
    done = subprocess.run([*command, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr, done.stderr
    return done.stdout


@cache
def cluster(overlay: str) -> Cluster:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return Cluster(
        resources=list(yaml.safe_load_all(build(overlay))),
        version=project["version"],
        commands=frozenset(project["entry-points"]["guardline.commands"]),
        documented=(ROOT / "docs/kubernetes.md").read_text(),
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_fits(overlay: str) -> None:
    assert problems(cluster(overlay)) == []


def validate(resource: dict[str, Any], version: str) -> None:
    """Hold a resource against its schema; unknown fields are errors."""
    custom = CUSTOM.get(f"{resource['apiVersion']}/{resource['kind']}")
    if custom is not None:
        jsonschema.validate(resource, custom)
    else:
        kubernetes_validate.validate(resource, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_resources_keep_to_their_schemas(version: str) -> None:
    resources = [r for overlay in OVERLAYS for r in cluster(overlay).resources]
    distinct = {json.dumps(resource, sort_keys=True): resource for resource in resources}
    for resource in distinct.values():
        validate(resource, version)


@pytest.mark.parametrize(
    ("kind", "field"), [("StatefulSet", "replica"), ("ScaledObject", "maxReplicas"), ("PodMonitor", "endpoints")]
)
def test_a_misspelt_field_does_not_pass(kind: str, field: str) -> None:
    resource = deepcopy(next(r for r in cluster("production").resources if r["kind"] == kind))
    resource["spec"][field] = 3
    with pytest.raises(jsonschema.ValidationError, match=field):
        validate(resource, VERSIONS[0])


def test_the_keys_of_secrets_are_settings() -> None:
    keys = {*re.findall(r"`guardline_([a-z_]+)`", (ROOT / "docs/kubernetes.md").read_text())}
    assert {"kafka_password", "redis_url"} <= keys
    assert keys - {*Settings.model_fields} == set()


def test_the_operator_gets_the_rules_that_promtool_tests() -> None:
    written = ROOT / "deploy/kubernetes/components/prometheus/rules.yaml"
    spec = importlib.util.spec_from_file_location("operator_rules", ROOT / "deploy/prometheus/operator.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert written.read_text(encoding="utf-8") == module.resource(), f"{written.name} is stale: make reference"


def _changed(tree: Any, path: str, value: Any) -> None:
    """Set, or for None remove, what a path of keys and indices leads to."""
    *above, last = path.split("/")
    for key in above:
        tree = tree[int(key)] if isinstance(tree, list) else tree.setdefault(key, {})
    place = int(last) if isinstance(tree, list) else last
    if value is None:
        del tree[place]
    else:
        tree[place] = value


COMPONENT = "app.kubernetes.io/component"
POD, CONTAINER = "spec/template/spec", "spec/template/spec/containers/0"


@pytest.mark.parametrize(
    ("resource", "path", "value", "expected"),
    [
        ("StatefulSet/monitor", f"{CONTAINER}/image", "guardline-monitor:latest", "is not pinned"),
        ("StatefulSet/monitor", f"{CONTAINER}/image", "guardline-monitor:0.0.9", "is not 0."),
        ("StatefulSet/monitor", f"{CONTAINER}/args", ["watch"], "not a command of guardline"),
        ("StatefulSet/monitor", f"{CONTAINER}/env/0/name", "GUARDLINE_NAME", "GUARDLINE_NAME is not a setting"),
        ("StatefulSet/monitor", f"{CONTAINER}/env/1/value", "-1", "GUARDLINE_SESSION_TIMEOUT"),
        ("StatefulSet/monitor", f"{CONTAINER}/env/1/name", "GUARDLINE_KAFKA_PASSWORD", "belongs into a file"),
        ("StatefulSet/monitor", f"{POD}/terminationGracePeriodSeconds", 35, "the drain takes up to 35 s"),
        ("StatefulSet/monitor", f"{POD}/automountServiceAccountToken", True, "gets a token"),
        ("StatefulSet/monitor", f"{POD}/serviceAccountName", "default", "no service account of its own"),
        ("StatefulSet/monitor", f"{POD}/securityContext/runAsNonRoot", None, "may run as root"),
        ("StatefulSet/monitor", f"{POD}/securityContext/seccompProfile", None, "no seccomp profile"),
        ("StatefulSet/monitor", f"{POD}/hostNetwork", True, "shares the node's namespaces"),
        ("StatefulSet/monitor", f"{CONTAINER}/securityContext/readOnlyRootFilesystem", False, "writable root"),
        ("StatefulSet/monitor", f"{CONTAINER}/securityContext/capabilities/add", ["NET_RAW"], "has capabilities"),
        ("StatefulSet/monitor", f"{CONTAINER}/securityContext/privileged", True, "may gain privileges"),
        ("StatefulSet/monitor", f"{CONTAINER}/resources/limits", None, "does not say what it needs"),
        ("StatefulSet/monitor", f"{CONTAINER}/livenessProbe", None, "has no livenessProbe"),
        ("StatefulSet/monitor", f"{CONTAINER}/livenessProbe/httpGet/port", "http", "asks port http"),
        ("StatefulSet/monitor", f"{CONTAINER}/ports/0/containerPort", 9000, "port 9000 stands nowhere"),
        ("StatefulSet/monitor", f"{POD}/volumes/0/configMap/name", "other", "there is no ConfigMap other"),
        ("StatefulSet/monitor", "spec/replicas", 3, "and a scaler too"),
        ("Service/triton", "spec/ports/0/targetPort", "rest", "no pod has the port rest"),
        ("Service/triton", "spec/ports/0/port", 8000, "the service triton has no such port"),
        ("Service/triton", "metadata/name", "inference", "there is no service triton"),
        ("Service/triton", "spec/selector", {"a": "b"}, "leads to 0 workloads"),
        ("NetworkPolicy/default-deny", "spec/ingress", [{}], "not closed by default"),
        ("NetworkPolicy/to-triton", "spec/podSelector", {"matchLabels": {COMPONENT: "alerts"}}, "does not need"),
        ("NetworkPolicy/kafka", "spec/egress/0/ports/0/port", 9092, "may not reach kafka-bootstrap"),
        ("NetworkPolicy/to-triton", "spec/egress/0/ports/0/port", 8000, "may not reach triton:8001"),
        ("NetworkPolicy/triton", "spec/ingress/0/ports/0/port", "http", "is not let in at triton:8001"),
        ("NetworkPolicy/alert-sinks", "spec/podSelector/matchLabels", {"a": "b"}, "selects nothing"),
        ("PodDisruptionBudget/monitor", "spec/selector/matchLabels", {"a": "b"}, "has 0 disruption budgets"),
        ("ScaledObject/monitor", "spec/maxReplicaCount", 24, "24 workers for 12 partitions"),
        ("ScaledObject/monitor", "spec/triggers/0/metadata/topic", "outputs", "watches topic outputs"),
        ("ScaledObject/monitor", "spec/scaleTargetRef/name", "worker", "has no target"),
        ("CronJob/topics", "spec/concurrencyPolicy", "Allow", "may run twice at once"),
        ("Deployment/triton", f"{CONTAINER}/args/0", "--model-repository=/models", "serves another repository"),
        ("Deployment/triton", f"{CONTAINER}/resources/limits/nvidia.com~gpu", None, "asks for no GPU"),
        ("PersistentVolumeClaim/models", "metadata/name", "packages", "no PersistentVolumeClaim models"),
    ],
)
def test_the_checker_sees(resource: str, path: str, value: Any, expected: str) -> None:
    own = cluster("production")
    resources = deepcopy(own.resources)
    kind, name = resource.split("/")
    target = next(r for r in resources if r["kind"] == kind and r["metadata"]["name"] == name)
    if "~" in path:
        del target["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    else:
        _changed(target, path, value)
    found = problems(replace(own, resources=resources))
    assert any(expected in problem for problem in found), found
