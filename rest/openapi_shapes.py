"""What all operations of the OpenAPI description are made of."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

REF = "#/components/schemas/{name}"
BYTES: Schema = {"type": "string", "format": "binary"}
ID: Schema = {"type": "string", "format": "uuid"}


def ref(struct: type) -> Schema:
    """The shape of a struct."""
    return {"$ref": REF.format(name=struct.__name__)}


def json(schema: Schema) -> Schema:
    """Content that is JSON."""
    return {"application/json": {"schema": schema}}


def success(data: Schema | None, message: str | None = None) -> Schema:
    """The envelope of what went well."""
    properties: Schema = {"success": {"const": True}}
    if data is not None:
        properties["data"] = data
    if message is not None:
        properties["message"] = {"type": "string"}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"description": "It is done.", "content": json(schema)}


def refusal(description: str) -> Schema:
    """The envelope of what did not."""
    return {"description": description, "content": json({"$ref": REF.format(name="Failure")})}


def parameter(name: str, where: str, schema: Schema, *, required: bool = False) -> Schema:
    """What a request says in its path, its query or a header."""
    return {"name": name, "in": where, "required": required or where == "path", "schema": schema}
