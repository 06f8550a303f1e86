"""Make the schemas beside this file from their sources; run again only to take up newer ones.

    python tests/clusters/trim_schemas.py kuberay ray.io_rayjobs.yaml > kuberay_rayjob.schema.json
    python tests/clusters/trim_schemas.py compute compute.v1.json > gcp_instance.schema.json

Sources, both Apache-2.0:

- KubeRay v1.7.0 (commit 59d663aeec13), ray-operator/config/crd/bases/ray.io_rayjobs.yaml
- google-api-python-client 2.202.0, googleapiclient/discovery_cache/documents/compute.v1.json
  (revision 20261106)

Unknown keys are faults in both: Kubernetes drops them and Google refuses them, so that a slip of
the pen shows only in a running cluster.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

KEPT = {
    *("type", "properties", "items", "additionalProperties", "required", "enum", "pattern"),
    *("minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength"),
    *("anyOf", "oneOf", "allOf", "$ref"),
}
SHARED_CHARS = 200  # a part that is repeated is written once if it is longer
Schema = dict[str, Any]


def trimmed(schema: Schema) -> Schema:
    """Without descriptions, and closed to unknown keys where the keys are listed."""
    kept = {key: value for key, value in schema.items() if key in KEPT}
    if schema.get("x-kubernetes-int-or-string"):
        kept = {"type": ["integer", "string"]} | {k: kept[k] for k in ("pattern",) if k in kept}
    if "properties" in kept:
        kept["properties"] = {name: trimmed(each) for name, each in kept["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            kept.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(kept.get(key), dict):
            kept[key] = trimmed(kept[key])
    return kept


def shared(schema: Schema) -> Schema:
    """The same schema, each long part that is repeated once among its ``$defs``."""

    def text(part: Any) -> str:
        return json.dumps(part, sort_keys=True)

    def name(part: Any) -> str:
        return hashlib.sha256(text(part).encode()).hexdigest()[:8]

    def is_schema(part: Schema) -> bool:
        # A mapping of names to schemas, which has no type, cannot be referred to.
        return isinstance(part.get("type"), str)

    def visit(part: Any, see: Callable[[Schema], None]) -> None:
        if isinstance(part, dict):
            see(part)
        for child in part.values() if isinstance(part, dict) else part:
            if isinstance(child, (dict, list)):
                visit(child, see)

    seen: Counter[str] = Counter()
    # A mapping of names to schemas has no type of its own: it cannot be referred to.
    visit(
        schema, lambda part: seen.update([name(part)] if isinstance(part.get("type"), str) else [])
    )
    defs: Schema = {}

    def refer(part: Any) -> Any:
        if isinstance(part, list):
            return [refer(each) for each in part]
        if not isinstance(part, dict):
            return part
        made = {key: refer(value) for key, value in part.items()}
        if is_schema(part) and seen[name(part)] > 1 and len(text(part)) > SHARED_CHARS:
            defs[name(part)] = made
            return {"$ref": f"#/$defs/{name(part)}"}
        return made

    return {**refer(schema), "$defs": defs}


def kuberay(crd: Path) -> Schema:
    """A RayJob without its status."""
    (version,) = (
        v for v in yaml.safe_load(crd.read_text())["spec"]["versions"] if v["name"] == "v1"
    )
    schema = version["schema"]["openAPIV3Schema"]
    schema["properties"].pop("status")
    return shared(trimmed(schema))


def compute(discovery: Path) -> Schema:
    """What instances.insert takes, and all that it refers to."""
    schemas = json.loads(discovery.read_text())["schemas"]
    defs: Schema = {}

    def take(name: str) -> None:
        if name in defs:
            return
        defs[name] = trimmed(schemas[name])
        for found in set(_references(defs[name])):
            take(found)

    take("Instance")
    text = json.dumps({"$ref": "Instance", "$defs": defs})
    whole: Schema = json.loads(text.replace('"$ref": "', '"$ref": "#/$defs/'))
    return whole


def _references(part: Any) -> list[str]:
    if isinstance(part, list):
        return [name for each in part for name in _references(each)]
    if not isinstance(part, dict):
        return []
    own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
    return own + [name for each in part.values() for name in _references(each)]


if __name__ == "__main__":
    make = {"kuberay": kuberay, "compute": compute}[sys.argv[1]]
    print(json.dumps(make(Path(sys.argv[2])), sort_keys=True, separators=(",", ":")))
