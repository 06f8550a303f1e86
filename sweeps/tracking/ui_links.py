"""Links into MLflow's UI, and a view of the runs prepared for it. Speaks to no server."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from urllib.parse import urlencode


def _view_key(sweep_id: str) -> str:
    return f"sweep-{sweep_id}"


def ui_command(uri: str, experiment_id: str, sweep_id: str) -> str:
    """What opens the UI at the cells of a sweep, best first, or where they are."""
    # The UI's other half knows no runs. Any more in the query, and it drops the view's columns.
    query = {"workflowType": "machine_learning", "viewStateShareKey": _view_key(sweep_id)}
    path = f"/#/experiments/{experiment_id}/runs?{urlencode(query)}"
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


def sweep_view(sweep_id: str, name: str) -> tuple[str, str]:
    """A sweep's cells, best first, with the columns that tell them apart: key and value of a tag of
    the experiment, in which the UI keeps the views that a person has saved."""
    columns = [
        "attributes.`Duration`",
        *(f"params.`{column}`" for column in ("variant", "train_res", "test_res")),
        *(f"metrics.`{column}`" for column in ("val/top1", "val/top1_crop1", "val/top1_fix")),
        "metrics.`work/gmacs`",
        "tags.`best_arm`",
    ]
    state = {
        "searchFilter": f"tags.sweep = '{sweep_id}' and tags.role = 'cell'",
        "orderByKey": "metrics.`val/top1`",  # sorted by a metric, the UI shows a flat list
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "runsHiddenMode": "SHOW_ALL",
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    view = {"name": f"Cells of {name}, best first", "createdAt": 0, "updatedAt": 0}
    key = f"mlflow.sharedViewState.{_view_key(sweep_id)}"
    return key, json.dumps(view | {"state": f"deflate;{packed}"})


def without_secret(uri: str) -> str:
    """A URI without user, password and query."""
    scheme, separator, rest = uri.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}{separator}{place.rpartition('@')[2]}{slash}{path.partition('?')[0]}"
