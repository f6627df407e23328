"""Bodies of the routes of template builds (current-protocol 10). Unknown fields are ignored, as everywhere."""

from __future__ import annotations

import json

from pydantic import Field

from sandpit.api.schemas import Body
from sandpit.control.buildrequests import BuildStart, NewBuild
from sandpit.control.errors import InvalidRequestError
from sandpit.node.contract import BuildStep, Registry

_AWS = (
    "registries of AWS take a password that `aws ecr get-login-password` makes: give it as `password` of a registry of the "
    "type 'registry', with the username AWS"
)


class BuildRequest(Body):
    name: str | None = None
    alias: str | None = None
    tags: list[str] = Field(default_factory=list, max_length=100)
    cpu_count: int | None = Field(None, alias="cpuCount")
    memory_mb: int | None = Field(None, alias="memoryMB")

    def new_build(self) -> NewBuild:
        return NewBuild(self.name or self.alias or "", tuple(self.tags), self.cpu_count, self.memory_mb)


class RegistryBody(Body):
    type: str
    username: str = ""
    password: str = ""
    service_account_json: str | None = Field(None, alias="serviceAccountJson")

    def registry(self) -> Registry:
        """Raises: InvalidRequestError."""
        if self.type == "registry":
            return Registry(self.username, self.password)
        if self.type == "gcp":
            return Registry("_json_key", self._account())
        raise InvalidRequestError(_AWS if self.type == "aws" else f"unknown type of registry: '{self.type[:50]}'")

    def _account(self) -> str:
        try:
            json.loads(self.service_account_json or "")
        except ValueError:
            raise InvalidRequestError("serviceAccountJson is no JSON") from None
        return self.service_account_json or ""


class StepBody(Body):
    type: str
    args: list[str] = Field(default_factory=list, max_length=2000)
    force: bool | None = False
    files_hash: str | None = Field(None, alias="filesHash")

    def step(self) -> BuildStep:
        return BuildStep(self.type.upper(), tuple(self.args), bool(self.force), self.files_hash)


class BuildStartBody(Body):
    from_image: str | None = Field(None, alias="fromImage")
    from_template: str | None = Field(None, alias="fromTemplate")
    from_image_registry: RegistryBody | None = Field(None, alias="fromImageRegistry")
    force: bool | None = False
    steps: list[StepBody] = Field(default_factory=list)
    start_cmd: str | None = Field(None, alias="startCmd")
    ready_cmd: str | None = Field(None, alias="readyCmd")

    def start(self) -> BuildStart:
        """Raises: InvalidRequestError."""
        return BuildStart(
            self.from_template or None,
            self.from_image or None,
            self.from_image_registry.registry() if self.from_image_registry is not None else Registry(),
            tuple(step.step() for step in self.steps),
            self.start_cmd or None,
            self.ready_cmd or None,
            bool(self.force),
        )


class TemplateUpdate(Body):
    public: bool


class AssignTags(Body):
    target: str
    tags: list[str] = Field(max_length=100)


class RemoveTags(Body):
    name: str
    tags: list[str] = Field(max_length=100)
