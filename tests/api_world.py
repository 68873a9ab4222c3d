"""Walking every endpoint of the schema: addresses of things that are there, and bodies made from the schema itself."""

import itertools
import json
from functools import cache
from urllib.parse import quote

from django.db import connection

METHODS = {"get", "post", "put", "patch", "delete"}
_numbers = itertools.count(1)


@cache
def the_schema():
    """As it is served; made once a process, since it takes seconds."""
    from drf_spectacular.generators import SchemaGenerator

    return json.loads(json.dumps(SchemaGenerator().get_schema(public=True)))


def operations(schema, *, writes=True):
    """(path, method, operation) of the control plane, changes only if wanted."""
    return [
        (path, method, op)
        for path, ways in schema["paths"].items()
        for method, op in ways.items()
        if method in METHODS and "data plane" not in op.get("tags", ()) and (not writes or method != "get")
    ]


def takes(schema, operation):
    """The names of the parameters of an operation."""
    found = operation.get("parameters", [])
    return {(schema["components"]["parameters"][p["$ref"].rpartition("/")[2]] if "$ref" in p else p)["name"] for p in found}


def address(api, path, examples):
    """The path with a thing that is there in the place of each parameter; made up where the collection is empty."""
    parts, walked = [], ""
    for part in path.removeprefix("/api/v1/").split("/"):
        if part.startswith("{"):
            parts.append(quote(str(examples.get(walked) or first(api, "/".join(parts))), safe=""))
        else:
            parts.append(part)
        walked = f"{walked}/{part}".strip("/")
    return "/".join(parts)


def first(api, collection):
    """The name or number of the first thing of a collection."""
    answer = api("GET", collection)
    rows = answer.body.get("results", []) if answer.status_code == 200 else []
    return rows[0].get("name", rows[0].get("id")) if rows else "1"


def body_for(schema, operation, values):
    """A body with what is required, and what `values` knows."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    return None if content is None else _example(schema, content["schema"], "", values)


def _example(schema, part, name, values):
    if "$ref" in part:
        return _example(schema, schema["components"]["schemas"][part["$ref"].rpartition("/")[2]], name, values)
    if name == "name":
        return f"made_{next(_numbers)}"
    if name in values:
        return values[name]
    for several in ("allOf", "oneOf", "anyOf"):
        if several in part:
            return _example(schema, part[several][0], name, values)
    if "enum" in part:
        return part["enum"][0]
    match part.get("type"):
        case "object":
            needed = part.get("required", [])
            known = part.get("properties", {})
            return {key: _example(schema, known[key], key, values) for key in known if key in needed or key in values}
        case "array":
            return [_example(schema, part["items"], name, values)]
        case "integer" | "number":
            return part.get("minimum", 1)
        case "boolean":
            return False
        case _:
            return "because"


def rows_of_all_tables():
    """A digest of the rows of every table: two that are equal mean that nothing at all is different."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1")
        tables = [row[0] for row in cursor.fetchall()]
        each = (f"SELECT '{table}', md5(coalesce(string_agg(t::text, chr(10) ORDER BY t::text), '')) FROM {table} t" for table in tables)
        cursor.execute(" UNION ALL ".join(each))
        return dict(cursor.fetchall())
