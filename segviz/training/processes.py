"""One process or many that train one network together: the same call under `torchrun`."""

import atexit
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

PATIENCE = timedelta(minutes=30)  # for a process that is there: it may save, draw or score while the others wait
JOIN = timedelta(minutes=10)  # for all to come
ANSWER = 5.0  # seconds for an answer to the question of who is left
_store = None  # where the processes that were joined leave each other words
_names: list[str] = []  # of the processes that were joined, by rank


class Gone(ConnectionError):
    """Another process of this run does not answer any more. ranks: which, as far as can be told."""

    def __init__(self, words: str, ranks: list[int]):
        super().__init__(words)
        self.ranks = ranks


class Place(NamedTuple):
    """Where this process stands: the `rank`-th of `world` that share each batch, on its own device.

    All that asks the others raises `Gone` in words where one of them has ended, at once or, where its machine has gone
    without a word, after `PATIENCE`."""

    rank: int
    world: int
    device: torch.device

    def part(self, batch_size: int) -> slice:
        """This process's part of a batch: as many as the others have, or one less. Raises ValueError for a batch that
        is too small for all to have one."""
        if batch_size < self.world:
            raise ValueError(
                f"a batch of {batch_size} cannot be shared by {self.world} processes: batch_size is that of all "
                "together, at most what the data set holds. Start fewer processes"
            )
        return slice(self.rank * batch_size // self.world, (self.rank + 1) * batch_size // self.world)

    def summed(self, numbers: Tensor) -> Tensor:
        """The sum over all processes, which each of them gets."""
        if self.world > 1:
            with self.asking():
                dist.all_reduce(numbers)
        return numbers

    def gathered(self, thing: Any) -> list:
        """What each process has, in the order of their ranks: any picklable thing on the CPU."""
        things = [thing] * self.world
        if self.world > 1:
            with self.asking():
                dist.all_gather_object(things, thing)
        return things

    def from_first(self, thing: Any) -> Any:
        """What the first process has, in all of them: any picklable thing on the CPU."""
        things = [thing]
        if self.world > 1:
            with self.asking():
                dist.broadcast_object_list(things, 0)
        return things[0]

    def tensors_from_first(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The first process's tensors by name, on the CPU, in all of them; one after the other, as they may be many."""
        kinds = self.from_first({name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()})
        if self.world == 1:
            return tensors
        received = {}
        for name, (shape, kind) in kinds.items():
            sent = tensors[name].to(self.device) if self.rank == 0 else torch.empty(shape, dtype=kind).to(self.device)
            with self.asking():
                dist.broadcast(sent, 0)
            received[name] = sent.cpu()
        return received

    def together(self, model: nn.Module) -> nn.Module:
        """`model` with the first process's weights in all of them, to train with `averaged`.

        On CUDA it is wrapped in DistributedDataParallel, which averages gradients while it computes them, and its batch
        norms become SyncBatchNorm, in place: statistics are those of the whole batch. On the CPU, where torch has no
        such layer, each process normalises by its own part.
        """
        if self.world == 1:
            return model
        with self.asking():
            if self.device.type == "cuda":
                nn.SyncBatchNorm.convert_sync_batchnorm(model)
                return nn.parallel.DistributedDataParallel(model, [self.device])
            for weight in model.parameters():
                dist.broadcast(weight.data, 0)
        self.share_buffers(model)
        return model

    def averaged(self, model: nn.Module) -> None:
        """Averages the gradients over all processes, on the CPU: laid end to end, in the model's order. So the sums of
        three processes and more are always added in the same order, and to go on with a run is exact; as
        DistributedDataParallel lays them, who adds first changes after the first step."""
        if self.world == 1 or self.device.type == "cuda":
            return
        parts = [weight.grad for weight in model.parameters() if weight.grad is not None]
        whole = self.summed(torch.cat([part.flatten() for part in parts])) / self.world
        for part, mean in zip(parts, whole.split([part.numel() for part in parts]), strict=True):
            part.copy_(mean.view_as(part))

    def share_buffers(self, model: nn.Module) -> None:
        """Gives every process the first one's buffers: running statistics, where each has kept its own."""
        with self.asking():
            for buffer in model.buffers() if self.world > 1 else ():
                dist.broadcast(buffer, 0)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """A block that needs the other processes: torch's errors about their silence become `Gone`."""
        try:
            yield
        except RuntimeError as error:
            if self.world == 1 or not _about_others(error):
                raise
            ranks = self._silent()
            told = [f"rank {rank} ({_names[rank]})" if _names else f"rank {rank}" for rank in ranks]
            who = ", ".join(told) or "another process"
            raise Gone(
                f"{who} is gone, of {self.world} processes that train together: it was ended, its machine does not "
                f"answer, or it has said itself what went wrong ({_reason(error)})", ranks
            ) from None  # fmt: skip

    def _silent(self) -> list[int]:
        """The ranks that are gone: of more than two processes those that do not answer, where there is a place to ask,
        which the first process or torchrun keeps."""
        if self.world == 2:
            return [1 - self.rank]
        until, silent = time.monotonic() + ANSWER, [rank for rank in range(self.world) if rank != self.rank]
        if _store is None:
            return []
        try:  # at the store's door first, once it may be closed: torch's own complaint of that is long
            time.sleep(0.5)
            socket.create_connection((os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]), ANSWER).close()
            _store.set(f"left {self.rank}", "here")
            while silent and time.monotonic() < until:
                silent = [rank for rank in silent if not _store.check([f"left {rank}"])]
                time.sleep(0.1)
        except (OSError, RuntimeError):
            return [0] if self.rank else []
        return silent


def _reason(error: RuntimeError) -> str:
    """Of what torch says, its first line without the place in torch's code and without advice."""
    return str(error).splitlines()[0].split("] ", 1)[-1].split(". This")[0]


def _about_others(error: RuntimeError) -> bool:
    """Whether torch complains of another process, not of what this one does."""
    words = str(error).lower()
    return isinstance(error, dist.DistError) or any(part in words for part in ("gloo", "nccl", "peer", "timed out"))


def place(device: str | torch.device | None = None) -> Place:
    """This process's place. Under `torchrun` the processes are joined (NCCL on CUDA, else Gloo), once, until they end.

    device: default CUDA (of several processes each takes the GPU of its LOCAL_RANK), then MPS, then CPU; of several
    processes without CUDA: the CPU. Raises ValueError where there are more processes on this machine than GPUs.
    """
    world = dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", 1))
    alone = world == 1 or not (dist.is_initialized() or "RANK" in os.environ)
    if not alone and device is None and not torch.cuda.is_available():
        device = "cpu"
    device = choose_device(device)
    if alone:
        return Place(0, 1, device)
    if device.type == "cuda":
        device = _own_gpu()
    if not dist.is_initialized():
        _join("nccl" if device.type == "cuda" else "gloo")
    return Place(dist.get_rank(), world, device)


def _own_gpu() -> torch.device:
    local, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local >= count:
        raise ValueError(f"each process takes a GPU of its own, and process {local + 1} of this machine finds {count}: "
                         f"torchrun --nproc-per-node {count}, or choose the device cpu")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _join(backend: str) -> None:
    """Joins the processes, once all of them have come. Raises `Gone` in words where they do not, within `JOIN`."""
    global _store, _names
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        _store, rank, world = next(rendezvous("env://", timeout=JOIN))
    except dist.DistError as error:
        raise Gone(f"the processes cannot meet at {where}: rank 0 runs there and has that port, the others reach it "
                   f"({_reason(error)})", [0]) from None  # fmt: skip
    _store.set(f"name {rank}", f"process {os.getpid()} on {socket.gethostname()}")
    until, missing = time.monotonic() + JOIN.total_seconds(), list(range(world))
    while missing := [other for other in missing if not _store.check([f"name {other}"])]:
        if time.monotonic() > until:
            raise Gone(f"of {world} processes rank {', '.join(map(str, missing))} did not come to {where}", missing)
        time.sleep(0.1)
    _names = [_store.get(f"name {other}").decode() for other in range(world)]
    dist.init_process_group(backend, store=_store, rank=rank, world_size=world, timeout=PATIENCE)
    atexit.register(_leave)


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
