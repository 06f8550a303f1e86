"""A GPU that computes nothing: what is done on it runs for shapes, dtypes and devices alone.

Tensors on the CPU are real. Those on the GPU are PyTorch's fake tensors: an operator that is given
tensors of two devices is an error, as on a card. What the host does that costs a card its time is
counted by line: waiting for it, copies to it, operators launched on it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch
from weakref import WeakSet

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

from trainables.data import loader
from trainables.models.device import DEVICE_KINDS
from trainables.models.transfer import copy_stream

CUDA = torch.device("cuda", 0)
PACKAGE = str(Path(__file__).parents[2] / "trainables")
aten = torch.ops.aten
# Those that only describe memory, or take it.
NO_KERNEL = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.detach}
# Their results' shapes depend on values, which a GPU is asked for.
COUNTING = {aten.nonzero, aten.bincount, aten.masked_select, aten.repeat_interleave}


@dataclass
class Traffic:
    """What the host did, by the line of ``trainables`` that it did it in."""

    waits: Counter[str] = field(default_factory=Counter)  # until the GPU has come so far
    blocking_copies: Counter[str] = field(default_factory=Counter)  # to the GPU
    copies: Counter[str] = field(default_factory=Counter)  # to the GPU, that nothing waits for
    launches: Counter[str] = field(default_factory=Counter)

    def clear(self) -> None:
        for counter in vars(self).values():
            counter.clear()


class _Gpu(TorchDispatchMode):
    """Runs operators on real tensors where they are on the CPU, on fake ones where on the GPU."""

    def __init__(self, fake: FakeTensorMode, traffic: Traffic, pinned: WeakSet[Any]):
        super().__init__()
        self._fake, self._traffic, self._pinned = fake, traffic, pinned

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        target = kwargs.get("device")
        on_gpu = any(isinstance(t, FakeTensor) for t in tensors)
        if not on_gpu and (target is None or torch.device(target).type == "cpu"):
            with no_dispatch():
                return func(*args, **kwargs)
        if func is torch.ops.prim.device.default:
            return CUDA
        with self:  # in inference mode operators come as they are called, not as they are made up
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        op = func.overloadpacket
        if op is aten._local_scalar_dense:
            self._note(self._traffic.waits)
            return _value(tensors[0].dtype)
        to_host = target is not None and torch.device(target).type == "cpu"
        if op is aten._to_copy and to_host:
            self._note(self._traffic.waits)
            return _read(args[0], kwargs.get("dtype"))
        if op is aten.copy_ and args[0].device.type == "cpu":
            if not self._is_free(args[0], args[2:], kwargs):
                self._note(self._traffic.waits)
            with no_dispatch():
                return args[0].copy_(_read(args[1], args[0].dtype))
        if (op is aten._to_copy and not on_gpu) or (
            op is aten.copy_ and args[1].device.type == "cpu"
        ):
            self._note_copy(args[0] if op is aten._to_copy else args[1], args[2:], kwargs)
        elif op in (aten.index_put, aten.index_put_) and _is_masked(args[1]):
            if args[2].numel() > 1:  # else it fills where the mask is
                self._note(self._traffic.waits)
            return args[0] if op is aten.index_put_ else torch.empty_like(args[0])
        elif op in COUNTING or (op is aten.index and _is_masked(args[1])):
            self._note(self._traffic.waits)
            return self._as_many_as_can_be(op, args, kwargs)
        elif op not in NO_KERNEL and not func.is_view:
            self._note(self._traffic.launches)
        if op is aten.index and any(i is not None and i.device.type == "cpu" for i in args[1]):
            self._note(self._traffic.blocking_copies)  # as of a list of numbers
        if op is aten._fused_sgd_:  # of which PyTorch knows no shapes: it changes what it is given
            assert all(isinstance(t, FakeTensor) for t in tensors)
            return None
        args, kwargs = tree_map_only(torch.Tensor, self._faked, (args, kwargs))
        return self._had(func(*args, **kwargs))

    def _had(self, made: Any) -> Any:
        if not DEVICE_KINDS["cuda"].has_float64:  # as MPS refuses them
            for tensor in tree_leaves(made):
                wide = isinstance(tensor, FakeTensor) and tensor.dtype == torch.float64
                if wide and tensor.device.type == "cuda":
                    raise TypeError("the GPU has no float64")
        return made

    def _faked(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self._fake.from_tensor(tensor)

    def _note_copy(
        self, source: torch.Tensor, rest: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        free = self._is_free(source, rest, kwargs)
        self._note(self._traffic.copies if free else self._traffic.blocking_copies)

    def _is_free(
        self, there: torch.Tensor, rest: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> bool:
        """Whether nothing waits for a copy from or to memory of the host."""
        asks = bool(kwargs.get("non_blocking", rest[0] if rest else False))
        return asks and there.untyped_storage() in self._pinned

    def _as_many_as_can_be(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give a result as if every value were counted or chosen."""
        if op is aten.bincount:
            (labels,), size = args[:1], kwargs.get("minlength", args[-1])
            return torch.empty(int(size), dtype=torch.int64, device=labels.device)
        if op is aten.index:
            values, indices = args
            chosen: list[torch.Tensor | None] = []
            for i in indices:
                masked = i is not None and i.dtype == torch.bool
                chosen += [i.flatten().long()] * i.ndim if masked else [i]
            return op(values, chosen)
        raise NotImplementedError(f"{op} on the GPU")

    @staticmethod
    def _note(counter: Counter[str]) -> None:
        frame = sys._getframe(2)
        while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):
            frame = frame.f_back  # type: ignore[assignment]
        counter[f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame else "?"] += 1


def _is_masked(indices: Any) -> bool:
    return any(i is not None and i.dtype == torch.bool for i in indices)


def _value(dtype: torch.dtype) -> bool | int | float:
    return True if dtype == torch.bool else 0.5 if dtype.is_floating_point else 1


def _read(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """What the host finds where it reads a tensor: any values."""
    dtype = dtype or tensor.dtype
    with no_dispatch():
        if dtype.is_floating_point:
            return torch.rand(tuple(tensor.shape)).to(dtype)
        return torch.ones(tuple(tensor.shape), dtype=dtype)


def _backward(loss: torch.Tensor, *_: None, **__: bool | tuple[()] | None) -> None:
    """Give each parameter that the loss depends on a gradient; the engine wants a real GPU."""
    assert loss.requires_grad and loss.device.type == "cuda" and loss.grad_fn is not None
    ahead: list[Any] = [loss.grad_fn]
    seen: set[Any] = set()
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        ahead += [following for following, _ in node.next_functions]
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            assert leaf.device.type == "cuda"
            gradient = torch.empty_like(leaf)
            leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient


def _grad(output: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor]:
    """Give a gradient by ``x`` on the GPU, as :func:`_backward` does."""
    assert output.requires_grad and output.device.type == x.device.type == "cuda"
    return (torch.empty_like(x),)


def _apply(module: torch.nn.Module, fn: Callable[..., Any], recurse: bool = True) -> object:
    """Move a module by replacing its tensors: a real tensor cannot become a fake one in place."""
    for child in module.children() if recurse else ():
        child._apply(fn)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            moved = fn(parameter.detach())
            module._parameters[name] = torch.nn.Parameter(moved, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        module._buffers[name] = None if buffer is None else fn(buffer)
    return module


@contextmanager
def fake_cuda(*, has_float64: bool = True) -> Iterator[Traffic]:
    """There is a GPU within the block; yields what the host does beside it."""
    traffic, pinned = Traffic(), WeakSet[Any]()
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    empty, generator, save, load = torch.empty, torch.Generator, torch.save, torch.load

    def empty_or_pinned(*size: Any, pin_memory: bool = False, **named: Any) -> torch.Tensor:
        made = empty(*size, **named)
        if pin_memory:
            assert made.device.type == "cpu"
            pinned.add(made.untyped_storage())
        return made

    def event() -> Mock:
        return Mock(synchronize=lambda: _Gpu._note(traffic.waits))

    def save_read(state: object, file: Any) -> None:
        read = tree_map_only(FakeTensor, lambda tensor: tensor.cpu(), state)
        with _disable_current_modes():
            save(read, file)

    def load_real(*args: Any, **named: Any) -> Any:
        with _disable_current_modes():
            return load(*args, **named)

    replaced: dict[str, Any] = {
        "torch.empty": empty_or_pinned,
        "torch.Generator": lambda device=None: generator(),
        "torch.save": save_read,
        "torch.load": load_real,
        "torch.autograd.backward": _backward,
        "torch.autograd.grad": _grad,
        "torch.nn.Module._apply": _apply,
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.get_device_capability": lambda *_: (8, 0),
        "torch.cuda.is_bf16_supported": lambda *_, **__: True,
        "torch.cuda.get_device_name": lambda *_: "no GPU",
        "torch.cuda.get_rng_state": lambda *_: empty(16, dtype=torch.uint8).zero_(),
        "torch.cuda.set_rng_state": lambda *_: None,
        "torch.cuda.manual_seed_all": lambda *_: None,
        "torch.cuda.empty_cache": lambda: None,
        "torch.cuda.synchronize": lambda *_: _Gpu._note(traffic.waits),
        "torch.cuda.is_current_stream_capturing": lambda: False,
        # Nothing is computed, so that nothing is too early: test_copy_stream.py has streams.
        "torch.cuda.Stream": Mock(),
        "torch.cuda.Event": lambda **_: event(),
        "torch.cuda.stream": lambda _: nullcontext(),
        "torch.cuda.current_stream": lambda *_: Mock(
            record_event=event, synchronize=event().synchronize
        ),
        "torch.Tensor.record_stream": lambda *_: None,
    }
    with ExitStack() as stack:
        # It sees no GPU, and so puts a stand-in for CUDA's guard of devices into place.
        stack.enter_context(fake)
        for name, stand_in in replaced.items():
            stack.enter_context(patch(name, stand_in))
        kind = replace(DEVICE_KINDS["cuda"], has_float64=has_float64)
        stack.enter_context(patch.dict(DEVICE_KINDS, {"cuda": kind}))
        stack.enter_context(_Gpu(fake, traffic, pinned))
        # Tensors and streams of another block's GPU are none of this one's.
        for kept in (loader._rows, copy_stream._stream_of):
            kept.cache_clear()
            stack.callback(kept.cache_clear)
        yield traffic
