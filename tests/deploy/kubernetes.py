"""What must fit together in the built Kubernetes manifests, as pure functions: resources in, sentences out.

A `Cluster` holds what `kubectl kustomize` made of one overlay, and what of the project it must fit. Each check yields
one sentence per problem, none when all is well. Schemas are the test's part; this is about what schemas cannot say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from monitor.acls.grants import components
from monitor.settings import Settings
from tests.deploy.given import PREFIX, drain, problems_of, problems_of_topics

Tree = dict[str, Any]

_COMPONENT = "app.kubernetes.io/component"
_GRANTS = components(Settings(store="redis"))
#: The lock of `guardline retrain` is in Redis too.
_REDIS_USERS = {name for name, grants in _GRANTS.items() if grants.redis} | {"retraining"}

_ADDRESS = re.compile(r"(?:(?<=//)|(?<=@)|(?<![\w./-]))(?P<host>[a-z][a-z0-9.-]*):(?P<port>\d{2,5})\b")
#: Made by the operator before, because it is secret or the site's own.
_GIVEN_CONFIG = {"guardline-ca"}
_RUN = {"Deployment", "StatefulSet", "DaemonSet"}
_TASKS = {"CronJob", "Job"}


@dataclass(frozen=True)
class Cluster:
    """One overlay, built, and the project around it."""

    resources: list[Tree]
    version: str  # of the project
    commands: frozenset[str]  # of `guardline`
    documented: str  # docs/kubernetes.md

    def of(self, *kinds: str) -> list[Tree]:
        """Return the resources of some kinds."""
        return [r for r in self.resources if r["kind"] in kinds]

    def get(self, kind: str, name: str) -> Tree | None:
        """Return one resource."""
        return next((r for r in self.of(kind) if r["metadata"]["name"] == name), None)


@dataclass(frozen=True)
class Workload:
    """Something that runs pods."""

    resource: Tree
    pod: Tree  # its spec
    labels: Mapping[str, str]

    @property
    def name(self) -> str:
        """Kind and name."""
        return f"{self.resource['kind']} {self.resource['metadata']['name']}"

    @property
    def containers(self) -> list[Tree]:
        """All containers, those that run first included."""
        return [*self.pod.get("initContainers", []), *self.pod["containers"]]

    @property
    def task(self) -> bool:
        """Whether it ends by itself."""
        return self.resource["kind"] in _TASKS


def workloads(c: Cluster) -> list[Workload]:
    """Return everything that runs pods."""
    found = []
    for resource in c.of(*_RUN, *_TASKS):
        spec = resource["spec"]
        template = (spec["jobTemplate"]["spec"] if resource["kind"] == "CronJob" else spec)["template"]
        found.append(Workload(resource, template["spec"], template["metadata"].get("labels", {})))
    return found


def environment(c: Cluster, container: Tree) -> dict[str, str]:
    """Return the variables of a container as far as the manifests know them; values of the downward API are 1."""
    given: dict[str, str] = {}
    for source in container.get("envFrom", []):
        config = c.get("ConfigMap", source["configMapRef"]["name"])
        given |= (config or {}).get("data", {})
    for variable in container.get("env", []):
        given[variable["name"]] = variable.get("value", "1")
    return given


def _matches(selector: Tree, labels: Mapping[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(
        e["operator"] == "In" and labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", [])
    )


def _own(image: str) -> bool:
    return image.rpartition("/")[2].startswith("guardline-")


def _port(container: Tree, port: str | int) -> int | None:
    if isinstance(port, int):
        return port
    return next((p["containerPort"] for p in container.get("ports", []) if p.get("name") == port), None)


def _pod_port(workload: Workload, port: str | int) -> int | None:
    return next((p for container in workload.containers if (p := _port(container, port)) is not None), None)


# --- the checks -------------------------------------------------------------------------------------------------------


def settings(c: Cluster) -> Iterator[str]:
    """Every GUARDLINE_ variable is a setting with a value that it accepts; none holds a secret."""
    for workload in workloads(c):
        for container in workload.containers:
            given = environment(c, container)
            yield from problems_of(workload.name, given)
            for name in given:
                if re.search(r"PASSWORD|TOKEN$|SECRET|REDIS_URL", name):
                    yield f"{workload.name}: {name} is a secret, and belongs into a file"
    if c.of("Secret"):
        yield "a Secret stands in the manifests"


def commands(c: Cluster) -> Iterator[str]:
    """What our images start is a command of `guardline`; what runs on has grants that `guardline acls` prints."""
    for workload in workloads(c):
        ours = not workload.task and _own(workload.pod["containers"][0]["image"])
        if ours and workload.labels.get(_COMPONENT) not in _GRANTS:
            yield f"{workload.name}: `guardline acls` has no such component"
        for container in workload.pod["containers"]:
            if _own(container["image"]):
                words = container.get("args", [])
                if container.get("command") or not words or words[0] not in c.commands:
                    yield f"{workload.name}: starts {words[:1]}, which is not a command of guardline"


def images(c: Cluster) -> Iterator[str]:
    """Every image has a version, ours that of the project."""
    for workload in workloads(c):
        for container in workload.containers:
            name, _, tag = container["image"].rpartition("/")[2].partition(":")
            if not re.match(r"\d+\.\d+", tag):
                yield f"{workload.name}: image {container['image']} is not pinned"
            elif name.startswith("guardline-") and tag != c.version:
                yield f"{workload.name}: image {container['image']} is not {c.version}"


def hardening(c: Cluster) -> Iterator[str]:
    """Pods keep to the restricted standard, write nowhere but where a volume is, and say what they need."""
    for workload in workloads(c):
        pod, name = workload.pod, workload.name
        context = pod.get("securityContext", {})
        if not context.get("runAsNonRoot") or not context.get("runAsUser"):
            yield f"{name}: may run as root"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name}: has no seccomp profile"
        if pod.get("automountServiceAccountToken") is not False:
            yield f"{name}: gets a token of the service account"
        account = c.get("ServiceAccount", pod.get("serviceAccountName", "default"))
        if account is None or account.get("automountServiceAccountToken") is not False:
            yield f"{name}: has no service account of its own"
        if pod.get("enableServiceLinks") is not False:
            yield f"{name}: gets variables of every service"
        if any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{name}: shares the node's namespaces"
        for container in workload.containers:
            own = container.get("securityContext", {})
            if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
                yield f"{name}: may gain privileges"
            if own.get("capabilities", {}).get("drop") != ["ALL"] or own["capabilities"].get("add"):
                yield f"{name}: has capabilities"
            if own.get("readOnlyRootFilesystem") is not True:
                yield f"{name}: has a writable root file system"
            resources = container.get("resources", {})
            if {"cpu", "memory"} - {*resources.get("requests", {})} or "memory" not in resources.get("limits", {}):
                yield f"{name}: does not say what it needs"
        for container in pod["containers"]:
            if not any(m["mountPath"] == "/tmp" for m in container.get("volumeMounts", [])):
                yield f"{name}: has no /tmp"


def volumes(c: Cluster) -> Iterator[str]:
    """Mounts have volumes and volumes have sources; each Secret is documented; models are written by tasks only."""
    for workload in workloads(c):
        claimed = {t["metadata"]["name"] for t in workload.resource["spec"].get("volumeClaimTemplates", [])}
        declared = {v["name"]: v for v in workload.pod.get("volumes", [])} | {n: {} for n in claimed}
        used = {m["name"] for container in workload.containers for m in container.get("volumeMounts", [])}
        yield from (f"{workload.name}: volume {n} is not declared" for n in sorted(used - {*declared}))
        yield from (f"{workload.name}: volume {n} is not mounted" for n in sorted({*declared} - used))
        for volume in declared.values():
            config, secret = volume.get("configMap", {}).get("name"), volume.get("secret", {}).get("secretName")
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if config and config not in _GIVEN_CONFIG and c.get("ConfigMap", config) is None:
                yield f"{workload.name}: there is no ConfigMap {config}"
            if claim and c.get("PersistentVolumeClaim", claim) is None:
                yield f"{workload.name}: there is no PersistentVolumeClaim {claim}"
            if secret and f"`{secret}`" not in c.documented:
                yield f"{workload.name}: docs/kubernetes.md does not say what is in the Secret {secret}"
            if "hostPath" in volume:
                yield f"{workload.name}: mounts a path of the node"
        for container in workload.pod["containers"]:
            for mount in container.get("volumeMounts", []):
                if mount["name"] == "models" and bool(mount.get("readOnly")) == workload.task:
                    yield f"{workload.name}: models must be {'writable' if workload.task else 'read-only'}"
        for container in workload.containers:
            for source in container.get("envFrom", []):
                if c.get("ConfigMap", source["configMapRef"]["name"]) is None:
                    yield f"{workload.name}: there is no ConfigMap {source['configMapRef']['name']}"


def lifecycle(c: Cluster) -> Iterator[str]:
    """What runs on is probed on ports it has, has time for its drain, and survives a drain of its node."""
    for workload in workloads(c):
        if workload.task:
            continue
        for container in workload.pod["containers"]:
            for probe in ("livenessProbe", "readinessProbe"):
                if probe not in container:
                    yield f"{workload.name}: has no {probe}"
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                asked = container.get(probe, {})
                action = asked.get("httpGet") or asked.get("tcpSocket") or {}
                if action and _port(container, action["port"]) not in {
                    p["containerPort"] for p in container.get("ports", [])
                }:
                    yield f"{workload.name}: {probe} asks port {action['port']}, which is not declared"
            given = environment(c, container)
            grace = workload.pod.get("terminationGracePeriodSeconds", 30)
            if _own(container["image"]) and grace <= drain(given):
                yield f"{workload.name}: is killed after {grace} s, the drain takes up to {drain(given):g} s"
        scaled = any(r["spec"]["scaleTargetRef"]["name"] == workload.resource["metadata"]["name"] for r in scalers(c))
        if scaled and "replicas" in workload.resource["spec"]:
            yield f"{workload.name}: has a number of replicas, and a scaler too"
        if scaled or workload.resource["spec"].get("replicas", 1) > 1:
            budgets = [b for b in c.of("PodDisruptionBudget") if _matches(b["spec"]["selector"], workload.labels)]
            if len(budgets) != 1:
                yield f"{workload.name}: has {len(budgets)} disruption budgets"
    for task in c.of("CronJob"):
        spec = task["spec"]
        if spec.get("concurrencyPolicy") != "Forbid":
            yield f"CronJob {task['metadata']['name']}: may run twice at once"


def ports(c: Cluster) -> Iterator[str]:
    """Declared ports stand in the configuration; services lead to ports that pods have."""
    for workload in workloads(c):
        for container in workload.pod["containers"]:
            words = [*container.get("args", []), *environment(c, container).values()]
            configured = " ".join(map(str, words))
            for port in container.get("ports", []):
                if not re.search(rf"(?<!\d){port['containerPort']}(?!\d)", configured):
                    yield f"{workload.name}: port {port['containerPort']} stands nowhere in its configuration"
    for service in c.of("Service"):
        found = [w for w in workloads(c) if _matches({"matchLabels": service["spec"]["selector"]}, w.labels)]
        if len(found) != 1:
            yield f"Service {service['metadata']['name']}: leads to {len(found)} workloads"
        for own in service["spec"]["ports"]:
            if any(_pod_port(w, own["targetPort"]) is None for w in found):
                yield f"Service {service['metadata']['name']}: no pod has the port {own['targetPort']}"


def _addresses(c: Cluster, workload: Workload) -> Iterator[tuple[str, int]]:
    for container in workload.containers:
        for name, value in environment(c, container).items():
            if name.startswith(PREFIX):
                for match in _ADDRESS.finditer(str(value)):
                    yield match["host"], int(match["port"])
    used = {name for container in workload.containers for name in environment(c, container)}
    # The address itself is in a Secret.
    if "GUARDLINE_STORE" in used and c.get("Service", "redis") and workload.labels[_COMPONENT] in _REDIS_USERS:
        yield "redis", 6379


def _policies(c: Cluster, labels: Mapping[str, str], direction: str) -> Iterator[Tree]:
    for policy in c.of("NetworkPolicy"):
        if _matches(policy["spec"]["podSelector"], labels):
            yield from policy["spec"].get(direction, [])


def _lets_out(c: Cluster, workload: Workload, target: Workload | str, port: int) -> bool:
    for rule in _policies(c, workload.labels, "egress"):
        if port not in {p["port"] for p in rule.get("ports", [])}:
            continue
        for peer in rule.get("to", []):
            if isinstance(target, str):
                if peer.get("namespaceSelector", {}).get("matchLabels") == {"kubernetes.io/metadata.name": target}:
                    return True
            elif "namespaceSelector" not in peer and _matches(peer["podSelector"], target.labels):
                return True
    return False


def _lets_in(c: Cluster, workload: Workload, target: Workload, port: int) -> bool:
    for rule in _policies(c, target.labels, "ingress"):
        peers = [peer["podSelector"] for peer in rule.get("from", []) if {*peer} == {"podSelector"}]
        open_ports = {_pod_port(target, p["port"]) for p in rule.get("ports", [])}
        if port in open_ports and any(_matches(peer, workload.labels) for peer in peers):
            return True
    return False


def _behind(c: Cluster, service: Tree, port: int) -> tuple[Workload, int] | None:
    """Return the workload that a service's port leads to, and the port there."""
    inside = next((p["targetPort"] for p in service["spec"]["ports"] if p["port"] == port), None)
    selector = {"matchLabels": service["spec"]["selector"]}
    target = next((w for w in workloads(c) if _matches(selector, w.labels)), None)
    number = _pod_port(target, inside) if target is not None and inside is not None else None
    return None if target is None or number is None else (target, number)


def _reaches(c: Cluster, workload: Workload) -> Iterator[str]:
    """Yield what keeps a workload from an address that it is configured with, or lets it reach more."""
    needed = set()
    for host, port in sorted({*_addresses(c, workload)}):
        name, _, domain = host.partition(".")
        target: Workload | str
        number = port
        if domain:
            target = domain.partition(".")[0]  # name.namespace.svc
        elif (service := c.get("Service", name)) is None:
            yield f"{host}:{port}: there is no service {host}"
            continue
        elif (found := _behind(c, service, port)) is None:
            yield f"{host}:{port}: the service {name} has no such port"
            continue
        else:
            target, number = found
            if target.name == workload.name:
                continue
        needed.add(number)
        if not _lets_out(c, workload, target, number):
            yield f"may not reach {host}:{port}"
        elif isinstance(target, Workload) and not _lets_in(c, workload, target, number):
            yield f"is not let in at {host}:{port}"
    for policy in c.of("NetworkPolicy"):
        selector = policy["spec"]["podSelector"]
        if selector and _matches(selector, workload.labels):
            rules = [rule for rule in policy["spec"].get("egress", []) if "to" in rule]
            for port in sorted({p["port"] for rule in rules for p in rule.get("ports", [])} - needed):
                yield f"{policy['metadata']['name']} lets it reach port {port}, which it does not need"


def network(c: Cluster) -> Iterator[str]:
    """Nothing is open by default; what a configuration names can be reached, and nothing else; selectors select."""
    denied = [p for p in c.of("NetworkPolicy") if p["spec"]["podSelector"] == {} and "ingress" not in p["spec"]]
    if not any({*p["spec"]["policyTypes"]} == {"Ingress", "Egress"} and "egress" not in p["spec"] for p in denied):
        yield "the network is not closed by default"
    everything = workloads(c)
    for policy in c.of("NetworkPolicy"):
        if not any(_matches(policy["spec"]["podSelector"], w.labels) for w in everything):
            yield f"NetworkPolicy {policy['metadata']['name']}: selects nothing"
    for workload in everything:
        yield from (f"{workload.name}: {problem}" for problem in _reaches(c, workload))


def scalers(c: Cluster) -> list[Tree]:
    """Return what changes numbers of replicas."""
    return c.of("HorizontalPodAutoscaler", "ScaledObject")


def scaling(c: Cluster) -> Iterator[str]:
    """Scalers have a target, watch what the monitor reads, and make no more workers than there are partitions."""
    script = "\n".join(s for r in c.of("ConfigMap") for s in r.get("data", {}).values())
    partitions = re.search(r"OUTPUTS_PARTITIONS:-(\d+)", script)
    for scaler in scalers(c):
        spec, name = scaler["spec"], f"{scaler['kind']} {scaler['metadata']['name']}"
        target = c.get(spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"])
        if target is None:
            yield f"{name}: has no target"
            continue
        most = spec.get("maxReplicas", spec.get("maxReplicaCount"))
        if partitions and most > int(partitions[1]):
            yield f"{name}: makes {most} workers for {partitions[1]} partitions"
        given = environment(c, target["spec"]["template"]["spec"]["containers"][0])
        for trigger in spec.get("triggers", []):
            for key, setting in (
                ("bootstrapServers", "kafka_bootstrap"),
                ("consumerGroup", "group"),
                ("topic", "topic_outputs"),
            ):
                expected = given.get(f"{PREFIX}{setting.upper()}", Settings.model_fields[setting].default)
                if trigger["metadata"][key] != expected:
                    yield f"{name}: watches {key} {trigger['metadata'][key]}, the monitor has {expected}"
            if c.get("TriggerAuthentication", trigger["authenticationRef"]["name"]) is None:
                yield f"{name}: has no TriggerAuthentication {trigger['authenticationRef']['name']}"


def topics(c: Cluster) -> Iterator[str]:
    """The script creates every topic, under the names that the settings have."""
    scripts = [r["data"]["topics.sh"] for r in c.of("ConfigMap") if "topics.sh" in r.get("data", {})]
    if len(scripts) != 1:
        yield f"{len(scripts)} ConfigMaps have topics.sh"
    for script in scripts:
        yield from problems_of_topics("topics.sh", script)


def models(c: Cluster) -> Iterator[str]:
    """Triton serves the repository that promotion fills, from the volume that the monitor reads, on a GPU."""
    server = c.get("Deployment", "triton")
    monitor = c.get("StatefulSet", "monitor")
    if monitor is None:
        yield "there is no monitor"
        return
    given = environment(c, monitor["spec"]["template"]["spec"]["containers"][0])
    if (given.get("GUARDLINE_SCORER") == "triton") != (server is not None):
        yield "the monitor scores with Triton, and there is none, or the other way round"
    if server is None:
        return
    container = server["spec"]["template"]["spec"]["containers"][0]
    if f"--model-repository={given.get('GUARDLINE_TRITON_REPOSITORY')}" not in container["args"]:
        yield "triton: serves another repository than the one that packages are promoted to"
    for option in ("--model-control-mode=explicit", "--load-model=*"):
        if option not in container["args"]:
            yield f"triton: is not started with {option}"
    if container["resources"]["limits"].get("nvidia.com/gpu") != 1:
        yield "triton: asks for no GPU"
    mounts = monitor["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    for path in (given.get("GUARDLINE_MODEL", ""), given.get("GUARDLINE_MODELS_FILE", "")):
        if not any(path.startswith(f"{m['mountPath']}/") for m in mounts if m["name"] == "models"):
            yield f"monitor: {path} is on no volume of models"


CHECKS = (settings, commands, images, hardening, volumes, lifecycle, ports, network, scaling, topics, models)


def problems(c: Cluster) -> list[str]:
    """Return every problem of an overlay, one sentence each."""
    return [problem for check in CHECKS for problem in check(c)]
