"""OpenAPI 3.1, generated from the route table and the structs behind it."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from protocol.errors import ERRORS
from rest.routes import MOUNTS, ROUTES, Route
from rest.service import Health

Schema = dict[str, Any]

_BEARER = {"type": "http", "scheme": "bearer", "description": "An access token, or the API key of a bot."}

_PATH_PARAMETER = re.compile(r"{(\w+)}")
_REF = "#/components/schemas/{name}"


def document(version: str) -> Schema:
    """The whole description, as `/api/openapi.json` gives it."""
    schemas = _schemas()
    paths = _paths(schemas)
    schemas["Failure"] = _failure()
    return {
        "openapi": "3.1.0",
        "info": {"title": "Parley", "version": version, "description": "Accounts, chatrooms, messages and history."},
        "servers": [{"url": mount or "/"} for mount in MOUNTS],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": _BEARER},
        },
    }


def _schemas() -> dict[str, Schema]:
    structs: list[type] = [Health]
    for route in ROUTES:
        structs += [route.command] if route.result is None else [route.command, route.result]
    _, components = msgspec.json.schema_components(structs, ref_template=_REF)
    return dict(components)


def _paths(schemas: dict[str, Schema]) -> Schema:
    """The operations. A command's own schema leaves the components: it is spread over path, query and body."""
    paths: Schema = {}
    for route in ROUTES:
        command = schemas.pop(route.command.__name__)
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, command)
    for path, summary in _HEALTH.items():
        paths[path] = {"get": _health_operation(path, summary)}
    return paths


_HEALTH = {
    "/health": "Says whether every service behind the server is well.",
    "/health/live": "Says that the process answers.",
    "/health/ready": "Says whether new work is welcome.",
}


def _operation(route: Route, command: Schema) -> Schema:
    operation: Schema = {
        "operationId": re.sub(r"(?<!^)(?=[A-Z])", "_", route.command.__name__).lower(),
        "tags": [route.path.split("/")[1]],
        "summary": command.get("description", ""),
        "responses": _responses(route),
    }
    if parameters := _parameters(route, command):
        operation["parameters"] = parameters
    if route.method in ("POST", "PUT") and (body := _body(route, command)):
        operation["requestBody"] = body
    if route.anonymous:
        operation["security"] = []
    return operation


def _parameters(route: Route, command: Schema) -> list[Schema]:
    in_path = _PATH_PARAMETER.findall(route.path)
    parameters = []
    for name, schema in command["properties"].items():
        if name in in_path:
            parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
        elif route.method in ("GET", "DELETE"):
            required = name in command["required"]
            parameters.append({"name": name, "in": "query", "required": required, "schema": _in_query(schema)})
    return parameters


def _in_query(schema: Schema) -> Schema:
    """A query has no null: what may be null may be left out."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if not kinds:
        return schema
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


def _body(route: Route, command: Schema) -> Schema | None:
    in_path = _PATH_PARAMETER.findall(route.path)
    properties = {name: schema for name, schema in command["properties"].items() if name not in in_path}
    if not properties:
        return None
    required = [name for name in command["required"] if name not in in_path]
    schema = {"type": "object", "properties": properties, "required": required}
    return {"required": bool(required), "content": _json(schema)}


def _responses(route: Route) -> Schema:
    responses = {str(status): _success(route) for status in route.statuses}
    refusals = {422: "The request is not as it has to be.", 429: "Too many requests."}
    if not route.anonymous:
        refusals[401] = "There is no valid token."
    if _PATH_PARAMETER.search(route.path):
        refusals[404] = "There is no such thing, or it is not yours to see."
    for status, description in sorted(refusals.items()):
        responses[str(status)] = _refusal(description)
    return responses | {"default": _refusal("Any other refusal.")}


def _success(route: Route) -> Schema:
    properties: Schema = {"success": {"const": True}}
    if route.result is not None:
        properties["data"] = _ref(route.result)
    if route.message is not None:
        properties["message"] = {"type": "string"}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"description": "It is done.", "content": _json(schema)}


def _health_operation(path: str, summary: str) -> Schema:
    properties = {"success": {"type": "boolean"}, "data": _ref(Health)}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    responses = {"200": {"description": "It is well.", "content": _json(schema)}}
    if path != "/health/live":
        responses["503"] = {"description": "It is not.", "content": _json(schema)}
    name = path.strip("/").replace("/", "_")
    return {"operationId": name, "tags": ["health"], "summary": summary, "security": [], "responses": responses}


def _refusal(description: str) -> Schema:
    return {"description": description, "content": _json({"$ref": _REF.format(name="Failure")})}


def _failure() -> Schema:
    error = {
        "type": "object",
        "properties": {
            "code": {"enum": list(ERRORS)},
            "message": {"type": "string"},
            "details": {"type": "object"},
            "retry_after": {"type": "number", "description": "seconds"},
        },
        "required": ["code", "message", "details"],
    }
    properties = {"success": {"const": False}, "error": error}
    return {"title": "Failure", "type": "object", "properties": properties, "required": ["success", "error"]}


def _ref(struct: type) -> Schema:
    return {"$ref": _REF.format(name=struct.__name__)}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}
