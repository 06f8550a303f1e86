"""Build links into MLflow's UI, and a saved view of a sweep's cells that one of them opens.

Sends no request.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Sequence
from shlex import quote
from urllib.parse import urlencode

from sweeps.redaction import without_credentials
from sweeps.tracking.access.moved_folder import DATABASE
from trainables.evaluation.class_metrics import Metric

MOST_COMPARED = 50  # cells


def _view_key(sweep_id: str) -> str:
    return f"sweep-{sweep_id}"


def _view_path(experiment_id: str, sweep_id: str) -> str:
    # The UI's other workflow type shows no runs, and with more in the query it drops the columns
    # of the view.
    query = {"workflowType": "machine_learning", "viewStateShareKey": _view_key(sweep_id)}
    return f"#/experiments/{experiment_id}/runs?{urlencode(query)}"


def view_link(count: int, experiment_id: str, sweep_id: str) -> str:
    """Return a Markdown link to the view of all cells, best first, at any UI address."""
    return f"[All {count:,} cells, best first]({_view_path(experiment_id, sweep_id)})"


def ui_command(uri: str, experiment_id: str, sweep_id: str) -> str:
    """Return how to open the UI at a sweep's cells, best first.

    For a tracking server it is a URL; else the command that starts the UI, and the URL to open
    then.

    Args:
        uri: of the tracking store; its credentials are left out.
    """
    path = f"/{_view_path(experiment_id, sweep_id)}"
    if uri.startswith("http"):
        return f"{without_credentials(uri).rstrip('/')}{path}"
    return (
        f"mlflow ui --backend-store-uri {quote(without_credentials(uri))} --host 127.0.0.1 "
        f"--port 5000\n  then http://127.0.0.1:5000{path}"
    )


def followed_ui(ui: str | None, uri: str) -> str | None:
    """Return how to open the UI of a sweep whose own database has moved with its folder.

    Args:
        ui: what :func:`ui_command` gave, where the sweep was then.
        uri: of the database now.
    """
    found = re.match(r"mlflow ui --backend-store-uri (\'?sqlite:.*?) --host ", ui or "")
    if ui is None or found is None or DATABASE not in found[1]:
        return ui
    return ui.replace(found[1], quote(without_credentials(uri)), 1)


def compare_link(run_ids: Sequence[str], experiment_id: str) -> str:
    """Return a Markdown link to the UI's comparison of cells' runs, at any UI address.

    Args:
        run_ids: of the cells, best first; ``MOST_COMPARED`` are compared, as more make no plot that
            can be read, and no link that fits in a tag.
    """
    compared = run_ids[:MOST_COMPARED]
    lists = {"runs": compared, "experiments": [experiment_id]}
    query = {name: json.dumps(ids, separators=(",", ":")) for name, ids in lists.items()}
    which = f"{len(compared)} best of {len(run_ids):,}" if len(compared) < len(run_ids) else None
    return f"[Compare the {which or len(run_ids)} cells](#/compare-runs?{urlencode(query)})"


def sweep_view(sweep_id: str, name: str, metric: Metric = "top1") -> tuple[str, str]:
    """Build a view of a sweep's cells, best first, with the columns that tell them apart.

    Args:
        name: of the sweep, for a person.
        metric: by which cells are compared.

    Returns:
        Key and value of a tag of the experiment: there the UI keeps the views that users save.
    """
    columns = [
        *(f"params.`{c}`" for c in ("variant", "train_res", "test_res", "test_crop_pct")),
        *(f"metrics.`val/{metric}{arm}`" for arm in ("", "_none", "_fix")),
        "metrics.`work/gmacs`",
        "tags.`best_arm`",
        "attributes.`Duration`",
    ]
    state = {
        "searchFilter": f"tags.sweep = '{sweep_id}' and tags.role = 'cell'",
        # The UI shows runs sorted by a metric as a flat list.
        "orderByKey": f"metrics.`val/{metric}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": columns,  # else parameters stand behind metrics
        "runsHiddenMode": "SHOW_ALL",
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    view = {"name": f"Cells of {name}, best first", "createdAt": 0, "updatedAt": 0}
    key = f"mlflow.sharedViewState.{_view_key(sweep_id)}"
    return key, json.dumps(view | {"state": f"deflate;{packed}"})
