"""The board where launches are put up for helping threads: a few words of memory, and the code around them.

    call(board, "offer")          opens the job that the board's words describe: helpers may enter
    call(board, "lead", ...)      runs it here too, closes it, and waits a little for those who are in it
    call(board, "serve", ...)     a helper: enters what is open, until it has paused too often in vain

A job is one word: its number, whether it is open, how many run it. Who enters adds one, while it is open.
"""

from __future__ import annotations

from functools import cache

from tilec.backends import llvm

SERIAL, OPEN = 20, 1 << 16  # the bit where numbers begin, and the one that says that helpers may enter
JOB, FUNCTION, WORDS, TABLES, ARENAS, WANTED, STATE, PATIENCE = 0, 8, 9, 10, 11, 12, 13, 14
SIZE = 24  # words; the job has a cache line of its own
PAUSE = {"x86": "@llvm.x86.sse2.pause()", "aarch64": "@llvm.aarch64.hint(i32 1)"}
DECLARED = {"x86": "@llvm.x86.sse2.pause()", "aarch64": "@llvm.aarch64.hint(i32)"}

TEXT = """
declare void {declared}

define void @offer(ptr %board) {{
  %job = load atomic i64, ptr %board acquire, align 8
  %old = lshr i64 %job, {serial}
  %new = add i64 %old, 1
  %number = shl i64 %new, {serial}
  %opened = or i64 %number, {open}
  store atomic i64 %opened, ptr %board seq_cst, align 8
  ret void
}}

define i64 @lead(ptr %board, ptr %scratch, i64 %pauses) {{
{fields}
  call void %function(ptr %words, ptr %state, ptr %scratch, ptr %tables)
  %left = call i64 @close(ptr %board, i64 %pauses)
  ret i64 %left
}}

define i64 @close(ptr %board, i64 %pauses) {{
entry:
  %was = atomicrmw and ptr %board, i64 {closed} seq_cst
  br label %look
look:
  %i = phi i64 [0, %entry], [%next, %wait]
  %job = load atomic i64, ptr %board acquire, align 8
  %left = and i64 %job, {running}
  %done = icmp eq i64 %left, 0
  %tired = icmp sge i64 %i, %pauses
  %stop = or i1 %done, %tired
  br i1 %stop, label %exit, label %wait
wait:
  call void {pause}
  %next = add i64 %i, 1
  br label %look
exit:
  ret i64 %left
}}

define i64 @serve(ptr %board, i64 %me, i64 %served) {{
entry:
  %wanted.at = getelementptr i64, ptr %board, i64 {wanted}
  %patience.at = getelementptr i64, ptr %board, i64 {patience}
  br label %look
look:
  %last = phi i64 [%served, %entry], [%last, %wait], [%last, %take], [%number, %run]
  %i = phi i64 [0, %entry], [%next, %wait], [%i, %take], [0, %run]
  %job = load atomic i64, ptr %board acquire, align 8
  %number = lshr i64 %job, {serial}
  %bit = and i64 %job, {open}
  %open = icmp ne i64 %bit, 0
  %fresh = icmp ne i64 %number, %last
  %wanted = load atomic i64, ptr %wanted.at monotonic, align 8
  %meant = icmp slt i64 %me, %wanted
  %both = and i1 %open, %fresh
  %all = and i1 %both, %meant
  br i1 %all, label %take, label %wait
wait:
  call void {pause}
  %next = add i64 %i, 1
  %patience = load atomic i64, ptr %patience.at monotonic, align 8
  %again = icmp slt i64 %next, %patience
  br i1 %again, label %look, label %exit
take:
  %one.more = add i64 %job, 1
  %swap = cmpxchg ptr %board, i64 %job, i64 %one.more seq_cst seq_cst
  %entered = extractvalue {{i64, i1}} %swap, 1
  br i1 %entered, label %run, label %look
run:
{fields}
  %arenas.at = getelementptr i64, ptr %board, i64 {arenas}
  %arenas = load ptr, ptr %arenas.at
  %scratch.at = getelementptr ptr, ptr %arenas, i64 %me
  %scratch = load ptr, ptr %scratch.at
  call void %function(ptr %words, ptr %state, ptr %scratch, ptr %tables)
  %gone = atomicrmw sub ptr %board, i64 1 seq_cst
  br label %look
exit:
  ret i64 %last
}}
"""


@cache
def board_code() -> llvm.NativeModule:
    """offer, lead, close and serve, which stay as long as the process."""
    arch = "aarch64" if llvm.host().has_neon else "x86"
    named = {"function": FUNCTION, "words": WORDS, "state": STATE, "tables": TABLES}
    fields = "\n".join(
        f"  %{name}.at = getelementptr i64, ptr %board, i64 {at}\n  %{name} = load ptr, ptr %{name}.at"
        for name, at in named.items()
    )
    text = TEXT.format(
        declared=DECLARED[arch], pause=PAUSE[arch], fields=fields, serial=SERIAL, open=OPEN, closed=~OPEN,
        running=OPEN - 1, wanted=WANTED, patience=PATIENCE, arenas=ARENAS,
    )  # fmt: skip
    return llvm.compile_native(text, 0)
