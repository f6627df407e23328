"""What the API shows: the store's rows as the protocol's objects."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sandpit.control.errors import ControlError
from sandpit.control.ids import KEY_PREFIX
from sandpit.control.lifecycle.records import FILESYSTEM, FULL, UNRESPONSIVE
from sandpit.control.times import rfc3339

if TYPE_CHECKING:
    from datetime import datetime

    from sandpit.control.templates.records import TemplateInfo
    from sandpit.control.templates.snapshotrecords import SnapshotView
    from sandpit.store.models import ApiKey, Build, MetricSample, Sandbox, SandboxLog

ENVD_VERSION = "0.6.13"
"""The in-sandbox daemon's release that the agent behaves like; clients gate features by it (current-protocol 8)."""
CLIENT_ID = "00000000"
"""Deprecated; clients of 2024 append it to the sandbox id. Says nothing about machines."""
API_KEY_LENGTH = 40

Json = dict[str, Any]


def sandbox(row: Sandbox, domain: str) -> Json:
    """Sandbox: the answer of create and connect (current-protocol 3.2)."""
    answer: Json = {
        "templateID": row.template_id,
        "sandboxID": row.id,
        "clientID": CLIENT_ID,
        "envdVersion": ENVD_VERSION,
        "trafficAccessToken": row.traffic_token,
        "domain": domain,
    }
    if row.alias is not None:
        answer["alias"] = row.alias
    if row.access_token is not None:
        answer["envdAccessToken"] = row.access_token
    return answer


def listed(row: Sandbox) -> Json:
    """ListedSandbox (current-protocol 3.5)."""
    answer: Json = {
        "templateID": row.template_id,
        "sandboxID": row.id,
        "clientID": CLIENT_ID,
        "startedAt": rfc3339(row.started_at),
        "endAt": rfc3339(row.end_at),
        "cpuCount": row.cpu_count,
        "memoryMB": row.memory_mb,
        "diskSizeMB": row.disk_mb,
        "state": "paused" if row.state == "pausing" else row.state,
        "envdVersion": ENVD_VERSION,
        "metadata": row.user_metadata or {},  # programs of 2024 look into it without asking whether it is there
    }
    if row.alias is not None:
        answer["alias"] = row.alias
    if row.state == "paused" and row.pause_mode == UNRESPONSIVE:
        answer["envdUnresponsiveAtPause"] = True
    return answer


def detail(row: Sandbox, domain: str) -> Json:
    """SandboxDetail (current-protocol 3.4)."""
    answer = listed(row) | {
        "allowInternetAccess": row.allow_internet_access,
        "domain": domain,
        "lifecycle": {"autoResume": row.lifecycle["autoResume"], "onTimeout": row.lifecycle["onTimeout"]},
    }
    if row.access_token is not None:
        answer["envdAccessToken"] = row.access_token
    if row.network is not None:
        answer["network"] = row.network
    if row.state == "paused" and row.pause_mode is not None:
        answer["pauseMode"] = FILESYSTEM if row.pause_mode == FILESYSTEM else FULL
    return answer


def fork(result: Sandbox | ControlError, domain: str) -> Json:
    """SandboxForkResult (current-protocol 3.7)."""
    if isinstance(result, ControlError):
        return {"error": {"code": result.status, "message": result.message}}
    return {"sandbox": sandbox(result, domain)}


def snapshot(view: SnapshotView) -> Json:
    """SnapshotInfo (current-protocol 3.7)."""
    return {"snapshotID": view.snapshot_id, "names": view.names}


def metric(row: MetricSample) -> Json:
    """SandboxMetric (current-protocol 3.8)."""
    return {
        "timestamp": rfc3339(row.timestamp),
        "timestampUnix": int(row.timestamp.timestamp()),
        "cpuCount": row.cpu_count,
        "cpuUsedPct": row.cpu_used_pct,
        "memUsed": row.mem_used,
        "memTotal": row.mem_total,
        "memCache": row.mem_cache,
        "diskUsed": row.disk_used,
        "diskTotal": row.disk_total,
    }


def log_line(row: SandboxLog) -> Json:
    """One line of v1: `line` is itself a JSON object with a `level`, or the CLI ends (code-interpreter 3.7)."""
    line = row.fields | {"level": row.level, "logger": row.logger, "message": row.message, "sandboxID": row.sandbox_id}
    return {"timestamp": rfc3339(row.timestamp), "line": json.dumps(line, ensure_ascii=False)}


def log_entry(row: SandboxLog) -> Json:
    """One structured line (v2, and `logEntries` of v1)."""
    fields = row.fields | {"logger": row.logger}
    return {"timestamp": rfc3339(row.timestamp), "message": row.message, "level": row.level, "fields": fields}


def template(info: TemplateInfo) -> Json:
    """Template. One that came with the product shows no usage: it would be that of all teams together."""
    row, build = info.template, info.build
    platform = row.team_id is None
    return {
        "templateID": row.id,
        "buildID": build.id,
        "cpuCount": build.cpu_count,
        "memoryMB": build.memory_mb,
        "diskSizeMB": build.disk_mb,
        "public": row.public,
        "aliases": info.aliases,
        "names": info.names,
        "createdAt": rfc3339(row.created_at),
        "updatedAt": rfc3339(row.updated_at),
        "createdBy": None,
        "lastSpawnedAt": None if platform else _optional(row.last_spawned_at),
        "spawnCount": 0 if platform else row.spawn_count,
        "buildCount": 0 if platform else len(info.builds),
        "envdVersion": ENVD_VERSION,
        "buildStatus": build.status,
        "isDefault": platform,
    }


def template_with_builds(info: TemplateInfo) -> Json:
    """TemplateWithBuilds: the template and its builds, newest first."""
    return template(info) | {"builds": [_build(build) for build in info.builds]}


def api_key(row: ApiKey) -> Json:
    """An API key as far as anybody may see it."""
    return {
        "id": row.id,
        "name": row.name,
        "mask": {
            "prefix": KEY_PREFIX,
            "valueLength": API_KEY_LENGTH,
            "maskedValuePrefix": row.shown_prefix,
            "maskedValueSuffix": row.shown_suffix,
        },
        "createdAt": rfc3339(row.created_at),
        "createdBy": None,
        "lastUsed": _optional(row.last_used_at),
    }


def _build(row: Build) -> Json:
    answer: Json = {
        "buildID": row.id,
        "status": row.status,
        "createdAt": rfc3339(row.created_at),
        "updatedAt": rfc3339(row.updated_at),
        "cpuCount": row.cpu_count,
        "memoryMB": row.memory_mb,
        "diskSizeMB": row.disk_mb,
        "envdVersion": ENVD_VERSION,
    }
    if row.finished_at is not None:
        answer["finishedAt"] = rfc3339(row.finished_at)
    return answer


def _optional(when: datetime | None) -> str | None:
    return rfc3339(when) if when is not None else None
