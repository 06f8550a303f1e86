"""The main job as a user runs it: real images, real Ray, real MLflow, separate processes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from sweeps import select_best
from tests.end_to_end import sweeping
from tests.end_to_end.sweeping import (
    ANOTHER_ORDER,
    command,
    environment,
    epochs_trained,
    run_command,
    runs_of,
    sweep,
)
from tests.waiting import HANG_S
from trainables.fixres.arms import ARMS, UNTUNED
from trainables.storage.files import files_size, read_lines

pytestmark = pytest.mark.slow


def test_everything_is_handed_over(undisturbed: Path) -> None:
    choice = json.loads((undisturbed / "choice.json").read_text())
    rows = pq.read_table(undisturbed / "leaderboard.parquet").to_pylist()
    assert len([r for r in rows if r["split"] == "val"]) == 2 * 2 * 2 * len(sweeping.ARMS) + 2 * 2
    tested = [r for r in rows if r["split"] == "test"]
    assert {r["cell"] for r in tested} == {choice["chosen"]["cell"]}
    tuned = ARMS[choice["chosen"]["arm"]].changes and not choice["chosen"]["untouched"]
    assert [r["arm"] for r in tested] == [choice["chosen"]["arm"], *([UNTUNED] if tuned else [])]
    trained = not choice["chosen"]["untouched"]
    assert set(choice["gains_on_untouched"]) == ({"test"} if trained else set())
    assert choice["val"]["n"] > 0 and all(r["n"] > 0 for r in choice["unseen"])
    named = ("heatmap", "pareto", "curves", "arms", "spending", "confusions", "reliability")
    for name in named:
        picture = undisturbed / "figures" / f"{name}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert (undisturbed / "report.html").read_text().lower().startswith("<!doctype html>")
    by_class = pq.read_table(undisturbed / "per_class.parquet").to_pylist()
    for split, n in (("val", choice["val"]["n"]), ("test", tested[0]["n"])):
        assert sum(line["images"] for line in by_class if line["split"] == split) == n
    config = json.loads((undisturbed / "model" / "config.json").read_text())
    assert config.get("temperature") == choice["calibration"]["temperature"]
    forms = ("model.safetensors", "model.onnx", "model.pt2", "MLmodel")
    for name in (*forms, "config.json", "labels.txt", "README.md", "heatmap.png"):
        assert (undisturbed / "model" / name).stat().st_size > 0
    assert not list(undisturbed.rglob("*.tmp")), "half-written files"


def test_it_takes_no_less_of_the_disk_than_the_plan_said(undisturbed: Path) -> None:
    """What is refused for want of so much would not have fitted; nor is much more needed."""
    said = (undisturbed.parent / "said").read_text()
    parts = re.search(r"disk     out: ([\d.]+) MB for all .*, ([\d.]+) MB for MLflow's", said)
    assert parts is not None
    own = sum(files_size(undisturbed / name) for name in ("store", "model")) / 1e6
    copies = files_size(undisturbed / "mlartifacts") / 1e6
    assert float(parts[1]) <= own <= 1.5 * float(parts[1])
    assert float(parts[2]) <= copies <= 1.5 * float(parts[2])


def test_every_trunk_is_trained_once(undisturbed: Path) -> None:
    counts = epochs_trained(undisturbed)
    assert len(counts) == 4  # two train resolutions, two samples
    assert all(times == 1 for trunk in counts.values() for times in trunk.values())


def test_timm_alone_scores_what_the_job_reported(undisturbed: Path, data: Path) -> None:
    """In a process that knows nothing of this project, from the files themselves."""
    index = _test_files(undisturbed)
    script = """
import json, sys, timm, torch
from PIL import Image
folder, files = sys.argv[1], json.load(sys.stdin)
model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
config = timm.data.resolve_model_data_config(model, use_test_size=True)
transform = timm.data.create_transform(**config)
names = model.pretrained_cfg["label_names"]
hits = 0
with torch.inference_mode():
    for path, label in files:
        logits = model(transform(Image.open(path).convert("RGB"))[None])
        hits += names[logits.argmax().item()] == label
print(json.dumps([hits, len(files), config["input_size"][-1], config["crop_pct"]]))
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(undisturbed / "model")],
        input=json.dumps(index),
        capture_output=True,
        text=True,
        cwd="/",
        env=environment(),
        timeout=HANG_S,
    )
    assert run.returncode == 0, run.stderr
    hits, n, res, crop = json.loads(run.stdout)
    choice = json.loads((undisturbed / "choice.json").read_text())
    reported = choice["unseen"][0]
    assert (hits, n) == (round(reported["top1"] * reported["n"]), reported["n"])
    assert (res, crop) == (choice["chosen"]["test_res"], choice["chosen"]["crop_pct"])


def _test_files(out: Path) -> list[tuple[str, str]]:
    """Path and class of every image of the test split, found again from the recorded options."""
    from trainables.data.decode import prepare
    from trainables.data.options import ReadOptions

    spec = json.loads((out / "spec.json").read_text())["spec"]
    data = Path(spec["images"]["data"])
    images = prepare(data, Path(spec["images"]["cache_dir"]), ReadOptions())
    import pyarrow as pa

    index = pa.ipc.open_file(pa.memory_map(str(next(images.root.glob("*.arrow"))))).read_all()
    return [
        (str(data / row["path"]), images.classes[row["label"]])
        for row in index.to_pylist()
        if row["split"] == "test"
    ]


def test_mlflow_holds_one_run_for_each_trunk_and_cell(undisturbed: Path) -> None:
    runs = runs_of(undisturbed)
    roles = [r.data.tags["role"] for r in runs]
    assert (roles.count("sweep"), roles.count("trunk"), roles.count("cell")) == (1, 5, 12)
    assert {r.info.status for r in runs} == {"FINISHED"}
    parent = next(r for r in runs if r.data.tags["role"] == "sweep")
    children = [r for r in runs if r is not parent]
    assert {r.data.tags["mlflow.parentRunId"] for r in children} == {parent.info.run_id}
    for run in children:
        if run.data.tags["role"] == "cell":
            assert set(run.data.params) == {"variant", "train_res", "test_res", "test_crop_pct"}
            assert 0 <= run.data.metrics["val/top1"] <= 1


def test_every_form_of_the_model_says_the_same(
    undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm, ONNX Runtime, PyTorch's program, and the champion from image files, on all of test."""
    import mlflow
    import numpy as np
    import onnxruntime
    import timm
    import torch

    folder = undisturbed / "model"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{undisturbed}/mlflow.db")
    champion = mlflow.pyfunc.load_model("models:/fixefficientnet@champion")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model, use_test_size=True)
    transform = timm.data.create_transform(**config)
    files = [Path(path) for path, _ in _test_files(undisturbed)]
    pixels = torch.stack([transform(Image.open(path).convert("RGB")) for path in files])
    with torch.inference_mode():
        expected = model(pixels).numpy()
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (logits,) = session.run(None, {"pixels": pixels.numpy()})
    program = torch.export.load(folder / "model.pt2").module()
    answers = champion.predict({"image": [path.read_bytes() for path in files]})
    atol = 1e-4 * max(1.0, float(np.abs(expected).max()))
    for found in (logits, program(pixels).detach().numpy(), np.array(answers["logits"].tolist())):
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
    names = json.loads((folder / "config.json").read_text())["label_names"]
    assert answers["label"].tolist() == [names[i] for i in expected.argmax(axis=1)]


def test_a_finished_sweep_answers_from_its_store(undisturbed: Path, data: Path) -> None:
    """Also where options are typed in another order."""
    before = {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*") if p.is_file()}
    with tempfile.TemporaryDirectory() as of_ray:
        argv = command(data, undisturbed, *ANOTHER_ORDER)
        again = run_command(argv, {"RAY_TMPDIR": of_ray})
        assert not list(Path(of_ray).iterdir()), "Ray was started"
    assert again.returncode == 0, again.stdout + again.stderr
    assert "chosen" in again.stdout and "mlflow ui" in again.stdout
    assert "trunk lite0" not in again.stdout
    changed = [p for p, at in before.items() if p.stat().st_mtime_ns != at and p.name != ".lock"]
    assert not changed
    assert not list((undisturbed / "store").glob("**/*.tmp"))


def test_another_choice_is_made_from_the_folder_alone(
    undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--sweep", str(undisturbed)]
    choice = json.loads((undisturbed / "choice.json").read_text())
    free = run_command([sys.executable, "sweeps/select_best.py", *argv, "--latency"])
    assert free.returncode == 0, free.stderr
    assert choice["reason"] in " ".join(free.stdout.split())
    assert re.search(r"MB +ms", free.stdout) and "Pareto fronts" in free.stdout
    assert select_best.main([*argv, "--max-gmacs", "0.02"]) == 0
    assert "-> 32 px" in capsys.readouterr().out.partition("chosen")[2]
    assert select_best.main([*argv, "--max-gmacs", "0.001", "--min-top1", "0.1"]) == 2
    refusal = capsys.readouterr().err
    assert "the nearest miss is" in refusal and refusal.count("\n") == 1


def test_the_model_of_another_choice_is_written_and_owns_up_to_its_reading(
    undisturbed: Path,
) -> None:
    choice = json.loads((undisturbed / "choice.json").read_text())
    rows = pq.read_table(undisturbed / "leaderboard.parquet").to_pylist()
    other = next(r for r in rows if r["split"] == "val" and r["cell"] != choice["chosen"]["cell"])
    folder = undisturbed.parent / "other"
    limits = {"--max-gmacs": other["gmacs"] * 1.001, "--min-top1": other["top1"] * 0.999}
    argv = ["--sweep", str(undisturbed), *(str(w) for limit in limits.items() for w in limit)]
    written = run_command([sys.executable, "sweeps/select_best.py", *argv, "--write", str(folder)])
    assert written.returncode == 0, written.stderr
    card = (folder / "README.md").read_text()
    assert "--min-top1" in card and (folder / "model.onnx").exists()
    looks = read_lines(undisturbed / "store" / "readings.jsonl")
    # What a choice was only compared with was not looked at to choose.
    cells = {
        look["cell"] for look in looks if look["set"] == "test" and not look.get("baseline", False)
    }
    again = f"Not the first reading: this sweep has looked at the test split for {len(cells)} cells"
    assert (again in card) == (len(cells) > 1)
    chosen = choice["chosen"]["test_res"]
    assert (len(cells) > 1) == (f"-> {chosen} px" not in card.partition("\n# ")[2].splitlines()[0])


def test_another_spec_in_the_same_folder_is_refused(undisturbed: Path, data: Path) -> None:
    refused = sweep(data, undisturbed, "--seed", "1", "--epochs", "3")
    assert refused.returncode == 2
    assert "--epochs was 2, now 3" in refused.stderr
    assert "--seed was 0, now 1" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--variants", "b0"), "cannot be had from the hub"),
        (("--max-gmacs", "0.0001"), "--max-gmacs 0.0001 rules out every cell"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    data: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], words: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = data.parent / "refused"
    refused = sweep(data, out, *options)
    assert refused.returncode == 2
    assert words in refused.stderr
    assert refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1
    assert not out.exists()
