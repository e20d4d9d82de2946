"""Compiles all kernels in Triton for a GPU that need not be there, as their callers launch them.

python -m tests.kernels.compiling CAPABILITY [SHAPES] prints the kernels, how often each was
compiled, and in how many of its programs for one check threads wait for each other in a loop. All
shapes of outputs, or the first few. The interpreter takes programs that the compiler refuses; what
they find is for others to test.
"""

import sys
from collections import Counter

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from parimend.codes import PowerSums
from parimend.kernels import power_triton, product_triton, screen_triton, stream_triton

TYPES = {
    torch.int8: "i8", torch.uint8: "u8", torch.int32: "i32", torch.int64: "i64",
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16",
}  # fmt: skip
OPTIONS = {"num_warps", "num_stages", "maxnreg"}


def type_of(value):
    if isinstance(value, torch.Tensor):
        return f"*{TYPES[value.dtype]}"
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def waits(program):
    """Whether numbers change hands between threads in a loop of a program, which is as text."""
    depth = loop = 0
    for line in program.splitlines():
        if "scf.while" in line and not loop:
            loop = depth + 1
        if loop and "convert_layout" in line:
            return True
        depth += line.count("{") - line.count("}")
        if loop and depth < loop:
            loop = 0
    return False


class Compiled:
    """In the place of a kernel: compiles it for what it is launched with."""

    def __init__(self, kernel, target, found, waiting):
        self.kernel, self.target, self.found, self.waiting = kernel, target, found, waiting
        self.known = set()

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *args, **kwargs):
        options = {name: kwargs.pop(name) for name in OPTIONS & kwargs.keys()}
        names = self.kernel.arg_names
        constants = {name: value for name, value in kwargs.items() if name in names}
        types = dict(zip(names, map(type_of, args), strict=False))
        key = repr((types, constants, options))
        if key not in self.known:
            self.known.add(key)
            signature = {name: types.get(name, "constexpr") for name in names}
            source = ASTSource(self.kernel, signature, constants)
            done = triton.compile(source, target=self.target, options=options).asm
            assert done["cubin"]
            name = self.kernel.__name__
            checks = constants.get("ROOM"), constants.get("EVERY", 1)
            self.found[name] += 1
            self.waiting[name] += checks == (1, 1) and waits(done["ttgir"])


SHAPES = (  # of outputs, which lead to different programs
    (torch.bfloat16, 1, 16, 256, 700),
    (torch.float16, 3, 2, 100, 3),
    (torch.float32, 1, 1, 4096, 4096),
    (torch.bfloat16, 1, 1, 128, 1 << 17),
)


def launch_all(shapes):
    """Everything that launches kernels."""
    for dtype, k, blocks, n, rows in shapes:
        y, x = (torch.zeros(rows, width, dtype=dtype) for width in (blocks * n, 384))
        P, PW, Pb = torch.ones(k, n), torch.ones(blocks * k, 384), torch.ones(blocks * k)
        screen_triton.any_suspicious_product(y, P, x, PW, Pb, 1.0, 0.0)
        planes = y.reshape(-1, n, 1)[:2]
        for given in (0, 1):
            goal, field = torch.zeros(given * blocks * rows, k), torch.zeros(given * 2, k, 1)
            screen_triton.any_suspicious_row(y.reshape(-1, n), P, goal, 1.0, 0.0)
            screen_triton.any_suspicious_plane(planes, P, field, 1.0, 0.0)
    words = torch.zeros(1 << 18, dtype=torch.int32)
    for pieces in ([(words, 0)], [(words[:4096], 4096 * i) for i in range(70)]):
        for m in (stream_triton.SUMS, 424):
            power_triton.sums_of(PowerSums(1 << 20, m).places, m, pieces)


def main():
    target, found, waiting = GPUTarget("cuda", int(sys.argv[1]), 32), Counter(), Counter()
    for module in (screen_triton, stream_triton, product_triton):
        for name, kernel in list(vars(module).items()):
            if isinstance(kernel, triton.runtime.JITFunction) and launched(name):
                setattr(module, name, Compiled(kernel, target, found, waiting))
    screen_triton.works = power_triton.works = lambda device: True
    launch_all(SHAPES[: int(*sys.argv[2:] or [len(SHAPES)])])
    for name, count in sorted(found.items()):
        print(name, count, waiting[name])


def launched(name):
    """Whether a function in Triton is a kernel, and not a part of one."""
    return name in {"_check_rows", "_check_products", "_check_planes", "_add_up", "_multiply"}


if __name__ == "__main__":
    main()
