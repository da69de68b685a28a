"""All settings of the monitor, from the environment (`GUARDLINE_...`), `.env` and secret files.

One `Settings` per process, built where the process starts and handed down. A value that nobody would change in
production is a constant beside its use, not a setting.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from monitor.errors import ConfigurationError

#: The model package that ships: trained on the first guideline, for CPUs.
DEFAULT_MODEL = Path(__file__).parent / "default_package"
#: Where `guardline train` and `guardline demo` leave the first guideline's model.
DEFAULT_RUN = Path("runs/covid19-remdesivir")
_SECRETS = Path("/run/secrets")


class Settings(BaseSettings):
    """Settings of one process."""

    model_config = SettingsConfigDict(
        env_prefix="GUARDLINE_",
        env_file=".env",
        env_ignore_empty=True,  # `GUARDLINE_METRICS_PORT=` in a compose file means the default
        extra="ignore",
        frozen=True,
        secrets_dir=_SECRETS if _SECRETS.is_dir() else None,
        protected_namespaces=(),
    )

    model: Path = Field(
        default=DEFAULT_MODEL, description="The model package that gives the verdicts; default: the one that ships."
    )

    kafka_bootstrap: str = Field(default="127.0.0.1:9092", description="Brokers, host:port, separated by commas.")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="How brokers are spoken to; SASL asks for a user, SSL encrypts."
    )
    kafka_sasl_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN", "OAUTHBEARER"] = Field(
        default="SCRAM-SHA-512", description="How the user is proved with SASL."
    )
    kafka_username: str | None = Field(default=None, description="User for SASL; OAUTHBEARER: the client id.")
    kafka_password: SecretStr | None = Field(default=None, description="Its password; OAUTHBEARER: the client secret.")
    kafka_ca_file: Path | None = Field(
        default=None, description="PEM of the authorities that may vouch for brokers; default: the system's."
    )
    kafka_certificate_file: Path | None = Field(default=None, description="PEM certificate that proves this client.")
    kafka_key_file: Path | None = Field(default=None, description="PEM key of that certificate, unencrypted.")
    kafka_token_url: str | None = Field(
        default=None, description="OAUTHBEARER: endpoint for client credentials (RFC 6749, section 4.4)."
    )
    kafka_token_scope: str | None = Field(default=None, description="OAUTHBEARER: scope to ask that endpoint for.")
    kafka_token_file: Path | None = Field(
        default=None, description="OAUTHBEARER: file with a token that somebody else renews, in place of the endpoint."
    )
    group: str = Field(default="guardline", description="Consumer group; workers of one group share the partitions.")
    instance: str | None = Field(
        default=None,
        description="Static membership id of this worker, unique in the group: a restart then moves no partitions.",
    )
    session_timeout: float = Field(
        default=30, gt=0, description="Seconds after which the group gives up a worker that fell silent."
    )
    topic_outputs: str = Field(default="llm.outputs", description="Topic of LLM outputs to screen.")
    topic_flags: str = Field(default="safety.flags", description="Topic of unsafe statements.")
    topic_review: str = Field(default="safety.review", description="Topic of statements in the uncertainty band.")
    topic_verdicts: str = Field(default="safety.verdicts", description="Topic of one audit record per input.")
    topic_deadletter: str = Field(default="safety.deadletter", description="Topic of inputs that failed.")
    topic_feedback: str = Field(default="safety.feedback", description="Topic of reviewers' decisions on flags.")
    topic_audit: str = Field(
        default="safety.audit", description="Topic, of one partition, that holds the audit log where a topic does."
    )
    topic_audit_events: str = Field(
        default="safety.audit.events", description="Topic of logins, reveals, promotions and the like, for that log."
    )
    audit_path: Path | None = Field(
        default=None, description="Folder that holds the audit log; else `guardline audit` wants --topic."
    )
    audit_actions: bool = Field(
        default=False, description="Tell that log of promotions and rollbacks; no model changes without Kafka then."
    )
    audit_key: SecretStr | None = Field(
        default=None, description="Secret that turns names of people in the audit log into pseudonyms (HMAC-SHA256)."
    )
    emit_verdicts: bool = Field(default=False, description="Publish an audit record for every input.")
    include_text: bool = Field(
        default=True,
        description="Put the statement's text into flags; else only its SHA-256 (message text is health data).",
    )

    scorer: Literal["onnx", "triton"] = Field(default="onnx", description="In-process ONNX Runtime, or Triton.")
    verify: bool = Field(
        default=True,
        description="Read recommendations beside statements, where the package has a verifier; else the "
        "encoder alone decides: faster, and it misses more.",
    )
    triton_url: str = Field(default="127.0.0.1:8001", description="Triton's gRPC address, host:port.")
    triton_tls: bool = Field(default=False, description="Speak to Triton over TLS.")
    triton_ca_file: Path | None = Field(
        default=None, description="PEM of the authorities that may vouch for Triton; default: gRPC's."
    )
    triton_certificate_file: Path | None = Field(default=None, description="PEM certificate that proves this client.")
    triton_key_file: Path | None = Field(default=None, description="PEM key of that certificate, unencrypted.")
    triton_timeout: float = Field(default=30, gt=0, description="Seconds that one request may take.")
    triton_fallback: bool = Field(
        default=False, description="Score in-process while Triton is away, instead of pausing intake."
    )
    onnx_threads: int = Field(default=0, ge=0, description="Threads inside an operator; 0: one per core.")
    batch_tokens: int = Field(default=1024, gt=0, description="Tokens in one batch; on a GPU 16384 and more.")
    batch_window: int = Field(
        default=256, gt=0, description="Statements, of any messages, that are sorted by length and batched together."
    )
    batch_wait: float = Field(
        default=0.002, ge=0, description="Seconds that a statement waits for company while the model has nothing to do."
    )
    batches_in_flight: int = Field(default=2, gt=0, description="Batches that the model is given at once.")

    models_file: Path | None = Field(
        default=None,
        description="JSON file, shared by all workers, that says which package is champion and which challenger; "
        "default: that is kept in Redis where the store is Redis, and else the model never changes.",
    )
    models_every: float = Field(default=5, gt=0, description="Seconds between two looks at which model is champion.")
    triton_repository: Path | None = Field(
        default=None, description="Triton's model repository, where `guardline promote` puts graphs beside the others."
    )
    shadow_share: float = Field(
        default=0.1, ge=0, le=1, description="Share of the messages that a challenger scores as well, without flags."
    )
    topic_shadow: str = Field(default="safety.shadow", description="Topic of what champion and challenger decided.")

    store: Literal["memory", "redis"] = Field(default="memory", description="Where scores are remembered.")
    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="Redis, with credentials where it needs them; rediss:// for TLS.",
    )
    redis_ca_file: Path | None = Field(
        default=None, description="PEM of the authorities that may vouch for Redis; default: the system's."
    )
    redis_certificate_file: Path | None = Field(default=None, description="PEM certificate that proves this client.")
    redis_key_file: Path | None = Field(default=None, description="PEM key of that certificate, unencrypted.")
    cache_expiry: int = Field(default=86_400, gt=0, description="Seconds that Redis remembers scores and finished ids.")

    threshold_unsafe: float | None = Field(
        default=None, ge=0, le=1, description="Flag from this probability on; default: the model package's."
    )
    threshold_review: float | None = Field(
        default=None, ge=0, le=1, description="Ask for review from this probability on; default: the package's."
    )

    canary_every: float = Field(
        default=60, gt=0, description="Seconds between two rounds of canaries, two to each partition."
    )
    canary_within: float = Field(default=30, gt=0, description="Seconds in which an unsafe canary must be a flag.")
    canary_backlog: float = Field(
        default=300, gt=0, description="Seconds that a record may wait to be screened before the canary's alarm."
    )
    canary_messages: Path | None = Field(
        default=None, description='Canaries, a {"text", "verdict"} a line; default: those that the package carries.'
    )
    canary_alertmanager: SecretStr | None = Field(
        default=None, description="URL of an Alertmanager for the canary's alarms, where Prometheus does not see to it."
    )

    chunk_records: int = Field(
        default=512,
        gt=0,
        le=512,
        description="Most records of one partition taken at once; fewer while they take longer than half a second.",
    )
    chunks_in_flight: int = Field(default=8, gt=0, description="Chunks worked on at once; bounds memory and repeats.")
    bytes_in_flight: int = Field(
        default=64_000_000, gt=0, description="Bytes of records worked on at once; a larger chunk is worked on alone."
    )
    drain_timeout: float = Field(default=30, gt=0, description="Seconds to finish what is in flight when stopping.")
    publish_max_bytes: int = Field(
        default=20_000_000, gt=0, description="Largest event sent; the broker's message.max.bytes has the last word."
    )
    publish_timeout: float = Field(default=30, gt=0, description="Seconds to wait for the broker's acknowledgement.")
    attempts: int = Field(default=3, gt=0, description="Tries on a message that fails inside Guardline.")
    failures_per_minute: int = Field(
        default=60, gt=0, description="Stop rather than dead-letter more messages for failures of our own."
    )

    intake_host: str = Field(default="127.0.0.1", description="Address that `guardline intake` is served on.")
    intake_port: int = Field(default=8088, ge=0, le=65535, description="Its port; 0: any that is free.")
    intake_tokens_file: Path | None = Field(
        default=None,
        description="YAML file of those who may send: name and the SHA-256 of their token; needed on other addresses "
        "than loopback.",
    )
    intake_max_bytes: int = Field(default=20_000_000, gt=0, description="Largest request that it reads.")
    intake_timeout: float = Field(
        default=10, gt=0, description="Seconds to wait for the brokers before a sender is told to come back."
    )

    console_host: str = Field(default="127.0.0.1", description="Address that `guardline console` is served on.")
    console_port: int = Field(default=8080, ge=0, le=65535, description="Its port; 0: any that is free.")
    console_hosts: str | None = Field(
        default=None,
        description="Names that browsers may call the console by, separated by commas; default: those of this machine "
        "on a loopback address, else any.",
    )
    console_tokens_file: Path | None = Field(
        default=None, description="YAML file of the console's users: name, role and the SHA-256 of their token."
    )
    console_proxy_header: str | None = Field(
        default=None, description="Header in which a reverse proxy names the user, as X-Forwarded-User."
    )
    console_proxy_addresses: str = Field(
        default="127.0.0.1, ::1",
        description="Addresses or networks of a proxy before the console; what others say in its headers is ignored.",
    )
    console_secret: SecretStr | None = Field(
        default=None,
        min_length=32,
        description="Secret that signs sessions, the same for all consoles; default: a new one at each start.",
    )
    console_session: float = Field(default=28_800, ge=60, description="Seconds that a login lasts.")
    console_reveal: Literal["click", "always"] = Field(
        default="click", description="Show the text of a message when asked to, or with its flag."
    )
    console_retention: float = Field(
        default=7_776_000, gt=0, description="Seconds that the console keeps a flag and what was decided on it."
    )

    metrics_port: int | None = Field(
        default=None, ge=1, le=65535, description="Serve /metrics, /live and /ready here; default: not."
    )
    metrics_host: str = Field(default="127.0.0.1", description="Address of that port.")
    otlp_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Export a span for each message to this OTLP/HTTP collector, as http://collector:4318.",
    )
    stall_timeout: float = Field(
        default=300, gt=0, description="Seconds without progress on waiting records after which /live says no."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")
    log_format: Literal["json", "console"] = Field(default="json", description="One JSON object a line, or for people.")


def load_settings(**overrides: object) -> Settings:
    """Build the settings of this process; `overrides` that are not None win over the environment.

    Raises:
        ConfigurationError: a value is of the wrong type or out of range; the message names the variable.
    """
    try:
        return Settings(**{k: v for k, v in overrides.items() if v is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        problems = "; ".join(
            f"GUARDLINE_{'_'.join(map(str, p['loc'])).upper()}: {p['msg']}" for p in error.errors(include_input=False)
        )
        raise ConfigurationError(f"settings: {problems}") from error
