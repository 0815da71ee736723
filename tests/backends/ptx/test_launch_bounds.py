"""A kernel's schedule in its PTX: threads of a block, blocks per multiprocessor, registers of a thread."""

import re

import tilec as tc


@tc.kernel
def copy(x: tc.Array, out: tc.Array) -> None:
    i = tc.blocks(tc.cdiv(x.shape[0], 64))
    out.store(i * 64, x.load(i * 64, 64))


def bounds(**schedule: int) -> dict[str, int]:
    array = tc.Spec("f32", ("n",))
    ptx = copy.compile(array, array, target="sm_80", **schedule).ptx
    return {name: int(n) for name, n in re.findall(r"^\.(m\w+) (\d+)", ptx, re.MULTILINE)}


def test_launch_bounds() -> None:
    assert bounds() == {"maxntid": 128}
    wanted = {"maxntid": 256, "minnctapersm": 2, "maxnreg": 64}
    assert bounds(warps=8, blocks_per_sm=2, max_registers=64) == wanted
