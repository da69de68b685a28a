"""What the receivers' documentation says of the payloads, as models that refuse anything else.

- Alertmanager: https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
- Alertmanager's API: https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml, `postableAlerts`
- Slack: https://docs.slack.dev/reference/block-kit/blocks and https://docs.slack.dev/reference/block-kit/composition-objects/text-object
- PagerDuty: https://developer.pagerduty.com/docs/events-api-v2/trigger-events/
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, RootModel, StringConstraints, model_validator


class _Documented(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def _text(most: int, least: int = 1) -> Any:
    return Annotated[str, StringConstraints(min_length=least, max_length=most)]


Labels = dict[Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")], str]


class AlertmanagerAlert(_Documented):
    status: Literal["firing", "resolved"]
    labels: Labels
    annotations: Labels
    startsAt: Annotated[AwareDatetime, Field(strict=False)]  # noqa: N815
    endsAt: Annotated[AwareDatetime, Field(strict=False)]  # noqa: N815
    generatorURL: str  # noqa: N815
    fingerprint: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]


class AlertmanagerWebhook(_Documented):
    version: Literal["4"]
    groupKey: str  # noqa: N815
    truncatedAlerts: Annotated[int, Field(ge=0)]  # noqa: N815
    status: Literal["firing", "resolved"]
    receiver: str
    groupLabels: Labels  # noqa: N815
    commonLabels: Labels  # noqa: N815
    commonAnnotations: Labels  # noqa: N815
    externalURL: str  # noqa: N815
    alerts: Annotated[list[AlertmanagerAlert], Field(min_length=1)]


class PostableAlert(_Documented):
    labels: Annotated[Labels, Field(min_length=1)]
    annotations: Labels = {}
    startsAt: Annotated[AwareDatetime, Field(strict=False)]  # noqa: N815
    endsAt: Annotated[AwareDatetime, Field(strict=False)]  # noqa: N815
    generatorURL: Annotated[str, StringConstraints(pattern=r"^https?://")] | None = None  # noqa: N815

    @model_validator(mode="after")
    def _ordered(self) -> PostableAlert:
        assert self.startsAt <= self.endsAt
        return self


class PostableAlerts(RootModel[Annotated[list[PostableAlert], Field(min_length=1)]]):
    """The body of `POST /api/v2/alerts`."""


class PagerDutyPayload(_Documented):
    summary: _text(1024)  # type: ignore[valid-type]
    source: _text(10_000)  # type: ignore[valid-type]
    severity: Literal["critical", "error", "warning", "info"]
    timestamp: Annotated[AwareDatetime, Field(strict=False)]
    component: str
    group: str
    class_: Annotated[str, Field(alias="class")]
    custom_details: dict[str, Any]


class PagerDutyLink(_Documented):
    href: str
    text: str


class PagerDutyEvent(_Documented):
    routing_key: _text(32, 32)  # type: ignore[valid-type]
    event_action: Literal["trigger", "acknowledge", "resolve"]
    dedup_key: _text(255)  # type: ignore[valid-type]
    payload: PagerDutyPayload
    client: str
    client_url: str | None = None
    links: list[PagerDutyLink] = []


class PlainText(_Documented):
    type: Literal["plain_text"]
    text: _text(3000)  # type: ignore[valid-type]
    emoji: bool


class Markdown(_Documented):
    type: Literal["mrkdwn"]
    text: _text(3000)  # type: ignore[valid-type]


Text = Annotated[PlainText | Markdown, Field(discriminator="type")]


class HeaderText(PlainText):
    text: _text(150)  # type: ignore[valid-type]


class Header(_Documented):
    type: Literal["header"]
    text: HeaderText


class SectionField(Markdown):
    text: _text(2000)  # type: ignore[valid-type]


class Section(_Documented):
    type: Literal["section"]
    text: Text | None = None
    fields: Annotated[list[SectionField], Field(min_length=1, max_length=10)] | None = None

    @model_validator(mode="after")
    def _something(self) -> Section:
        assert self.text is not None or self.fields is not None
        return self


class Context(_Documented):
    type: Literal["context"]
    elements: Annotated[list[Text], Field(min_length=1, max_length=10)]


class ButtonText(PlainText):
    text: _text(75)  # type: ignore[valid-type]


class Button(_Documented):
    type: Literal["button"]
    text: ButtonText
    url: _text(3000)  # type: ignore[valid-type]
    action_id: _text(255)  # type: ignore[valid-type]


class Actions(_Documented):
    type: Literal["actions"]
    elements: Annotated[list[Button], Field(min_length=1, max_length=25)]


class SlackMessage(_Documented):
    text: _text(40_000)  # type: ignore[valid-type]
    blocks: Annotated[
        list[Annotated[Header | Section | Context | Actions, Field(discriminator="type")]],
        Field(min_length=1, max_length=50),
    ]
