"""What must fit together in the deployment files, as pure functions: parsed files in, sentences about problems out.

No Docker is needed. A `Deployment` holds what was read; `problems` resolves the variables with their defaults, as
Compose does without an `.env`, and asks every check. Each check yields one sentence per problem, none when all is well.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from tests.deploy.given import PREFIX, drain, problems_of, problems_of_topics
from tests.deploy.given import topics as known_topics

Tree = dict[str, Any]

_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<bare>\w+)|\{(?P<name>\w+)(?::?-(?P<default>[^}]*))?(?P<rest>[^}]*)\})"
)
_ADDRESS = re.compile(r"(?:(?<=//)|(?<=@)|(?<![\w./-]))(?P<host>[a-z][a-z0-9-]*|127\.0\.0\.1):(?P<port>\d{2,5})\b")
_EXTRAS = re.compile(r"(?:guardline|\.whl\)?)\[(?P<extras>[a-z, ]+)\]")
#: Images whose last USER is not root, by their published Dockerfiles.
_NON_ROOT = {"apache/kafka": "appuser"}


@dataclass(frozen=True)
class Dockerfile:
    """The instructions of a Dockerfile, continuation lines joined, comments gone."""

    instructions: list[tuple[str, str]]

    @classmethod
    def parse(cls, text: str) -> Dockerfile:
        """Read a Dockerfile."""
        lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        joined = re.sub(r"\\\n\s*", " ", lines)
        parts = (line.strip().split(None, 1) for line in joined.splitlines() if line.strip())
        return cls([(part[0].upper(), part[1]) for part in parts])

    def all(self, name: str) -> list[str]:
        """Return the arguments of every instruction of one kind."""
        return [argument for instruction, argument in self.instructions if instruction == name]

    def last_stage(self) -> Dockerfile:
        """Return the stage that becomes the image."""
        start = max(i for i, (name, _) in enumerate(self.instructions) if name == "FROM")
        return Dockerfile(self.instructions[start:])

    def environment(self) -> dict[str, str]:
        """Return what ENV sets in the image."""
        stage = self.last_stage()
        return {name: value for line in stage.all("ENV") for name, value in re.findall(r"(\w+)=(\S*)", line)}


@dataclass(frozen=True)
class Deployment:
    """Everything that the checks look at."""

    compose: Tree  # as YAML gives it, variables unresolved
    dockerfiles: Mapping[str, Dockerfile]  # by path from the root
    example: Mapping[str, str]  # .env.example
    dockerignore: list[str]
    extras: frozenset[str]  # of pyproject.toml
    commands: frozenset[str]  # of `guardline`
    exists: Callable[[str], bool] = field(repr=False)  # a path from the root
    read: Callable[[str], str] = field(repr=False)


def parse_example(text: str) -> dict[str, str]:
    """Return name and default of every variable of an `.env.example`, commented out or not."""
    return dict(re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", text, re.MULTILINE))


def strings(tree: Any) -> Iterator[str]:
    """Yield every text in a tree, and numbers as text."""
    if isinstance(tree, Mapping):
        for value in tree.values():
            yield from strings(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from strings(value)
    elif tree is not None:
        yield str(tree)


def resolved(tree: Any) -> Any:
    """Return the tree with every variable replaced by its default."""
    if isinstance(tree, Mapping):
        return {key: resolved(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [resolved(value) for value in tree]
    if isinstance(tree, str):
        return _VARIABLE.sub(lambda m: "$" if m["escaped"] else m["default"] or "", tree)
    return tree


def seconds(duration: str) -> float:
    """Return the seconds of a Compose duration such as 1m30s."""
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", duration))


# --- what the services are made of ------------------------------------------------------------------------------------


def _services(d: Deployment) -> dict[str, Tree]:
    return resolved(d.compose)["services"]


def _dockerfile(d: Deployment, service: Tree) -> Dockerfile | None:
    return d.dockerfiles.get(service.get("build", {}).get("dockerfile", ""))


def _environment(d: Deployment, service: Tree) -> dict[str, str]:
    image = _dockerfile(d, service)
    return {**(image.environment() if image else {}), **service.get("environment", {})}


def _published(service: Tree) -> list[tuple[str, str, str]]:
    """Return address, host port and container port of each published port."""
    parts = [str(port).split("/")[0].split(":") for port in service.get("ports", [])]
    return [(":".join(p[:-2]), p[-2] if len(p) > 1 else "", p[-1]) for p in parts]


def _listening(d: Deployment, service: Tree) -> set[str]:
    image = _dockerfile(d, service)
    exposed = " ".join(image.last_stage().all("EXPOSE")).split() if image else []
    return {*map(str, service.get("expose", [])), *exposed, *(port for _, _, port in _published(service))}


def _mounts(service: Tree) -> list[tuple[str, str, bool]]:
    """Return source, target and whether it is read-only of each volume."""
    parts = [volume.split(":") for volume in service.get("volumes", [])]
    return [(p[0], p[1], p[2:] == ["ro"]) for p in parts]


def _command(service: Tree) -> list[str]:
    return [*strings(service.get("entrypoint", [])), *strings(service.get("command", []))]


def _option(service: Tree, name: str) -> str | None:
    """Return the value of `--name=value` or `--name value` in a command."""
    words = _command(service)
    for word, following in zip(words, [*words[1:], None], strict=True):
        if word == f"--{name}":
            return following
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
    return None


def _runs_on(services: Mapping[str, Tree], image: str) -> dict[str, Tree]:
    return {name: own for name, own in services.items() if image in own.get("image", "")}


# --- the checks -------------------------------------------------------------------------------------------------------


def variables(d: Deployment) -> Iterator[str]:
    """Every variable has one default, and stands in .env.example with it; nothing else stands there."""
    defaults: dict[str, set[str | None]] = {}
    for text in strings(d.compose):
        for match in _VARIABLE.finditer(text):
            name = match["name"] or match["bare"]
            if name:
                defaults.setdefault(name, set()).add(match["default"] if not match["rest"] else None)
    for name, given in sorted(defaults.items()):
        if None in given:
            yield f"variable {name} has no default"
        elif len(given) > 1:
            yield f"variable {name} has different defaults: {sorted(map(str, given))}"
        if name not in d.example:
            yield f"variable {name} is missing from .env.example"
        elif d.example[name] not in given:
            yield f"variable {name} is {d.example[name]!r} in .env.example and {given} in the compose file"
    yield from (f".env.example: nothing reads {name}" for name in sorted({*d.example} - {*defaults}))


def _ignored(rules: Iterable[str], path: str) -> bool:
    candidates = [path, *(str(parent) for parent in PurePosixPath(path).parents if str(parent) != ".")]
    ignored = False
    for rule in rules:
        pattern = rule.removeprefix("!").strip("/")
        if any(fnmatch.fnmatch(c, pattern) or fnmatch.fnmatch(f"/{c}", f"*/{pattern[3:]}") for c in candidates if c):
            ignored = not rule.startswith("!")
    return ignored


def paths(d: Deployment) -> Iterator[str]:
    """Build contexts, Dockerfiles, COPY sources and bind mounts exist; named volumes are declared."""
    declared = {*(d.compose.get("volumes") or {})}
    for name, service in _services(d).items():
        build = service.get("build", {})
        if build and not d.exists(build["context"]):
            yield f"{name}: build context {build['context']} does not exist"
        if build and build["dockerfile"] not in d.dockerfiles:
            yield f"{name}: Dockerfile {build['dockerfile']} does not exist"
        for source, _, _ in _mounts(service):
            if source.startswith((".", "/", "~")):
                if not d.exists(source):
                    yield f"{name}: mounted path {source} does not exist"
            elif source not in declared:
                yield f"{name}: volume {source} is not declared"
    for path, dockerfile in d.dockerfiles.items():
        stages = {m[1] for line in dockerfile.all("FROM") if (m := re.search(r"\bAS (\S+)", line))}
        for line in dockerfile.all("COPY"):
            words = line.split()
            if words[0].startswith("--from="):
                if words[0].removeprefix("--from=") not in stages:
                    yield f"{path}: COPY from the unknown stage {words[0].removeprefix('--from=')}"
                continue
            for source in words[:-1]:
                if not d.exists(source):
                    yield f"{path}: COPY source {source} does not exist"
                elif _ignored(d.dockerignore, source):
                    yield f"{path}: COPY source {source} is left out by .dockerignore"


def secrets(d: Deployment) -> Iterator[str]:
    """Secrets are declared, and come from a folder that git ignores."""
    declared = resolved(d.compose).get("secrets", {})
    for name, service in _services(d).items():
        yield from (f"{name}: secret {s} is not declared" for s in service.get("secrets", []) if s not in declared)
    for name, secret in declared.items():
        if not secret.get("file", "").startswith("./secrets/"):
            yield f"secret {name}: is not a file in ./secrets"


def settings(d: Deployment) -> Iterator[str]:
    """Every GUARDLINE_ variable of a container is a setting, with a value that the setting accepts."""
    for name, service in _services(d).items():
        yield from problems_of(name, _environment(d, service))


def addresses(d: Deployment) -> Iterator[str]:
    """Every host:port is a service that listens there; every port that a service claims stands in its configuration."""
    services = _services(d)
    for name, service in services.items():
        used = {k: v for k, v in service.items() if k in ("environment", "command", "entrypoint", "healthcheck")}
        advertised = str(service.get("environment", {}).get("KAFKA_ADVERTISED_LISTENERS", ""))
        for text in strings(used):
            for match in _ADDRESS.finditer(text):
                host, port = match["host"], match["port"]
                if text == advertised and host == "127.0.0.1":
                    if ("127.0.0.1", port) not in {(a, p) for a, p, _ in _published(service)}:
                        yield f"{name}: advertises 127.0.0.1:{port}, which is not published"
                elif host not in services and host not in ("127.0.0.1", "localhost"):
                    yield f"{name}: {host}:{port}: there is no service {host}"
                elif port not in _listening(d, services.get(host, service)):
                    yield f"{name}: {host}:{port}: {host} does not listen on {port}"
        configured = " ".join([*strings(_environment(d, service)), *_command(service)])
        for port in sorted(_listening(d, service)):
            if not re.search(rf"(?<!\d){port}(?!\d)", configured):
                yield f"{name}: says that it listens on {port}, but nothing in its configuration does"


def kafka(d: Deployment) -> Iterator[str]:
    """Clients use addresses that the broker advertises, on listeners that it has; it creates no topics by itself."""
    services = _services(d)
    for name, broker in services.items():
        env = broker.get("environment", {})
        if "KAFKA_LISTENERS" not in env:
            continue
        listeners = dict(re.findall(r"(\w+)://[^:,]*:(\d+)", env["KAFKA_LISTENERS"]))
        advertised = {n: (h, p) for n, h, p in re.findall(r"(\w+)://([^:,]*):(\d+)", env["KAFKA_ADVERTISED_LISTENERS"])}
        protocols = dict(re.findall(r"(\w+):(\w+)", env["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"]))
        for listener in {*listeners, *advertised, env["KAFKA_INTER_BROKER_LISTENER_NAME"]}:
            if listener not in listeners or listener not in protocols:
                yield f"{name}: listener {listener} is not configured"
        for listener, (host, port) in advertised.items():
            inside = {p: c for _, p, c in _published(broker)}.get(port) if host == "127.0.0.1" else port
            if inside != listeners.get(listener):
                yield f"{name}: {listener} advertises {host}:{port} but listens on {listeners.get(listener)}"
        for client, service in services.items():
            bootstrap = service.get("environment", {}).get("GUARDLINE_KAFKA_BOOTSTRAP")
            if bootstrap and tuple(bootstrap.split(":")) not in advertised.values():
                yield f"{client}: {bootstrap} is not what {name} advertises"
        if str(env.get("KAFKA_AUTO_CREATE_TOPICS_ENABLE")) != "false":
            yield f"{name}: creates topics by itself"


def topics(d: Deployment) -> Iterator[str]:
    """One service creates every topic of the settings; all containers that are told names are told the same."""
    services = _services(d)
    creators = {n: s for n, s in services.items() if any("topics.sh" in word for word in _command(s))}
    if not creators:
        yield "no service creates the topics"
    for name, service in creators.items():
        script = next((source for source, target, _ in _mounts(service) if target in _command(service)), None)
        if script is None or not d.exists(script):
            yield f"{name}: its script is not mounted"
        else:
            yield from problems_of_topics(name, d.read(script))
    for name, service in services.items():
        environment = service.get("environment", {})
        if "GUARDLINE_KAFKA_BOOTSTRAP" in environment:
            for variable, default in known_topics().items():
                if variable.startswith(PREFIX) and environment.get(variable) != default:
                    yield f"{name}: {variable} is {environment.get(variable)!r}, the setting's default {default!r}"


def dependencies(d: Deployment) -> Iterator[str]:
    """Services that are waited for exist, start with the waiting one, and can reach the condition."""
    services = _services(d)
    for name, service in services.items():
        for target, how in service.get("depends_on", {}).items():
            if target not in services:
                yield f"{name}: depends on {target}, which does not exist"
                continue
            other = services[target]
            condition = how["condition"]
            image = _dockerfile(d, other)
            checked = "healthcheck" in other or (image and image.last_stage().all("HEALTHCHECK"))
            if condition == "service_healthy" and not checked:
                yield f"{name}: waits for {target} to be healthy, which has no health check"
            if condition == "service_completed_successfully" and other.get("restart") != "no":
                yield f"{name}: waits for the end of {target}, which is restarted"
            if not {*other.get("profiles", [])} <= {*service.get("profiles", [])}:
                yield f"{name}: depends on {target}, which only a profile starts"


def ports(d: Deployment) -> Iterator[str]:
    """Ports are published on 127.0.0.1 only, each once; the metrics of the monitor are not published."""
    seen: dict[str, str] = {}
    for name, service in _services(d).items():
        for address, host, inside in _published(service):
            if address != "127.0.0.1":
                yield f"{name}: port {inside} is published on {address or 'every address'}"
            if host in seen:
                yield f"{name}: port {host} is also published by {seen[host]}"
            seen[host] = name
            if inside == str(_environment(d, service).get("GUARDLINE_METRICS_PORT")):
                yield f"{name}: the metrics port is published"


def images(d: Deployment) -> Iterator[str]:
    """Every image is named with a version."""
    named = [(name, service["image"]) for name, service in _services(d).items() if "image" in service]
    for path, dockerfile in d.dockerfiles.items():
        stages = {m[1] for line in dockerfile.all("FROM") if (m := re.search(r"\bAS (\S+)", line))}
        named += [(path, line.split()[0]) for line in dockerfile.all("FROM") if line.split()[0] not in stages]
    for where, image in named:
        tag = image.rpartition("/")[2].partition(":")[2]
        if not re.match(r"v?\d+\.\d+", tag):
            yield f"{where}: image {image} is not pinned"


def hardening(d: Deployment) -> Iterator[str]:
    """Nothing runs as root or gains privileges; what we build also has a read-only root file system."""
    for name, service in _services(d).items():
        image = _dockerfile(d, service)
        built = ["root", *image.last_stage().all("USER")][-1] if image else None
        known = _NON_ROOT.get(service.get("image", "").partition(":")[0], "root")
        user = service.get("user") or built or known
        if user.partition(":")[0] in ("root", "0"):
            yield f"{name}: runs as root"
        if "no-new-privileges:true" not in service.get("security_opt", []) or service.get("privileged"):
            yield f"{name}: may gain privileges"
        if service.get("cap_drop") != ["ALL"] or service.get("cap_add"):
            yield f"{name}: has capabilities"
        if image and not service.get("read_only"):
            yield f"{name}: has a writable root file system"
        if service.get("read_only") and not any(t.split(":")[0] == "/tmp" for t in service.get("tmpfs", [])):
            yield f"{name}: has a read-only root file system and no /tmp"


def lifecycle(d: Deployment) -> Iterator[str]:
    """What runs on has a health check and is restarted; the monitor has time for its drain."""
    services = _services(d)
    for name, service in services.items():
        image = _dockerfile(d, service)
        checked = "healthcheck" in service or (image and image.last_stage().all("HEALTHCHECK"))
        if service.get("restart") not in ("no", "unless-stopped", "always"):
            yield f"{name}: has no restart policy"
        elif service["restart"] != "no" and not checked:
            yield f"{name}: has no health check"
        env = service.get("environment", {})
        if "GUARDLINE_KAFKA_BOOTSTRAP" in env and service["restart"] != "no":
            grace = seconds(service.get("stop_grace_period", "10s"))
            if grace <= drain(env):
                yield f"{name}: is killed after {grace:g} s, the drain takes up to {drain(env):g} s"


def dockerfiles(d: Deployment) -> Iterator[str]:
    """Extras and commands exist; the monitor's image is built without the trainer's; no host or secret is named."""
    for path, dockerfile in d.dockerfiles.items():
        text = "\n".join(argument for _, argument in dockerfile.instructions)
        named = {e.strip() for m in _EXTRAS.finditer(text) for e in m["extras"].split(",")}
        if not named:
            yield f"{path}: installs no extra"
        yield from (f"{path}: there is no extra {extra}" for extra in sorted(named - d.extras))
        if "monitor" in PurePosixPath(path).name and named & {"trainer", "demo", "dev"}:
            yield f"{path}: installs the trainer"
        if "--constraint constraints.txt" not in text:
            yield f"{path}: installs without constraints.txt"
        if re.search(r"https?://(?!127\.0\.0\.1)|--(?:extra-)?index-url|(?i:password|token=|secret)", text):
            yield f"{path}: names a host or a secret"
        if dockerfile.environment().get("ORT_DISABLE_TELEMETRY") != "1":
            yield f"{path}: leaves ONNX Runtime's telemetry on"
        stage = dockerfile.last_stage()
        words = re.findall(r'"([^"]+)"', " ".join([*stage.all("ENTRYPOINT"), *stage.all("CMD")][:2]))
        if words[:1] != ["guardline"] or words[1:2] == [] or words[1] not in d.commands:
            yield f"{path}: starts {words}, which is not a command of guardline"
    for name, service in _services(d).items():
        words = _command(service)
        if service.get("build") and "entrypoint" not in service and words and words[0] not in d.commands:
            yield f"{name}: starts {words[0]}, which is not a command of guardline"


def model(d: Deployment) -> Iterator[str]:
    """Triton and the monitor read the one package that the trainer writes; Triton loads its models on a GPU."""
    services = _services(d)
    servers = _runs_on(services, "tritonserver")
    monitor = services.get("monitor", {})
    package = str(monitor.get("environment", {}).get("GUARDLINE_MODEL"))
    url = str(monitor.get("environment", {}).get("GUARDLINE_TRITON_URL"))
    for name, server in servers.items():
        if _option(server, "load-model") != "*":
            yield f"{name}: loads {_option(server, 'load-model')}, the package's models are encoder and verifier"
        if _option(server, "model-control-mode") != "explicit":
            yield f"{name}: loads every model it finds"
        if "/v2/health/ready" not in " ".join(strings(server.get("healthcheck", {}))):
            yield f"{name}: its health check does not ask whether its models are loaded"
        repository = str(monitor.get("environment", {}).get("GUARDLINE_TRITON_REPOSITORY"))
        if _option(server, "model-repository") != repository:
            yield f"{name}: serves {_option(server, 'model-repository')}, packages are promoted to {repository}"
        if url != f"{name}:{_option(server, 'grpc-port')}":
            yield f"monitor: GUARDLINE_TRITON_URL {url} is not the gRPC port of {name}"
        devices = server.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        if not any("gpu" in device.get("capabilities", []) for device in devices):
            yield f"{name}: reserves no GPU"
    if not servers:
        yield "no service is a Triton"
    trainer = services.get("trainer", {})
    if "fp32" not in _command(trainer):
        yield "trainer: makes a package of eight bits, which is for CPUs"
    if f"{_option(trainer, 'run')}/package" != package:
        yield f"trainer: writes {_option(trainer, 'run')}, the monitor reads {package}"
    readers = {"monitor": monitor, **servers}
    sources = set()
    for name, service in {**readers, "trainer": trainer}.items():
        writes = name not in readers
        found = [m for m in _mounts(service) if package.startswith(f"{m[1]}/")]
        if not found:
            yield f"{name}: no volume holds {package}"
        sources |= {source for source, _, _ in found}
        if any(read_only == writes for _, _, read_only in found):
            yield f"{name}: the model volume must be {'writable' if writes else 'read-only'}"
    if len(sources) > 1:
        yield f"the package is on different volumes: {sorted(sources)}"
    if trainer.get("profiles") != ["train"]:
        yield "trainer: is started with everything else"


CHECKS = (
    variables,
    paths,
    secrets,
    settings,
    addresses,
    kafka,
    topics,
    dependencies,
    ports,
    images,
    hardening,
    lifecycle,
    dockerfiles,
    model,
)


def problems(d: Deployment) -> list[str]:
    """Return every problem of a deployment, one sentence each."""
    return [problem for check in CHECKS for problem in check(d)]
