"""OpenAPI 3.1, generated from the route table and the structs behind it."""

from __future__ import annotations

import re

import msgspec

from protocol.errors import ERRORS
from rest.openapi_files import STREAMS, STRUCTS, operation
from rest.openapi_shapes import REF, Schema, json, ref, refusal, success
from rest.routes import MOUNTS, ROUTES, Route
from rest.service import Health

_BEARER = {"type": "http", "scheme": "bearer", "description": "An access token, or the API key of a bot."}

_SIGNATURE = {
    "type": "apiKey",
    "in": "query",
    "name": "signature",
    "description": "What stands in an address that the server has signed.",
}

_PATH_PARAMETER = re.compile(r"{(\w+)}")


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
            "securitySchemes": {"bearer": _BEARER, "signature": _SIGNATURE},
        },
    }


def _schemas() -> dict[str, Schema]:
    structs: list[type] = [Health, *STRUCTS]
    for route in ROUTES:
        structs += [route.command] if route.result is None else [route.command, route.result]
    _, components = msgspec.json.schema_components(structs, ref_template=REF)
    return dict(components)


def _paths(schemas: dict[str, Schema]) -> Schema:
    """The operations. A command's own schema leaves the components: it is spread over path, query and body."""
    paths: Schema = {}
    for route in ROUTES:
        command = schemas.pop(route.command.__name__)
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, command)
    for stream in STREAMS:
        paths.setdefault(stream.path, {})[stream.method.lower()] = operation(stream)
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
    return {"required": bool(required), "content": json(schema)}


def _responses(route: Route) -> Schema:
    responses = {str(status): success(_data(route), route.message) for status in route.statuses}
    refusals = {422: "The request is not as it has to be.", 429: "Too many requests."}
    if not route.anonymous:
        refusals[401] = "There is no valid token."
    if _PATH_PARAMETER.search(route.path):
        refusals[404] = "There is no such thing, or it is not yours to see."
    for status, description in sorted(refusals.items()):
        responses[str(status)] = refusal(description)
    return responses | {"default": refusal("Any other refusal.")}


def _data(route: Route) -> Schema | None:
    return None if route.result is None else ref(route.result)


def _health_operation(path: str, summary: str) -> Schema:
    properties = {"success": {"type": "boolean"}, "data": ref(Health)}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    responses = {"200": {"description": "It is well.", "content": json(schema)}}
    if path != "/health/live":
        responses["503"] = {"description": "It is not.", "content": json(schema)}
    name = path.strip("/").replace("/", "_")
    return {"operationId": name, "tags": ["health"], "summary": summary, "security": [], "responses": responses}


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
