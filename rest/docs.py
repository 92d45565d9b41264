"""The OpenAPI description as one readable page."""

from __future__ import annotations

import json
from html import escape
from typing import Any

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} API {version}</title>
<link rel="stylesheet" href="/static/style.css">
<h1>{title} API <small>{version}</small></h1>
<p>{description} Every address stands under <code>/api/v1</code> and under <code>/</code>.
For tools: <a href="/api/openapi.json">openapi.json</a>.</p>
{sections}
<h2 id="schemas">Shapes</h2>
{schemas}
</html>
"""

_OPERATION = """<details id="{id}">
<summary><code class="method">{method}</code> <code>{path}</code> {summary}</summary>
{parts}
</details>"""


def page(document: dict[str, Any]) -> str:
    """HTML that shows all operations and shapes of an OpenAPI document, without scripts."""
    info = document["info"]
    return _PAGE.format(
        title=escape(info["title"]),
        version=escape(info["version"]),
        description=escape(info["description"]),
        sections=_sections(document["paths"]),
        schemas="\n".join(_shape(name, schema) for name, schema in document["components"]["schemas"].items()),
    )


def _sections(paths: dict[str, Any]) -> str:
    sections: dict[str, list[str]] = {}
    for path, methods in paths.items():
        for method, operation in methods.items():
            sections.setdefault(operation["tags"][0], []).append(_operation(method, path, operation))
    return "\n".join(f"<h2>{escape(tag)}</h2>\n" + "\n".join(parts) for tag, parts in sections.items())


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [_security(operation.get("security"))]
    if "parameters" in operation:
        rows = (_row(p["name"], f"{p['in']}, {_describe(p['schema'])}", p["required"]) for p in operation["parameters"])
        parts.append(_table("Parameters", rows))
    if "requestBody" in operation:
        parts += [_body(kind, content["schema"]) for kind, content in operation["requestBody"]["content"].items()]
    parts += [_response(status, response) for status, response in operation["responses"].items()]
    return _OPERATION.format(
        id=escape(operation["operationId"]),
        method=method.upper(),
        path=escape(path),
        summary=escape(operation["summary"]),
        parts="\n".join(parts),
    )


def _security(schemes: list[dict[str, Any]] | None) -> str:
    if schemes == []:
        return "<p>Without a token.</p>"
    signed = any("signature" in scheme for scheme in schemes or ())
    return "<p>With a token, or by a signed address.</p>" if signed else "<p>With a token.</p>"


def _body(kind: str, schema: dict[str, Any]) -> str:
    title = "Body" if kind == "application/json" else f"Body: {escape(kind)}"
    return _table(title, _fields(schema))


def _response(status: str, response: dict[str, Any]) -> str:
    schema = _json_schema(response)
    shape = schema.get("properties", {}).get("data", schema)
    link = f" {_describe(shape)}" if "$ref" in shape else ""
    return f"<p><code>{escape(status)}</code> {escape(response['description'])}{link}</p>"


def _shape(name: str, schema: dict[str, Any]) -> str:
    text = escape(schema.get("description", ""))
    return f'<h3 id="{escape(name)}">{escape(name)}</h3>\n<p>{text}</p>\n{_table("", _fields(schema))}'


def _fields(schema: dict[str, Any]) -> list[str]:
    required = schema.get("required", ())
    return [_row(name, _describe(kind), name in required) for name, kind in schema.get("properties", {}).items()]


def _table(title: str, rows: Any) -> str:
    heading = f"<h4>{title}</h4>\n" if title else ""
    return f"{heading}<table>\n" + "\n".join(rows) + "\n</table>"


def _row(name: str, what: str, required: bool) -> str:
    needed = "required" if required else ""
    return f"<tr><td><code>{escape(name)}</code></td><td>{what}</td><td>{needed}</td></tr>"


def _describe(schema: dict[str, Any]) -> str:
    """A schema in a few words of HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_describe(kind) for kind in schema["anyOf"])
    if schema.get("items"):
        return f"array of {_describe(schema['items'])}{_bounds(schema)}"
    if "enum" in schema:
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    kind = schema.get("format", schema.get("type", "anything"))
    return escape(kind) + _bounds(schema)


_BOUNDS = {
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} of them",
    "maxItems": "at most {} of them",
    "minimum": "at least {}",
    "maximum": "at most {}",
    "default": "{} when left out",
}


def _bounds(schema: dict[str, Any]) -> str:
    words = [text.format(json.dumps(schema[name])) for name, text in _BOUNDS.items() if schema.get(name) is not None]
    return f" ({escape(', '.join(words))})" if words else ""


def _json_schema(part: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = part.get("content", {}).get("application/json", {}).get("schema", {})
    return schema
