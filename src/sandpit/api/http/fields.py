"""Types of the fields of request bodies: each has a limit, which is checked before anything else (`control.limits`).

A field of a type that has none fails tests/api/test_limits.py, which walks all bodies.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from sandpit.control import limits


def at_most(number: int) -> Callable[[Any], Any]:
    """Count before looking at the items: a wrong type in each of a million would be a million errors."""

    def check(value: Any) -> Any:
        if isinstance(value, Sized) and not isinstance(value, str) and len(value) > number:
            raise ValueError(f"at most {number} entries, got {len(value)}")
        return value

    return check


Integer = Annotated[int, Field(ge=-limits.MAX_INTEGER, le=limits.MAX_INTEGER)]
Name = Annotated[str, Field(max_length=limits.MAX_NAME)]
TemplateText = Annotated[str, Field(max_length=limits.MAX_TEMPLATE)]
Host = Annotated[str, Field(max_length=limits.MAX_HOST)]
Image = Annotated[str, Field(max_length=limits.MAX_IMAGE)]
Credential = Annotated[str, Field(max_length=limits.MAX_CREDENTIAL)]
Command = Annotated[str, Field(max_length=limits.MAX_COMMAND)]
StepType = Annotated[str, Field(max_length=limits.MAX_STEP_TYPE)]
StepArgument = Annotated[str, Field(max_length=limits.MAX_STEP_ARGUMENT)]
FilesHash = Annotated[str, Field(max_length=limits.MAX_FILES_HASH)]
Tag = Annotated[str, Field(max_length=limits.MAX_TAG)]
EgressRule = Annotated[str, Field(max_length=limits.MAX_EGRESS_RULE)]
_MetadataKey = Annotated[str, Field(max_length=limits.MAX_METADATA_KEY)]
_MetadataValue = Annotated[str, Field(max_length=limits.MAX_METADATA_VALUE)]
_VariableName = Annotated[str, Field(max_length=limits.MAX_VARIABLE_NAME)]
_VariableValue = Annotated[str, Field(max_length=limits.MAX_VARIABLE_VALUE)]

Tags = Annotated[list[Tag], Field(max_length=limits.MAX_TAGS), BeforeValidator(at_most(limits.MAX_TAGS))]
StepArguments = Annotated[
    list[StepArgument],
    Field(max_length=limits.MAX_STEP_ARGUMENTS),
    BeforeValidator(at_most(limits.MAX_STEP_ARGUMENTS)),
]
EgressRules = Annotated[
    list[EgressRule], Field(max_length=limits.MAX_EGRESS_RULES), BeforeValidator(at_most(limits.MAX_EGRESS_RULES))
]
DnsServers = Annotated[
    list[EgressRule], Field(max_length=limits.MAX_DNS_SERVERS), BeforeValidator(at_most(limits.MAX_DNS_SERVERS))
]
Ports = Annotated[
    list[Integer], Field(max_length=limits.MAX_HTTPS_PORTS), BeforeValidator(at_most(limits.MAX_HTTPS_PORTS))
]
Metadata = Annotated[
    dict[_MetadataKey, _MetadataValue],
    Field(max_length=limits.MAX_METADATA_PAIRS),
    BeforeValidator(at_most(limits.MAX_METADATA_PAIRS)),
]
Variables = Annotated[
    dict[_VariableName, _VariableValue],
    Field(max_length=limits.MAX_VARIABLES),
    BeforeValidator(at_most(limits.MAX_VARIABLES)),
]
McpServers = Annotated[
    dict[str, Any], Field(max_length=limits.MAX_MCP_SERVERS), BeforeValidator(at_most(limits.MAX_MCP_SERVERS))
]
RefusedObject = Annotated[
    dict[str, Any], Field(max_length=limits.MAX_REFUSED), BeforeValidator(at_most(limits.MAX_REFUSED))
]
RefusedList = Annotated[list[Any], Field(max_length=limits.MAX_REFUSED), BeforeValidator(at_most(limits.MAX_REFUSED))]
