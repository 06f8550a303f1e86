"""Classes are told worst first, and the files hold all that scikit-learn counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from sweeps.final_model.class_results import class_results, write_class_results
from tests.factories import predictions_of
from trainables.evaluation.confidence import wilson
from trainables.fixres.predictions import Predictions

NAMES = ("cat, tabby", "dog", "fox", "owl", "elk")


def of(labels: list[int], predicted: list[int]) -> Predictions:
    given = np.array(labels), np.array(predicted)
    return Predictions(split="test", labels=given[0], predicted=given[1], logits=None)


def test_the_worst_class_comes_first_and_one_without_images_last() -> None:
    found = class_results(of([0, 0, 1, 1, 1, 2], [0, 0, 0, 0, 1, 3]), NAMES)
    assert [(r.name, r.images, r.predicted, r.hits) for r in found] == [
        ("fox", 1, 0, 0),
        ("dog", 3, 1, 1),
        ("cat, tabby", 2, 4, 2),
        ("owl", 0, 1, 0),
        ("elk", 0, 0, 0),
    ]
    fox, dog, *_, elk = found
    assert (fox.recall, fox.precision, fox.f1) == (0.0, None, 0.0)
    assert (dog.recall, dog.precision, dog.f1) == (1 / 3, 1.0, 0.5)
    assert dog.recall_interval == wilson(1, 3) and dog.precision_interval == wilson(1, 1)
    assert (elk.recall, elk.f1, elk.recall_interval) == (None, None, None)


def test_the_files_have_every_class_and_every_confusion(tmp_path: Path) -> None:
    given = [predictions_of("val", 300, len(NAMES)), predictions_of("test", 200, len(NAMES))]
    write_class_results(tmp_path, given, NAMES)
    by_class = pq.read_table(tmp_path / "per_class.parquet").to_pylist()
    pairs = pq.read_table(tmp_path / "confusions.parquet").to_pylist()
    for one in given:
        own = [line for line in by_class if line["split"] == one.split]
        assert sorted(line["class"] for line in own) == sorted(NAMES)
        assert [line["f1"] for line in own] == sorted(line["f1"] for line in own)
        scores = precision_recall_fscore_support(one.labels, one.predicted)
        for line in own:
            at = NAMES.index(line["class"])
            expected = [float(score[at]) for score in scores]
            names = ("precision", "recall", "f1", "images")
            assert [line[name] for name in names] == pytest.approx(expected)
            assert line["recall_low"] <= line["recall"] <= line["recall_high"]
        matrix = confusion_matrix(one.labels, one.predicted)
        counted = np.zeros_like(matrix)
        for pair in (pair for pair in pairs if pair["split"] == one.split):
            counted[NAMES.index(pair["class"]), NAMES.index(pair["predicted"])] = pair["images"]
        np.testing.assert_array_equal(counted, matrix - np.diag(matrix.diagonal()))


def test_a_net_without_mistakes_has_an_empty_file_of_confusions(tmp_path: Path) -> None:
    write_class_results(tmp_path, [of([0, 1], [0, 1])], NAMES)
    table = pq.read_table(tmp_path / "confusions.parquet")
    assert table.num_rows == 0 and table.column_names == ["split", "class", "predicted", "images"]
