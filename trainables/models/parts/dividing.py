"""Find a net's parts (:mod:`.net_parts`): watch its forward, trace it, and cut the graph.

All is done on the meta device: no arithmetic, no weights. The parts of EfficientNets are known.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, cast

import timm
import torch
from timm.layers import DropPath, Linear, SelectAdaptivePool2d
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainables.errors import UserError
from trainables.models.folding import foldable
from trainables.models.parts.net_parts import NetParts, NotDividedError, run
from trainables.models.parts.tensor_names import EFFICIENTNET, TensorNames
from trainables.models.variants import Variant

_EFFICIENTNET = ("conv_stem", "bn1", "blocks", "conv_head", "bn2", "global_pool", "classifier")
_NO_STATISTICS = (nn.LayerNorm, nn.GroupNorm)
_NORMS = (nn.BatchNorm2d, *_NO_STATISTICS)
_AVERAGES = ("avg", "fast", "fastavg")
# Of two activations with one another: attention. Weights are applied by convolutions and addmm.
_PRODUCTS = ("bmm", "baddbmm", "_scaled_dot_product")
_STEP = 32  # px: a net that takes other resolutions than that of its weights takes one so far off
_SUMS = (operator.add, operator.iadd)
_ELEMENTWISE = (
    *(nn.Identity, nn.Dropout, DropPath),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Mish, nn.ELU),
)


def parts_of(net: nn.Module) -> NetParts:
    """Give the parts of a net of timm.

    Raises:
        NotDividedError: it has no such parts.
    """
    children = dict(net.named_children())
    # Some nets of the same modules have group norms instead: bn1 is what bn2 is.
    if tuple(children) == _EFFICIENTNET and not isinstance(children["bn1"], _NO_STATISTICS):
        return _parts_of_efficientnets()
    return parts_of_architecture(cast(dict[str, Any], net.pretrained_cfg)["architecture"])


@cache
def parts_of_architecture(name: str) -> NetParts:
    """Find the parts of timm's nets of a name, on the meta device.

    Raises:
        NotDividedError: they have no such parts.
    """
    with torch.device("meta"):
        try:
            # With a classifier, also where the weights that timm has of it are of a body alone.
            net = timm.create_model(name, pretrained=False, num_classes=1).eval()
        except (RuntimeError, NotImplementedError) as error:
            raise NotDividedError(f"timm cannot build it without weights ({error})") from None
    modules = dict(net.named_modules())
    classifier = _classifier(net, modules)
    seen = _forward(net)
    _check_folding(net, seen)
    pool, norm = _pool(seen, modules), _norm(seen, modules)
    graph = _traced(net, (norm, pool, classifier))
    return _Division(net, graph, norm, pool, classifier).parts()


def names_in(variant: Variant) -> TensorNames:
    """Name the tensors that FixRes adapts in a variant's nets.

    Raises:
        UserError: the nets cannot be divided.
    """
    if variant.is_of_family:
        return EFFICIENTNET
    try:
        return parts_of_architecture(variant.timm_name).names
    except NotDividedError as error:
        raise UserError(
            f"`variant` {variant.name} is no net that FixRes adapts: {error}; give a convolutional "
            "net that ends in a norm, the average over positions and a linear classifier."
        ) from None


@cache
def _parts_of_efficientnets() -> NetParts:
    """Give what dividing an EfficientNet comes to: a large one would take seconds."""
    body = fx.Graph()
    maps = body.placeholder("x")
    for name in _EFFICIENTNET[:3]:
        maps = body.call_module(name, (maps,))
    body.output((maps,))
    return NetParts(names=EFFICIENTNET, body=body, linear="conv_head", pool="global_pool")


def _classifier(net: nn.Module, modules: Mapping[str, nn.Module]) -> str:
    timms: Any = net
    found: Any = timms.get_classifier() if hasattr(net, "get_classifier") else None
    if type(found) not in (nn.Linear, Linear) or found.bias is None:
        raise NotDividedError("its classifier is not one linear layer")
    name = next(name for name, module in modules.items() if module is found)
    if cast(dict[str, Any], net.pretrained_cfg)["classifier"] != name:
        raise NotDividedError(f"timm's table does not name its classifier, {name}")
    return name


class _Seen(TorchDispatchMode):
    """What a forward does with its maps."""

    def __init__(self, net: nn.Module):
        super().__init__()  # type: ignore[no-untyped-call]
        self.called: list[str] = []  # modules, as they end
        self.inputs: dict[str, torch.Tensor] = {}  # by module; where it is called again, the last
        self.outputs: dict[str, torch.Tensor] = {}
        self.uses: Counter[int] = Counter()  # by the id of a tensor
        self.has_products = False
        self._alive: list[torch.Tensor] = []  # else another tensor could have the id of one
        for name, module in net.named_modules():
            module.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Callable[..., None]:
        def after(_module: nn.Module, given: tuple[Any, ...], made: Any) -> None:
            self.called.append(name)
            if given and isinstance(given[0], torch.Tensor) and isinstance(made, torch.Tensor):
                self.inputs[name], self.outputs[name] = given[0], made

        return after

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        self.uses.update(map(id, given))
        if str(func).removeprefix("aten.").startswith(_PRODUCTS):
            self.has_products = True
        made = func(*args, **(kwargs or {}))
        self._alive += [leaf for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]
        return made


def _forward(net: nn.Module) -> _Seen:
    """Watch a forward at the resolution of the net's weights, once another one has worked too."""
    height, width = _size(net)
    seen = _Seen(net)
    for step in (_STEP, 0):
        seen.called.clear()
        try:
            with torch.no_grad(), seen:
                net(torch.empty(1, 3, height + step, width + step, device="meta"))
        except Exception as error:  # of any type: it is the net's own
            raise NotDividedError(
                "it runs at one resolution alone, as transformers do, whose tokens change with it "
                f"({_reason(error)})"
            ) from None
    if seen.has_products:
        raise NotDividedError(
            "it has attention: a transformer's tokens change with the resolution, which is more "
            "than a norm and a classifier"
        )
    return seen


def _check_folding(net: nn.Module, seen: _Seen) -> None:
    """Check that batch norms which would be folded into a convolution come right after it."""
    names = {module: name for name, module in net.named_modules()}
    for found in foldable(net):
        norm, convolution = names[found.norm], names[found.convolution]
        made = seen.outputs.get(convolution)
        if made is None or made is not seen.inputs.get(norm) or seen.uses[id(made)] > 1:
            raise NotDividedError(f"its batch norm {norm} does not come right after {convolution}")


def _pool(seen: _Seen, modules: Mapping[str, nn.Module]) -> str:
    found = [name for name in seen.called if isinstance(modules[name], SelectAdaptivePool2d)]
    name = found[-1] if found else ""
    pool, maps = modules[name], seen.inputs.get(name)
    is_average = isinstance(pool, SelectAdaptivePool2d) and pool.pool_type in _AVERAGES
    if not is_average or maps is None or seen.outputs[name].numel() != maps.shape[1]:
        raise NotDividedError("it does not end in the average of its maps over all positions")
    return name


def _norm(seen: _Seen, modules: Mapping[str, nn.Module]) -> str:
    found = [name for name in seen.called if isinstance(modules[name], _NORMS)]
    if not found:
        raise NotDividedError("it has no norm, whose statistics another resolution would put off")
    name = found[-1]
    norm: Any = modules[name]
    given = seen.inputs[name]
    if found.count(name) > 1 or norm.weight is None or norm.bias is None:
        raise NotDividedError(f"its last norm, {name}, has no scale and shift of its own")
    if given.ndim == 4 and given.shape[1] != norm.weight.numel():
        raise NotDividedError(f"its last norm, {name}, takes maps with the channels last")
    return name


class _Tracer(fx.Tracer):
    """Trace what surrounds some modules, and no other module's inside."""

    def __init__(self, names: Iterable[str]):
        super().__init__()
        paths = [name.split(".") for name in names]
        self._opened = {".".join(path[:depth]) for path in paths for depth in range(len(path))}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self._opened


def _traced(net: nn.Module, names: Iterable[str]) -> fx.Graph:
    try:
        return _Tracer(names).trace(net)
    except Exception as error:  # of any type: it is the net's own
        raise NotDividedError(f"its forward cannot be traced ({_reason(error)})") from None


class _Division:
    """The graph of a net's forward, cut at its last norm, its pooling and its classifier."""

    def __init__(self, net: nn.Module, graph: fx.Graph, norm: str, pool: str, classifier: str):
        self._net, self._graph = net, graph
        self._modules = dict(net.named_modules())
        nodes = {node.target: node for node in graph.nodes if node.op == "call_module"}
        self._image = next(node for node in graph.nodes if node.op == "placeholder")
        self._norm, self._pool, self._classifier = (nodes[n] for n in (norm, pool, classifier))
        self._of_image = _followers(self._image)
        self._of_norm, self._of_pool = _followers(self._norm), _followers(self._pool)
        self._names = TensorNames(
            norm=norm,
            classifier=classifier,
            has_statistics=getattr(self._modules[norm], "running_mean", None) is not None,
        )

    def parts(self) -> NetParts:
        """Give the parts."""
        self._check()
        mapped = _input(self._pool)
        if self._norm in self._of_pool:
            kept, carried, linear, mix = mapped, list[fx.Node](), None, None
        else:
            kept, carried = _input(self._norm), self._carried()
            linear = self._linear(kept)
            kept = kept if linear is None else _input(kept)
            mix = [self._norm, *carried]
        pooled, end = self._pool, _input(self._classifier)
        made = self._made([kept, *carried, mapped, pooled])
        if any(maps.ndim != 4 or maps.shape[2:] != made[0].shape[2:] for maps in made[:-1]):
            raise NotDividedError("what it does after its last norm changes the side of its maps")
        return NetParts(
            names=self._names,
            body=_part(self._graph, [self._image], [kept, *carried]),
            carried=tuple(maps.shape[1] for maps in made[1:-2]),
            linear=linear,
            norm_after_pool=self._norm in self._of_pool,
            mix=None if mix in (None, [mapped]) else _part(self._graph, mix, [mapped]),
            pool=str(self._pool.target),
            neck=None if self._is_nothing(made[-1], end) else _part(self._graph, [pooled], [end]),
            neck_takes_maps=made[-1].ndim == 4,
            mixes_channels=mix is not None and not self._is_elementwise(mix, mapped),
        )

    def _check(self) -> None:
        """Check that each part is given what comes before it, and nothing else of the image."""
        names = self._names
        to_classifier = _needed([_input(self._classifier)], [self._pool]) & self._of_image
        if self._classifier not in self._of_pool or not to_classifier <= self._of_pool:
            raise NotDividedError("its classifier is given more than its pooled maps")
        after = _followers(self._classifier)
        if not all(node.op == "output" or self._does_nothing(node) for node in after):
            raise NotDividedError("its classifier's outputs are not yet its logits")
        if self._norm in self._of_pool and names.has_statistics:
            raise NotDividedError(f"its last batch norm, {names.norm}, comes after the pooling")
        if self._norm not in self._of_pool and self._pool not in self._of_norm:
            raise NotDividedError(f"its last norm, {names.norm}, does not lead to its pooling")

    def _does_nothing(self, node: fx.Node) -> bool:
        module = self._modules.get(str(node.target))
        return node.op == "call_module" and isinstance(module, (nn.Identity, nn.Dropout))

    def _is_nothing(self, pooled: torch.Tensor, end: fx.Node) -> bool:
        """Whether the classifier is given what the pooling gives, but for dropout in training."""
        neck = _needed([end], [self._pool])
        return pooled.ndim == 2 and all(map(self._does_nothing, neck))

    def _carried(self) -> list[fx.Node]:
        """Find what is needed after the norm, and made of the image without it."""
        mixing = _needed([_input(self._pool)], [self._norm]) & self._of_norm
        used = {given for node in mixing for given in node.all_input_nodes} & self._of_image
        used -= self._of_norm | {self._norm}
        return [node for node in self._graph.nodes if node in used]

    def _linear(self, made: fx.Node) -> str | None:
        """Name the 1 x 1 convolution that makes the norm's input; None: no such one does."""
        module = self._modules.get(str(made.target)) if made.op == "call_module" else None
        if type(module) is not nn.Conv2d or len(made.users) > 1:
            return None
        plain = module.kernel_size == module.stride == (1, 1) and module.groups == 1
        is_less = module.in_channels <= module.out_channels
        return str(made.target) if plain and not any(module.padding) and is_less else None

    def _is_elementwise(self, given: Sequence[fx.Node], mapped: fx.Node) -> bool:
        """Whether all between the norm and the pooling is done to each number for itself."""
        return all(
            isinstance(self._modules.get(str(node.target)), _ELEMENTWISE)
            if node.op == "call_module"
            else node.target in _SUMS
            for node in _needed([mapped], given)
        )

    def _made(self, nodes: Sequence[fx.Node]) -> Sequence[torch.Tensor]:
        """Run the net's forward as far as is needed to make what nodes give."""
        image = torch.empty(1, 3, *_size(self._net), device="meta")
        try:
            made: Sequence[torch.Tensor] = run(
                self._net, _part(self._graph, [self._image], nodes), image
            )
        except Exception as error:  # of any type: what was traced may be no forward
            raise NotDividedError(f"its forward cannot be traced ({_reason(error)})") from None
        return made


def _size(net: nn.Module) -> tuple[int, int]:
    """Give the resolution of the net's weights, in px."""
    config = cast(dict[str, Any], net.pretrained_cfg)
    _, height, width = config["input_size"]
    return height, width


def _reason(error: Exception) -> str:
    """Give the first sentence of what an error says."""
    said = str(error).strip() or type(error).__name__
    return said.splitlines()[0].partition(". ")[0].rstrip(".")


def _input(node: fx.Node) -> fx.Node:
    (given, *_) = node.args
    assert isinstance(given, fx.Node)
    return given


def _followers(node: fx.Node) -> set[fx.Node]:
    """Find all that is made of what a node gives."""
    found: set[fx.Node] = set()
    ahead = list(node.users)
    while ahead:
        one = ahead.pop()
        if one not in found:
            found.add(one)
            ahead += one.users
    return found


def _needed(outputs: Sequence[fx.Node], given: Sequence[fx.Node]) -> set[fx.Node]:
    """Find all that makes outputs of what is given, and outputs themselves."""
    found: set[fx.Node] = set()
    ahead = list(outputs)
    while ahead:
        one = ahead.pop()
        if one not in found and one not in given:
            found.add(one)
            ahead += one.all_input_nodes
    return found


def _part(graph: fx.Graph, given: Sequence[fx.Node], outputs: Sequence[fx.Node]) -> fx.Graph:
    """Copy the part of a graph that makes outputs of what is given; its output is a tuple."""
    part, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in given:
        copies[node] = part.placeholder(node.name)
    needed = _needed(outputs, given)
    for node in graph.nodes:
        if node in needed:
            copies[node] = part.node_copy(node, lambda one: copies[one])
    part.output(tuple(copies[node] for node in outputs))
    return part
