"""Show what a sweep would do, and do none of it but for decoding the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from sweeps.output.disk_space import check_disks, check_expected, is_begun
from sweeps.output.folder import check_extension
from sweeps.output.location import SweepLocation
from sweeps.planning import building
from sweeps.planning.checks.search_checks import with_settled_search
from sweeps.planning.dataset import check_extra_test_sets, find_near_duplicates, open_images
from sweeps.planning.spec import SweepSpec, identity
from sweeps.scheduling.reuse import reuse_lines
from sweeps.terminal.console import Terminal
from sweeps.terminal.plan_tables import plan_view
from trainables.models import variants
from trainables.models.imagenet import with_fitting_classifier
from trainables.models.weights import Weights, stored_weights
from trainables.storage.artifact_store import Store


def dry_run(spec: SweepSpec, location: SweepLocation, terminal: Terminal) -> None:
    """Print the plan, what it takes of the disks, and what OUT holds of it.

    Raises:
        UserError: the sweep cannot be run with these options, or not in this OUT.
    """
    out, begun = location.out, is_begun(location)
    expect = None if begun else partial(check_expected, spec, location, say=terminal.say)
    images, _ = open_images(spec, terminal, expect)
    spec = with_settled_search(spec, len(images.split("train")))
    asked = identity(spec, images.digest)
    record = check_extension(out, asked, terminal.say)
    near = find_near_duplicates(images, check_extra_test_sets(spec, images, terminal))
    plan = building.build_plan(spec, images, (), near.in_words)
    terminal.console.print(plan_view(plan))
    check_disks(plan, location, terminal.say, begun=begun)
    if record is not None:
        known = replace(plan, weights=_known_weights(spec, images.classes, location.store))
        for line in reuse_lines(known, location, record, asked):
            terminal.say(line)


def _known_weights(spec: SweepSpec, classes: Sequence[str], store: Store) -> dict[str, Weights]:
    """Look up the weights of each variant in the store; what it lacks stands for itself."""
    found = {}
    for name in spec.grid.variants:
        lacking = Weights(variant=name, source="not fetched", digest="", name=name)
        stored = stored_weights(variants.get(name), spec.grid.weights, store)
        found[name] = with_fitting_classifier(stored or lacking, classes)
    return found
