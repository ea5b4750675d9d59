"""A lane: programs and buffers of one thread, bound to whatever row count a step has."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cadenza.server.runner.cpu.memory import HEAD_ROWS, ModelMemory, aligned
from cadenza.server.runner.litert.capi import LiteRT, Program
from cadenza.server.runner.litert.lane_memory import (
    HEAD_BEGIN,
    HEAD_END,
    ROW_BEGIN,
    ROW_END,
    SHARING,
    STATUS,
    LaneMemory,
)


class Lane:
    """Owns `programs` (the segments, then the head) and closes them."""

    def __init__(
        self,
        litert: LiteRT,
        programs: Sequence[Program],
        *,
        rows: int,
        blocks: int,
        heads: int,
        model: ModelMemory,
    ) -> None:
        self._litert = litert
        self._programs = programs
        self._bound: dict[int, NDArray[np.int64]] = {}
        self._head_bound: dict[int, NDArray[np.int64]] = {}
        self._buffers: list[int] = []
        self._pinned: list[NDArray[np.int64]] = []
        _, _, kv_heads, head_dim, block = model.keys.shape
        vocabulary, hidden = model.embedding.shape
        self.memory = LaneMemory(
            control=np.zeros(8, np.int64),
            programs=np.zeros((len(programs) + 1, 6), np.int64),
            hidden=(aligned((rows, hidden)), aligned((rows, hidden))),
            qkv=aligned((rows, (heads + 2 * kv_heads) * head_dim)),
            attention=aligned((rows, heads, head_dim)),
            query=aligned((rows, heads, head_dim)),
            scores=aligned((blocks, heads // kv_heads, block)),
            head_hidden=aligned((HEAD_ROWS, hidden)),
            logits=aligned((HEAD_ROWS, vocabulary)),
            raw_logits=np.zeros(vocabulary, np.float32),
            order=np.zeros(vocabulary, np.int32),
            counts=np.zeros(vocabulary, np.int32),
            seconds=np.zeros(4, np.float64),
            clock=np.zeros(2, np.int64),
        )

    def assign(self, rows: tuple[int, int], heads: tuple[int, int], sharing: int) -> None:
        """Gives the lane its ranges of the next step's rows and head rows, and how many lanes meet."""
        control = self.memory.control
        control[ROW_BEGIN], control[ROW_END] = rows
        control[HEAD_BEGIN], control[HEAD_END] = heads
        control[SHARING] = sharing
        control[STATUS] = 0
        count = rows[1] - rows[0]
        if count not in self._bound:
            self._bound[count] = self._bind_segments(count)
        segments = self._bound[count]
        self.memory.programs[: len(segments)] = segments
        self.memory.programs[-2] = self._bind_head(HEAD_ROWS)
        tail = (heads[1] - heads[0]) % HEAD_ROWS
        if tail:
            self.memory.programs[-1] = self._bind_head(tail)

    def close(self) -> None:
        """Frees programs and buffers; no kernel uses them any more."""
        for buffer in self._buffers:
            self._litert.release(buffer)
        for program in self._programs:
            program.close()

    def _bind_segments(self, rows: int) -> NDArray[np.int64]:
        memory = self.memory
        hidden = [self._bind(buffer, rows) for buffer in memory.hidden]
        qkv, attention = self._bind(memory.qkv, rows), self._bind(memory.attention, rows)
        calls = []
        for index, program in enumerate(self._programs[:-1]):
            inputs = {"hidden": hidden[(index - 1) % 2 if index else 0], "attention": attention}
            outputs = {"hidden": hidden[index % 2], "qkv": qkv}
            calls.append(self._arguments(program, inputs, outputs))
        return np.array(calls, np.int64)

    def _bind_head(self, rows: int) -> NDArray[np.int64]:
        if rows not in self._head_bound:
            inputs = {"hidden": self._bind(self.memory.head_hidden, rows)}
            outputs = {"logits": self._bind(self.memory.logits, rows)}
            call = self._arguments(self._programs[-1], inputs, outputs)
            self._head_bound[rows] = np.array(call, np.int64)
        return self._head_bound[rows]

    def _bind(self, memory: NDArray[np.float32], rows: int) -> int:
        flat = memory.reshape(memory.shape[0], -1)
        buffer = self._litert.bind(flat, (rows, flat.shape[1]))
        self._buffers.append(buffer)
        return buffer

    def _arguments(self, program: Program, inputs: dict[str, int], outputs: dict[str, int]) -> list[int]:
        """What LiteRtRunCompiledModel takes: model, signature, and counts and addresses of buffer arrays."""
        ins = np.array([inputs[name] for name in program.inputs], np.int64)
        outs = np.array([outputs[name] for name in program.outputs], np.int64)
        self._pinned += [ins, outs]
        return [program.address, 0, len(ins), ins.ctypes.data, len(outs), outs.ctypes.data]
