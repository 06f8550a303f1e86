"""Links into MLflow's UI, and a view of the runs prepared for it. Speaks to no server."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from urllib.parse import quote, urlencode

SWEEP_VIEW = "mlflow.sharedViewState.fixres"  # tag of an experiment that the UI reads


def ui_command(uri: str, experiment_id: str, sweep_id: str) -> str:
    """What opens the UI at the cells of a sweep, best first, or where they are."""
    query = {
        "workflowType": "machine_learning",  # the UI's other half knows no runs
        "searchFilter": f"tags.sweep = '{sweep_id}' and tags.role = 'cell'",
        "orderByKey": "metrics.`val/top1`",  # sorted by a metric, the UI shows a flat list
        "orderByAsc": "false",
        "viewStateShareKey": SWEEP_VIEW.rpartition(".")[2],
    }
    path = f"/#/experiments/{experiment_id}/runs?{urlencode(query, quote_via=quote)}"
    if uri.startswith("http"):
        return f"{without_secret(uri).rstrip('/')}{path}"
    return (
        f"mlflow ui --backend-store-uri {without_secret(uri)} --host 127.0.0.1 "
        f"--port 5000\n  then http://127.0.0.1:5000{path}"
    )


def compare_link(run_ids: Sequence[str], experiment_id: str) -> str:
    """Markdown: the UI's compare view of these runs, whatever the UI's address."""
    lists = {"runs": run_ids, "experiments": [experiment_id]}
    query = {name: json.dumps(ids, separators=(",", ":")) for name, ids in lists.items()}
    return f"[Compare the {len(run_ids)} cells](#/compare-runs?{urlencode(query)})"


def sweep_view() -> str:
    """The columns that tell cells apart, as the UI keeps a view that a person has saved."""
    columns = [
        *("attributes.`Created`", "attributes.`Duration`"),
        *(f"params.`{name}`" for name in ("variant", "train_res", "test_res")),
        *(f"metrics.`{name}`" for name in ("val/top1", "val/top1_crop1", "val/top1_fix")),
        *(f"metrics.`{name}`" for name in ("work/gmacs", "work/params_m", "work/seconds")),
        *(f"tags.`{name}`" for name in ("best_arm",)),
    ]
    state = {
        "searchFilter": "tags.role = 'cell'",
        "orderByKey": "metrics.`val/top1`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "runsHiddenMode": "SHOW_ALL",
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    view = {"name": "Cells, best first", "createdAt": 0, "updatedAt": 0}
    return json.dumps(view | {"state": f"deflate;{packed}"})


def without_secret(uri: str) -> str:
    """A URI without user, password and query."""
    scheme, separator, rest = uri.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}{separator}{place.rpartition('@')[2]}{slash}{path.partition('?')[0]}"
