"""Services that ask who is there: a real Kafka with SASL, TLS and ACLs, a real Redis with TLS and ACL users.

`secured_kafka` and `secured_redis` start them on loopback with a certificate authority of their own; each is a context
manager that needs nothing of pytest, so that other programs can start the same. The fixtures of the same names hand
them to tests; without Java, Kafka or redis-server those are skipped with the line that says what is missing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import pytest
import trustme
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from tests.fixtures_kafka import NO_KAFKA, find_kafka, free_ports, running_kafka
from tests.fixtures_services import LocalRedis

#: In the certificates; "localhost" reaches the same servers under a name that they do not vouch for.
HOST = "127.0.0.1"
AUDIENCE, ISSUER = "kafka", "https://issuer.test"
_VALIDATOR = "OAuthBearerValidatorCallbackHandler"
_ITERATIONS = 4096  # the least that Kafka takes for SCRAM
_ADMIN_TIMEOUT = 30.0


@dataclass(frozen=True)
class Authority:
    """A certificate authority and what it signed, as PEM files: for a server at HOST and for a client.

    `client_name` is the common name of the client's certificate; `stranger` is another authority, which signed
    `stranger_certificate` and `stranger_key`.
    """

    ca: Path
    certificate: Path
    key: Path
    client_certificate: Path
    client_key: Path
    client_name: str
    stranger: Path
    stranger_certificate: Path
    stranger_key: Path

    @property
    def bundle(self) -> Path:
        """Key and certificates of the server in one file, as Kafka wants them."""
        return self.key.with_name("server-bundle.pem")


def make_authority(folder: Path, client_name: str = "guardline-client") -> Authority:
    """Make both authorities and their certificates in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)

    def store(issued: trustme.LeafCert, name: str) -> tuple[Path, Path]:
        certificate, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        loaded = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
        # Java reads no other form than PKCS #8.
        key.write_bytes(
            loaded.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, key

    own, other = trustme.CA(), trustme.CA()
    own.cert_pem.write_to_path(folder / "ca.pem")
    other.cert_pem.write_to_path(folder / "stranger.pem")
    certificate, key = store(own.issue_cert(HOST), "server")
    client_certificate, client_key = store(own.issue_cert("client.test", common_name=client_name), "client")
    stranger_certificate, stranger_key = store(other.issue_cert("client.test", common_name=client_name), "other-client")
    authority = Authority(
        folder / "ca.pem", certificate, key, client_certificate, client_key, client_name,
        folder / "stranger.pem", stranger_certificate, stranger_key,
    )  # fmt: skip
    authority.bundle.write_bytes(key.read_bytes() + certificate.read_bytes())
    return authority


class TokenIssuer:
    """Signs tokens as an identity provider would; `keys` is the JSON Web Key Set that a broker checks them with."""

    def __init__(self, folder: Path) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        own = RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True) | {"kid": "one", "use": "sig", "alg": "RS256"}
        self.keys = folder / "keys.json"
        self.keys.write_text(json.dumps({"keys": [own]}))

    def token(self, subject: str, *, seconds: float = 300, audience: str = AUDIENCE) -> str:
        """Return a token for `subject` that ends in `seconds` seconds."""
        now = int(time.time())
        claims = {"sub": subject, "aud": audience, "iss": ISSUER, "iat": now, "exp": int(now + seconds)}
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": "one"})


def acl_tool() -> list[str]:
    """Return the command that is `kafka-acls.sh` where Kafka is installed."""
    kind, home = find_kafka()
    if kind == "stock":
        return [str(Path(home) / "bin" / "kafka-acls.sh")]
    return ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{home}/libs/*", "org.apache.kafka.tools.AclCommand"]


#: One line of an ACL: resource type ("topic", "group"), name, operation ("Read", ...).
Grant = tuple[str, str, str]


@dataclass
class SecuredKafka:
    """A broker with ACLs; `plaintext` is for the set-up, where everybody may do everything.

    The others let in only who proves himself: `sasl` (SASL_PLAINTEXT), `sasl_tls` (SASL_SSL) and `tls` (client
    certificate; its common name is the user).
    """

    plaintext: str
    sasl: str
    sasl_tls: str
    tls: str
    authority: Authority
    issuer: TokenIssuer
    admin: AdminClient
    plain_users: dict[str, str]
    _users: set[str] = field(default_factory=set)

    def settings(self, user: str, password: str) -> dict[str, str]:
        """Return the environment of a Guardline process that speaks SASL_SSL with SCRAM-SHA-512 as `user`."""
        return {
            "GUARDLINE_KAFKA_BOOTSTRAP": self.sasl_tls,
            "GUARDLINE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "GUARDLINE_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "GUARDLINE_KAFKA_USERNAME": user,
            "GUARDLINE_KAFKA_PASSWORD": password,
            "GUARDLINE_KAFKA_CA_FILE": str(self.authority.ca),
        }

    def add_user(self, name: str, password: str) -> None:
        """Make a user for both SCRAM mechanisms, or change its password."""
        changes: list[Any] = [
            UserScramCredentialUpsertion(name, ScramCredentialInfo(mechanism, _ITERATIONS), password.encode())
            for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512)
        ]
        for change in changes:  # two changes of one user in a request are refused
            _done(self.admin.alter_user_scram_credentials([change]).values())

    def topics(self, names: Iterable[str], partitions: int = 2) -> None:
        """Make topics."""
        _done(self.admin.create_topics([NewTopic(name, partitions, 1) for name in names]).values())

    def grant(self, user: str, grants: Iterable[Grant]) -> None:
        """Allow `user` what the grants say, from now on."""
        if bindings := [_binding(user, grant) for grant in grants]:
            _done(self.admin.create_acls(bindings).values())

    def grants(self, user: str) -> set[Grant]:
        """Return what `user` may do."""
        every = AclBindingFilter(
            ResourceType.ANY, None, ResourcePatternType.ANY, f"User:{user}", None, AclOperation.ANY,
            AclPermissionType.ALLOW,
        )  # fmt: skip
        found = self.admin.describe_acls(every).result(_ADMIN_TIMEOUT)
        return {(own.restype.name.lower(), own.name, own.operation.name.capitalize()) for own in found}


def _binding(user: str, grant: Grant) -> AclBinding:
    kind, name, operation = grant
    return AclBinding(
        ResourceType[kind.upper()], name, ResourcePatternType.LITERAL, f"User:{user}", "*",
        AclOperation[operation.upper()], AclPermissionType.ALLOW,
    )  # fmt: skip


def _done(futures: Iterable[Any]) -> None:
    for future in futures:
        future.result(_ADMIN_TIMEOUT)


@contextmanager
def secured_kafka(folder: Path, plain_users: dict[str, str] | None = None) -> Iterator[SecuredKafka]:
    """Run a broker in `folder` with all listeners; `plain_users` are user names and passwords for SASL PLAIN.

    Raises:
        FileNotFoundError: there is no Kafka that can be started; the message says how to get one.
    """
    kind, place = find_kafka()
    if kind not in ("script", "stock"):
        raise FileNotFoundError(NO_KAFKA if kind is None else "KAFKA_BOOTSTRAP names a broker that asks for nothing")
    authority, issuer = make_authority(folder / "certificates"), TokenIssuer(folder)
    users = plain_users or {}
    plaintext, controller = free_ports()
    sasl, sasl_tls, tls = (port for port, _ in (free_ports(), free_ports(), free_ports()))
    listeners = {"PLAINTEXT": plaintext, "SASL_PLAINTEXT": sasl, "SASL_SSL": sasl_tls, "SSL": tls}
    advertised = ",".join(f"{name}://{HOST}:{port}" for name, port in listeners.items())
    plain = " ".join(f'user_{name}="{password}"' for name, password in users.items())
    module = "org.apache.kafka.common.security"
    settings = [
        f"listeners={advertised},CONTROLLER://{HOST}:{controller}",
        f"advertised.listeners={advertised}",
        "listener.security.protocol.map=CONTROLLER:PLAINTEXT," + ",".join(f"{name}:{name}" for name in listeners),
        "inter.broker.listener.name=PLAINTEXT",
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users=User:ANONYMOUS",
        "auto.create.topics.enable=false",
        "group.min.session.timeout.ms=1000",
        "group.initial.rebalance.delay.ms=0",
        "message.max.bytes=20000000",
        "ssl.keystore.type=PEM",
        f"ssl.keystore.location={authority.bundle}",
        "ssl.truststore.type=PEM",
        f"ssl.truststore.location={authority.ca}",
        "listener.name.ssl.ssl.client.auth=required",
        "listener.name.ssl.ssl.principal.mapping.rules=RULE:^.*CN=([^,]+).*$/$1/,DEFAULT",
    ]
    for listener in ("sasl_plaintext", "sasl_ssl"):
        prefix = f"listener.name.{listener}"
        settings += [
            f"{prefix}.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
            f"{prefix}.plain.sasl.jaas.config={module}.plain.PlainLoginModule required {plain};",
            *(
                f"{prefix}.{mechanism}.sasl.jaas.config={module}.scram.ScramLoginModule required;"
                for mechanism in ("scram-sha-256", "scram-sha-512")
            ),
            f"{prefix}.oauthbearer.sasl.jaas.config={module}.oauthbearer.OAuthBearerLoginModule required;",
            f"{prefix}.oauthbearer.sasl.server.callback.handler.class={module}.oauthbearer.{_VALIDATOR}",
            f"{prefix}.oauthbearer.sasl.oauthbearer.jwks.endpoint.url=file://{issuer.keys}",
            f"{prefix}.oauthbearer.sasl.oauthbearer.expected.audience={AUDIENCE}",
            f"{prefix}.oauthbearer.sasl.oauthbearer.expected.issuer={ISSUER}",
        ]
    # The broker reads keys only from where its own Java properties allow it.
    allowed = f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://{issuer.keys}"
    with running_kafka(kind, Path(place), folder / "broker", settings, ports=(plaintext, controller), java=allowed):
        admin = AdminClient({"bootstrap.servers": f"{HOST}:{plaintext}", "log_level": 0})
        yield SecuredKafka(
            *(f"{HOST}:{port}" for port in (plaintext, sasl, sasl_tls, tls)), authority, issuer, admin, users
        )


@dataclass
class SecuredRedis:
    """A Redis that lets in only ACL users, by TLS; `admin` may do everything."""

    server: LocalRedis
    port: int
    authority: Authority
    admin_password: str

    def url(self, user: str, password: str, host: str = HOST) -> str:
        return f"rediss://{user}:{password}@{host}:{self.port}/0"

    @property
    def admin_url(self) -> str:
        return self.url("admin", self.admin_password)

    def settings(self, user: str, password: str) -> dict[str, str]:
        """Return the environment of a Guardline process that uses this Redis as `user`."""
        return {
            "GUARDLINE_STORE": "redis",
            "GUARDLINE_REDIS_URL": self.url(user, password),
            "GUARDLINE_REDIS_CA_FILE": str(self.authority.ca),
        }

    def execute(self, *command: str) -> Any:
        """Run one command as the administrator."""
        import redis

        with redis.Redis.from_url(
            self.admin_url,
            decode_responses=True,
            ssl_ca_certs=str(self.authority.ca),
            ssl_certfile=str(self.authority.client_certificate),
            ssl_keyfile=str(self.authority.client_key),
        ) as client:
            return client.execute_command(*command)


@contextmanager
def secured_redis(
    authority: Authority, admin_password: str, *, client_certificates: bool = False
) -> Iterator[SecuredRedis]:
    """Run a Redis whose only user is `admin`; `client_certificates`: it also asks for those."""
    port = free_ports()[0]
    options: Sequence[str] = (
        "--port", "0",
        "--tls-port", str(port),
        "--tls-cert-file", str(authority.certificate),
        "--tls-key-file", str(authority.key),
        "--tls-ca-cert-file", str(authority.ca),
        "--tls-auth-clients", "yes" if client_certificates else "no",
        "--user", "default", "off",
        # Its digest: everybody on the machine can read a command line.
        "--user", "admin", "on", f"#{hashlib.sha256(admin_password.encode()).hexdigest()}", "~*", "&*", "+@all",
    )  # fmt: skip
    server = LocalRedis(port, options=options)
    server.start()
    try:
        yield SecuredRedis(server, port, authority, admin_password)
    finally:
        server.stop()


@pytest.fixture(scope="session")
def kafka_with_acls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """One secured broker for the session; tests take users and topics of their own."""
    try:
        with secured_kafka(tmp_path_factory.mktemp("secured"), {"plain-user": "plain-secret"}) as kafka:
            yield kafka
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority for servers other than that broker."""
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def redis_with_acls(authority: Authority) -> Iterator[SecuredRedis]:
    """A secured Redis for each test."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server: apt-get install redis-server")
    with secured_redis(authority, "admin-secret") as server:
        yield server
