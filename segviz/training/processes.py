"""One process or many that train one network together: the same call under `torchrun`."""

import atexit
import os
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Place(NamedTuple):
    """Where this process stands: the `rank`-th of `world` that share each batch, on its own device."""

    rank: int
    world: int
    device: torch.device

    def part(self, batch_size: int) -> slice:
        """This process's part of a batch. Raises ValueError for a batch that cannot be shared evenly."""
        if batch_size % self.world:
            raise ValueError(
                f"a batch of {batch_size} cannot be shared evenly by {self.world} processes: batch_size is that of "
                f"all together, a multiple of {self.world} and no more than the data set holds"
            )
        share = batch_size // self.world
        return slice(self.rank * share, (self.rank + 1) * share)

    def summed(self, numbers: Tensor) -> Tensor:
        """The sum over all processes, which each of them gets."""
        if self.world > 1:
            dist.all_reduce(numbers)
        return numbers

    def gathered(self, thing: Any) -> list:
        """What each process has, in the order of their ranks: any picklable thing on the CPU."""
        things = [thing] * self.world
        if self.world > 1:
            dist.all_gather_object(things, thing)
        return things

    def together(self, model: nn.Module) -> nn.Module:
        """`model` wrapped so that gradients are averaged over all processes; itself where there is one alone.

        On CUDA its batch norms become SyncBatchNorm, in place: statistics are those of the whole batch. On the CPU,
        where torch has no such layer, each process normalises by its own part.
        """
        if self.world == 1:
            return model
        if self.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return nn.parallel.DistributedDataParallel(model, [self.device] if self.device.type == "cuda" else None)

    def share_buffers(self, model: nn.Module) -> None:
        """Gives every process the first one's buffers: running statistics, where each has kept its own."""
        for buffer in model.buffers() if self.world > 1 else ():
            dist.broadcast(buffer, 0)


def place(device: str | torch.device | None = None) -> Place:
    """This process's place. Under `torchrun` the processes are joined (NCCL on CUDA, else Gloo), once, until they end.

    device: default CUDA (of several processes each takes the GPU of its LOCAL_RANK), then MPS, then CPU.
    """
    device = choose_device(device)
    world = dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", 1))
    if world == 1 or not (dist.is_initialized() or "RANK" in os.environ):
        return Place(0, 1, device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(_leave)
    return Place(dist.get_rank(), world, device)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """`device` if given, else CUDA, else MPS, else the CPU. Raises ValueError for one that is not there."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device is 'cpu', 'cuda' or 'mps', but got {str(device)!r}")
    gpus = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[found.type]
    if not gpus or (found.index or 0) >= gpus:
        raise ValueError(
            f"device={str(device)!r} was asked for, but torch sees {gpus or 'no'} {found.type.upper()} device"
            f"{'s' * (gpus != 1)}: leave device out, or run `segviz doctor`"
        )
    return found


def autocast(device: torch.device):
    """bfloat16 where it helps (CUDA), nothing elsewhere."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")
