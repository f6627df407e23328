"""Bodies of the routes of template builds (current-protocol 10). Unknown fields are ignored, as everywhere."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from sandpit.api.http import jsontext
from sandpit.api.http.fields import (
    Command,
    Credential,
    FilesHash,
    Image,
    Integer,
    StepArguments,
    StepType,
    Tags,
    TemplateText,
    at_most,
)
from sandpit.api.schemas import Body
from sandpit.contract.builder import BuildStep, Registry
from sandpit.control.errors import InvalidRequestError
from sandpit.control.limits import MAX_STEPS
from sandpit.control.templates.buildrequests import BuildStart, NewBuild

_AWS = (
    "registries of AWS take a password that `aws ecr get-login-password` makes: give it as `password` of a registry of the "
    "type 'registry', with the username AWS"
)


class BuildRequest(Body):
    name: TemplateText | None = None
    alias: TemplateText | None = None
    tags: Tags = Field(default_factory=list)
    cpu_count: Integer | None = Field(None, alias="cpuCount")
    memory_mb: Integer | None = Field(None, alias="memoryMB")

    def new_build(self) -> NewBuild:
        return NewBuild(self.name or self.alias or "", tuple(self.tags), self.cpu_count, self.memory_mb)


class RegistryBody(Body):
    type: StepType
    username: Credential = ""
    password: Credential = ""
    service_account_json: Credential | None = Field(None, alias="serviceAccountJson")

    def registry(self) -> Registry:
        """Raises: InvalidRequestError."""
        if self.type == "registry":
            return Registry(self.username, self.password)
        if self.type == "gcp":
            return Registry("_json_key", self._account())
        raise InvalidRequestError(_AWS if self.type == "aws" else f"unknown type of registry: '{self.type[:50]}'")

    def _account(self) -> str:
        try:
            jsontext.parse(self.service_account_json or "")
        except InvalidRequestError as error:
            raise InvalidRequestError(f"serviceAccountJson: {error.message}") from None
        return self.service_account_json or ""


class StepBody(Body):
    type: StepType
    args: StepArguments = Field(default_factory=list)
    force: bool | None = False
    files_hash: FilesHash | None = Field(None, alias="filesHash")

    def step(self) -> BuildStep:
        return BuildStep(self.type.upper(), tuple(self.args), bool(self.force), self.files_hash)


class BuildStartBody(Body):
    from_image: Image | None = Field(None, alias="fromImage")
    from_template: TemplateText | None = Field(None, alias="fromTemplate")
    from_image_registry: RegistryBody | None = Field(None, alias="fromImageRegistry")
    force: bool | None = False
    steps: Annotated[list[StepBody], Field(max_length=MAX_STEPS), BeforeValidator(at_most(MAX_STEPS))] = Field(
        default_factory=list
    )
    start_cmd: Command | None = Field(None, alias="startCmd")
    ready_cmd: Command | None = Field(None, alias="readyCmd")

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
    target: TemplateText
    tags: Tags


class RemoveTags(Body):
    name: TemplateText
    tags: Tags
