"""Tensors of all types that can be stored, compared by their bits."""

import torch

from zarr_gpu import tensors

DTYPES = list(tensors.torch_dtypes(torch).values())


def random_tensor(dtype, shape):
    """Random bits, NaN and infinities included."""
    generator = torch.Generator().manual_seed(5)
    nbytes = torch.empty(0, dtype=dtype).element_size()
    top = 2 if dtype is torch.bool else 256
    data = torch.randint(0, top, (*shape, nbytes), generator=generator, dtype=torch.uint8)
    return data.view(dtype)[..., 0]


def bits(tensor):
    return tensor.detach().contiguous().view(-1, 1)[:, :1].contiguous().view(torch.uint8)
