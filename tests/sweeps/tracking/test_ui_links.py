"""Links into MLflow's UI: to the right runs, without credentials."""

from __future__ import annotations

import base64
import json
import zlib
from urllib.parse import parse_qs

import pytest

from sweeps.tracking.ui_links import (
    compare_link,
    followed_ui,
    sweep_view,
    ui_command,
    view_link,
)


def test_the_ui_of_a_server_is_a_link_to_the_view_of_the_sweep() -> None:
    link = ui_command("https://me:pass@host/", "7", "s1")
    assert link == (
        "https://host/#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=sweep-s1"
    )


def test_the_ui_of_a_file_is_a_command_and_a_link() -> None:
    command, link = ui_command("sqlite:////out/mlflow.db", "7", "s1").splitlines()
    assert command == (
        "mlflow ui --backend-store-uri sqlite:////out/mlflow.db --host 127.0.0.1 --port 5000"
    )
    assert link.strip().startswith("then http://127.0.0.1:5000/#/experiments/7/runs?")


@pytest.mark.parametrize("place", ["/old place/out", "/old", "/o'ld"])
def test_the_command_for_the_ui_follows_the_folder(place: str) -> None:
    ui = ui_command(f"sqlite:///{place}/mlflow.db", "7", "abc")
    new = "sqlite:////new place/mlflow.db"
    assert followed_ui(ui, new) == ui_command(new, "7", "abc")
    postgres = "mlflow ui --backend-store-uri postgresql://host/db --host 1"
    for other in (None, "http://host/#/experiments/7", postgres):
        assert followed_ui(other, new) == other


def test_the_comparison_names_all_cells() -> None:
    link = compare_link(["a1", "b2"], "7")
    words, _, target = link.partition("](")
    assert words == "[Compare the 2 cells" and target.startswith("#/compare-runs?")
    query = parse_qs(target.removesuffix(")").partition("?")[2])
    assert query == {"runs": ['["a1","b2"]'], "experiments": ['["7"]']}


@pytest.mark.parametrize("count", [51, 324, 5_000])
def test_of_many_cells_the_best_are_compared_and_all_are_in_the_view(count: int) -> None:
    ids = [f"{number:032x}" for number in range(count)]
    words, _, target = compare_link(ids, "7").partition("](")
    assert words == f"[Compare the 50 best of {count:,} cells"
    (runs,) = parse_qs(target.removesuffix(")").partition("?")[2])["runs"]
    assert json.loads(runs) == ids[:50]
    words, _, target = view_link(count, "7", "s1").partition("](")
    assert words == f"[All {count:,} cells, best first"
    assert ui_command("http://host", "7", "s1") == f"http://host/{target.removesuffix(')')}"


def test_the_view_is_of_the_sweeps_cells_best_first() -> None:
    key, value = sweep_view("s1", "digits")
    assert key == "mlflow.sharedViewState.sweep-s1"  # what ui_command links to
    view = json.loads(value)
    assert view["name"] == "Cells of digits, best first"
    method, _, packed = view["state"].partition(";")
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert method == "deflate"
    assert state["searchFilter"] == "tags.sweep = 's1' and tags.role = 'cell'"
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`val/top1`", False)
    assert {"params.`test_res`", "tags.`best_arm`"} <= set(state["selectedColumns"])
    axes = [f"params.`{name}`" for name in ("variant", "train_res", "test_res", "test_crop_pct")]
    assert state["columnOrder"][:4] == axes and state["columnOrder"] == state["selectedColumns"]
