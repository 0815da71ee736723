"""The race check compiled: SharedRace.examine and the notes after it, for one instruction's granules.

    flags = shadow_check()(...)      0: no finding, and the access is noted; else nothing was, and numpy
    tells the story
The first pass only looks, the second only notes: a finding is never half noted.
"""

from __future__ import annotations

import ctypes
from functools import cache
from string import Template
from typing import TYPE_CHECKING

import numpy as np

from tilec.backends.emulator.fast import stored
from tilec.backends.emulator.ptx_types import Array
from tilec.backends.emulator.stamp import AGENT, ATOMIC, CLOCK, PC

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilec.backends.emulator.machine import Machine
    from tilec.backends.emulator.race import SharedRace

WRITE, STRONG, WITHIN, NOTE = 1, 2, 4, 8
ENOUGH = 200_000  # granules that a launch checks before compiled code pays for itself


@cache
def shadow_check() -> Callable[..., int]:
    code = stored(Template(MODULE).substitute(agent=AGENT, atomic=ATOMIC, clock=CLOCK, pc=PC))
    pointers, numbers = [ctypes.c_void_p] * 9, [ctypes.c_int64] * 5
    function = ctypes.CFUNCTYPE(ctypes.c_int64, *pointers, *numbers)(code.address("shadow"))
    function.code = code  # type: ignore[attr-defined]  # machine code lives as long as what calls it
    return function


def check(race: SharedRace, m: Machine, lanes: Array, granule: Array, flags: int, stamp: int) -> int:
    """`stamp`: the pc and the atomic bit in their places. Gives 1 an unknown write, 2 one of this warp, 4 an
    unknown read, 8 (noted all the same) a granule that several warps write."""
    lanes, granule = np.ascontiguousarray(lanes), np.ascontiguousarray(granule)
    arrays = (
        granule,
        lanes,
        race.written,
        race.read,
        race.read_pc,
        race.flat_clock,
        race.row,
        race.me,
        m.lane,
    )
    places = [a.__array_interface__["data"][0] for a in arrays]
    return shadow_check()(*places, len(granule), race.agents, race.width, flags, stamp)


MODULE = """
define i64 @shadow(ptr %granules, ptr %lanes, ptr %written, ptr %read, ptr %readpc, ptr %clock, ptr %rows,
ptr %warps,
                   ptr %places, i64 %n, i64 %agents, i64 %width, i64 %flags, i64 %stamp) {
entry:
  %w1 = and i64 %flags, 1
  %write = icmp ne i64 %w1, 0
  %s1 = and i64 %flags, 2
  %strong = icmp ne i64 %s1, 0
  %i1 = and i64 %flags, 4
  %within = icmp ne i64 %i1, 0
  %n1 = and i64 %flags, 8
  %notes = icmp ne i64 %n1, 0
  br label %look
look:
  %i = phi i64 [ 0, %entry ], [ %i.next, %look.end ]
  %bad = phi i64 [ 0, %entry ], [ %bad.next, %look.end ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %look.body, label %looked
look.body:
  %gp = getelementptr i64, ptr %granules, i64 %i
  %g = load i64, ptr %gp
  %lp = getelementptr i64, ptr %lanes, i64 %i
  %l = load i64, ptr %lp
  %rp = getelementptr i64, ptr %rows, i64 %l
  %row = load i64, ptr %rp
  %wp = getelementptr i64, ptr %warps, i64 %l
  %warp = load i64, ptr %wp
  %pp = getelementptr i64, ptr %places, i64 %l
  %place = load i64, ptr %pp
  %sp = getelementptr i64, ptr %written, i64 %g
  %old = load i64, ptr %sp
  %old5 = lshr i64 %old, $agent
  %author = and i64 %old5, 1023
  %moment = lshr i64 %old, $clock
  %base = mul i64 %row, %width
  %ka = add i64 %base, %author
  %kp = getelementptr i64, ptr %clock, i64 %ka
  %known = load i64, ptr %kp
  %oa = add i64 %base, %warp
  %op = getelementptr i64, ptr %clock, i64 %oa
  %own = load i64, ptr %op
  %atom = and i64 %old, $atomic
  %atomic = icmp ne i64 %atom, 0
  %forgiven = and i1 %atomic, %strong
  %counts = xor i1 %forgiven, true
  %later = icmp sgt i64 %moment, %known
  %unknown = and i1 %later, %counts
  %same = icmp eq i64 %author, %warp
  %now = icmp eq i64 %moment, %own
  %oldlane = and i64 %old, 31
  %other = icmp ne i64 %oldlane, %place
  %m1 = and i1 %same, %now
  %m2 = and i1 %m1, %other
  %m3 = and i1 %m2, %within
  %mine = and i1 %m3, %counts
  %b1 = zext i1 %unknown to i64
  %b2 = select i1 %mine, i64 2, i64 0
  %b12 = or i64 %b1, %b2
  %found = or i64 %bad, %b12
  br i1 %write, label %readers, label %look.end
readers:
  %ra = mul i64 %g, %agents
  br label %reader
reader:
  %a = phi i64 [ 0, %readers ], [ %a.next, %reader ]
  %early = phi i64 [ 0, %readers ], [ %early.next, %reader ]
  %rai = add i64 %ra, %a
  %rrp = getelementptr i32, ptr %read, i64 %rai
  %rr = load i32, ptr %rrp
  %rr64 = sext i32 %rr to i64
  %ca = add i64 %base, %a
  %cp = getelementptr i64, ptr %clock, i64 %ca
  %c = load i64, ptr %cp
  %late = icmp sgt i64 %rr64, %c
  %e4 = select i1 %late, i64 4, i64 0
  %early.next = or i64 %early, %e4
  %a.next = add i64 %a, 1
  %amore = icmp slt i64 %a.next, %agents
  br i1 %amore, label %reader, label %look.end
look.end:
  %extra = phi i64 [ 0, %look.body ], [ %early.next, %reader ]
  %bad.next = or i64 %found, %extra
  %i.next = add i64 %i, 1
  br label %look
looked:
  %fine = icmp eq i64 %bad, 0
  %go = and i1 %fine, %notes
  br i1 %go, label %note, label %done
note:
  %j = phi i64 [ 0, %looked ], [ %j.next, %note.end ]
  %jmore = icmp slt i64 %j, %n
  br i1 %jmore, label %note.body, label %noted
note.body:
  %jgp = getelementptr i64, ptr %granules, i64 %j
  %jg = load i64, ptr %jgp
  %jlp = getelementptr i64, ptr %lanes, i64 %j
  %jl = load i64, ptr %jlp
  %jrp = getelementptr i64, ptr %rows, i64 %jl
  %jrow = load i64, ptr %jrp
  %jwp = getelementptr i64, ptr %warps, i64 %jl
  %jwarp = load i64, ptr %jwp
  %jbase = mul i64 %jrow, %width
  %joa = add i64 %jbase, %jwarp
  %jop = getelementptr i64, ptr %clock, i64 %joa
  %jown = load i64, ptr %jop
  br i1 %write, label %put, label %seen
put:
  %jpp = getelementptr i64, ptr %places, i64 %jl
  %jplace = load i64, ptr %jpp
  %high = shl i64 %jown, $clock
  %agent = shl i64 %jwarp, $agent
  %t1 = or i64 %high, %stamp
  %t2 = or i64 %t1, %agent
  %t3 = or i64 %t2, %jplace
  %jsp = getelementptr i64, ptr %written, i64 %jg
  store i64 %t3, ptr %jsp
  br label %note.end
seen:
  %jra = mul i64 %jg, %agents
  %jrb = add i64 %jra, %jwarp
  %jreadp = getelementptr i32, ptr %read, i64 %jrb
  %jown32 = trunc i64 %jown to i32
  store i32 %jown32, ptr %jreadp
  %pc = lshr i64 %stamp, $pc
  %pc32 = trunc i64 %pc to i32
  %jpcp = getelementptr i32, ptr %readpc, i64 %jg
  store i32 %pc32, ptr %jpcp
  br label %note.end
note.end:
  %j.next = add i64 %j, 1
  br label %note
noted:
  %plain = xor i1 %strong, true
  %contest = and i1 %write, %plain
  br i1 %contest, label %again, label %done
again:
  %k = phi i64 [ 0, %noted ], [ %k.next, %again.body ]
  %lost = phi i64 [ 0, %noted ], [ %lost.next, %again.body ]
  %kmore = icmp slt i64 %k, %n
  br i1 %kmore, label %again.body, label %done
again.body:
  %kgp = getelementptr i64, ptr %granules, i64 %k
  %kg = load i64, ptr %kgp
  %klp = getelementptr i64, ptr %lanes, i64 %k
  %kl = load i64, ptr %klp
  %kwp = getelementptr i64, ptr %warps, i64 %kl
  %kwarp = load i64, ptr %kwp
  %ksp = getelementptr i64, ptr %written, i64 %kg
  %kold = load i64, ptr %ksp
  %k5 = lshr i64 %kold, $agent
  %kauthor = and i64 %k5, 1023
  %differs = icmp ne i64 %kauthor, %kwarp
  %d8 = select i1 %differs, i64 8, i64 0
  %lost.next = or i64 %lost, %d8
  %k.next = add i64 %k, 1
  br label %again
done:
  %result = phi i64 [ %bad, %looked ], [ 0, %noted ], [ %lost, %again ]
  ret i64 %result
}
"""
