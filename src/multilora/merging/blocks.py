"""Merging one file: blocks of rows, each read, summed in fp32, rounded and written by one thread.

No thread waits for another, and every block has its fixed size and place: the result does not depend on how many
threads there are, and memory holds a few blocks whatever the tensors' sizes are.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from multilora.errors import InputError
from multilora.merging.changes import summed_factors
from multilora.merging.files import InputFile, OutputFile
from multilora.merging.plan import PlannedShard, PlannedTensor
from multilora.storage.rounding import RoundingError, TensorRounding
from multilora.storage.safetensors import all_finite, dtype_name
from multilora.tuner.factors import Factors

BLOCK = 1 << 20  # numbers: 4 MiB in fp32, small enough to stay near a core
_MOST_THREADS = 8
_PER_THREAD = 2  # blocks that wait or are at work


@dataclass(frozen=True)
class _Done:
    """What became of a block: its bytes in the result, its error of rounding, and the seconds that it took."""

    size: int
    rounding: RoundingError | None
    seconds: float
    rounding_seconds: float


class BlockWorkers:
    """Threads that merge blocks; made by `block_workers`.

    Args:
        threads: how many.
        report: measure the error of rounding.

    Attributes:
        report: as given.
        seconds: that the threads worked, added up.
        rounding_seconds: those of them that measured the error of rounding.
    """

    def __init__(self, threads: int, report: bool) -> None:
        self.report = report
        self.seconds = self.rounding_seconds = 0.0
        self._most = threads * _PER_THREAD
        self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        self._buffers = threading.local()
        self._waiting: deque[tuple[Future[_Done], Callable[[_Done], None]]] = deque()

    def submit(self, block: _Block, then: Callable[[_Done], None]) -> None:
        """Have a block merged; waits while enough others are on their way.

        `then` is called by the thread that submits, in the order of the blocks.

        Raises:
            InputError: an earlier block could not be read, merged or written.
        """
        while len(self._waiting) >= self._most:
            self._take()
        self._waiting.append((self._pool.submit(block.run, self._buffers, self.report), then))

    def finish(self) -> None:
        """Wait for all blocks. Errors as of `submit`."""
        while self._waiting:
            self._take()

    def drop(self) -> None:
        """Forget the blocks that wait; those at work come to their end, so that their files may be closed."""
        for future, _ in self._waiting:
            future.cancel()
        for future, _ in self._waiting:
            if not future.cancelled():
                future.exception()
        self._waiting.clear()

    def close(self) -> None:
        """End the threads."""
        self.drop()
        self._pool.shutdown(wait=True)

    def _take(self) -> None:
        future, then = self._waiting[0]
        done = future.result()
        self._waiting.popleft()
        self.seconds += done.seconds
        self.rounding_seconds += done.rounding_seconds
        then(done)


@contextmanager
def block_workers(report: bool) -> Generator[BlockWorkers]:
    """As many threads as torch uses, 8 at most, each of which computes alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    workers = BlockWorkers(min(threads, _MOST_THREADS), report)
    try:
        yield workers
    finally:
        workers.close()
        torch.set_num_threads(threads)


def merge_shard(
    shard: PlannedShard, path: Path, workers: BlockWorkers, advance: Callable[[int], None]
) -> list[TensorRounding]:
    """Write one file of the result; it is on the disk when this returns.

    Args:
        shard: what is to be in it.
        path: the file; replaced if it exists. After an error it is of no use.
        workers: merge the blocks.
        advance: called with the number of bytes written.

    Returns:
        The error of rounding of the tensors that may have been rounded; empty where the workers measure none.

    Raises:
        InputError: something cannot be read or written, or does not fit into the dtype.
    """
    found = {tensor.name: RoundingError() for tensor in shard.tensors if workers.report and tensor.rounds}

    def taken(tensor: PlannedTensor) -> Callable[[_Done], None]:
        def take(done: _Done) -> None:
            advance(done.size)
            if done.rounding is not None:
                found[tensor.name].merge(done.rounding)

        return take

    sources: dict[Path, InputFile] = {}
    with OutputFile(path, shard.size) as target:
        try:
            target.write(shard.header, 0)
            advance(len(shard.header))
            place = len(shard.header)
            for tensor in shard.tensors:
                file = tensor.source.file
                if file not in sources:
                    sources[file] = InputFile(file)
                for block in _blocks(tensor, sources[file], target, place):
                    workers.submit(block, taken(tensor))
                place += tensor.size
            workers.finish()
        finally:
            workers.drop()
            for source in sources.values():
                source.close()
    return [_rounding(tensor, found[tensor.name]) for tensor in shard.tensors if tensor.name in found]


def _rounding(tensor: PlannedTensor, error: RoundingError) -> TensorRounding:
    return TensorRounding(
        name=tensor.name,
        largest=error.largest,
        relative=error.relative,
        relative_to_delta=error.relative_to_delta if error.delta else None,
        lost=error.lost_share if tensor.addends else None,
    )


def _blocks(tensor: PlannedTensor, source: InputFile, target: OutputFile, place: int) -> Iterator[_Block]:
    """Whole rows, about `BLOCK` numbers; of a tensor that is only copied, as many bytes."""
    if tensor.is_copied:
        step = 4 * BLOCK
        for begin in range(0, tensor.size, step):
            yield _Block(tensor, source, target, place, 1, begin, min(begin + step, tensor.size), torch.uint8, None)
        return
    shape = tensor.source.shape
    width = max(1, shape[-1]) if shape else 1
    rows = tensor.size // tensor.dtype.itemsize // width
    dtype = torch.promote_types(tensor.source_dtype, torch.float32)
    for addend in tensor.addends:
        dtype = torch.promote_types(dtype, addend.adapter.layers[addend.layer].dtype)
    factors = summed_factors(tensor.addends, dtype) if tensor.addends else None
    step = max(1, BLOCK // width)
    for begin in range(0, rows, step):
        yield _Block(tensor, source, target, place, width, begin, min(begin + step, rows), dtype, factors)


@dataclass(frozen=True)
class _Block:
    """Rows [begin, end) of a tensor, `width` numbers each (bytes, where they are only copied).

    `place`: where the tensor's bytes begin in the target. `dtype`: in which the sum is formed. `factors`: of ΔW.
    """

    tensor: PlannedTensor
    source: InputFile
    target: OutputFile
    place: int
    width: int
    begin: int
    end: int
    dtype: torch.dtype
    factors: Factors | None

    def run(self, buffers: threading.local, report: bool) -> _Done:
        """Read, merge and write. Called by one of several threads, each with its own buffers."""
        began = time.perf_counter()
        tensor, count = self.tensor, (self.end - self.begin) * self.width
        if tensor.is_copied:
            raw = _buffer(buffers, "stored", torch.uint8, count)
            self._read(raw)
            self.target.write(_bytes_of(raw), self.place + self.begin)
            return _Done(count, None, time.perf_counter() - began, 0.0)
        shape = (self.end - self.begin, self.width)
        stored = _buffer(buffers, "stored", tensor.source_dtype, count).view(shape)
        self._read(stored)
        exact = _buffer(buffers, "exact", self.dtype, count).view(shape).copy_(stored)
        delta = None
        if self.factors is not None:
            delta = _buffer(buffers, "delta", self.dtype, count).view(shape)
            self.factors.delta_rows(self.begin, self.end, transposed=tensor.transposed, out=delta)
            exact.add_(delta)
        merged = _buffer(buffers, "merged", tensor.dtype, count).view(shape).copy_(exact)
        if not all_finite(merged):
            raise InputError(self._not_finite(stored, exact))
        self.target.write(_bytes_of(merged), self.place + self.begin * self.width * tensor.dtype.itemsize)
        size = count * tensor.dtype.itemsize
        middle = time.perf_counter()
        if not (report and tensor.rounds):
            return _Done(size, None, middle - began, 0.0)
        rounding = RoundingError()
        scratch = _buffer(buffers, "difference", self.dtype, count).view(shape)
        rounding.add(stored.to(tensor.dtype), delta, exact, merged, out=scratch)
        end = time.perf_counter()
        return _Done(size, rounding, end - began, end - middle)

    def _read(self, into: Tensor) -> None:
        begin = self.begin * self.width * into.element_size()
        self.source.read_into(_bytes_of(into), self.tensor.source.begin + begin)

    def _not_finite(self, stored: Tensor, exact: Tensor) -> str:
        if not all_finite(stored):
            return (
                f"{self.tensor.source.file}: {self.tensor.source.name!r} has numbers that are not finite (NaN or "
                "infinity), so there is nothing to add to"
            )
        return (
            f"{self.tensor.name!r} does not fit into {dtype_name(self.tensor.dtype)}: its largest number is "
            f"{float(exact.abs().max()):.3g} after merging. Merge with dtype (--dtype) bfloat16 or float32"
        )


def _buffer(buffers: threading.local, name: str, dtype: torch.dtype, count: int) -> Tensor:
    """The first `count` numbers of this thread's buffer of that name, which grows when it is too small."""
    size = count * dtype.itemsize
    raw: Tensor | None = getattr(buffers, name, None)
    if raw is None or len(raw) < size:
        raw = torch.empty(size, dtype=torch.uint8)
        setattr(buffers, name, raw)
    return raw[:size].view(dtype)


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.view(-1).view(torch.uint8).numpy().data
