"""Schemas of the OpenAPI document, as validators."""

from typing import Any

import jsonschema_rs


def closed(document: dict[str, Any], name: str) -> jsonschema_rs.Validator:
    """A validator for one schema that refuses every field which the schema does not name."""

    def close(node: Any) -> Any:
        if isinstance(node, list):
            return [close(each) for each in node]
        if not isinstance(node, dict):
            return node
        node = {key: close(value) for key, value in node.items() if key != "examples"}
        if "properties" in node and "additionalProperties" not in node:
            node["additionalProperties"] = False
        return node

    schemas = close(document["components"]["schemas"])
    return jsonschema_rs.validator_for(
        {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}},
        validate_formats=True,
    )
