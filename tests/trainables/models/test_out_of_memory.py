import pytest
import torch

from trainables.models.memory_fit import MemoryFit
from trainables.models.out_of_memory import running_out_told

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation'", 2),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("HIP error: out of memory"),
    RuntimeError("CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.99 GB, other allocations: 1 MB)"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:30])
def test_whoever_says_that_memory_has_run_out_is_understood(error):
    tried = []

    def work(images):
        tried.append(images)
        if images > 3:
            raise error
        return images

    fit = MemoryFit(torch.device("cpu"), minimum=1, error="No room.")
    assert fit.run(work, 9) == 3 and tried == [9, 5, 3]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("Expected all tensors to be on the same device"),
        ValueError("CUDA error: out of memory"),
    ],
    ids=lambda error: str(error)[:30],
)
def test_another_error_stays_what_it_is(error):
    with pytest.raises(type(error)) as raised, running_out_told():
        raise error
    assert raised.value is error
