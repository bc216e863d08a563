/**
 * The smallest programs of each system, made byte by byte: static ELF files that end with 41 plus their
 * number of arguments, so 42 where they are started alone. Whatever ends with 42 has really run the
 * instructions of that system, and has been handed its own name and no more.
 *
 * Sources: elf(5); the psABI supplement of each system for the entry (the number of arguments lies where
 * the stack pointer points to) and syscall(2) for the numbers of exit.
 */

/** How the programs of a system look from outside. */
export interface ElfKind {
  readonly bits: 32 | 64
  readonly isBigEndian: boolean
  /** `e_machine`. */
  readonly machine: number
  readonly flags: number
  /** The instructions, in the byte order in which they lie in memory. */
  readonly code: string
}

/** The exit code of a trial program that was started well. */
export const TRIAL_EXIT = 42

/** Systems that can be tried. The names are those of `src/files/elf.ts`. */
export const ELF_KINDS: ReadonlyMap<string, ElfKind> = new Map([
  // pop edi; add edi, 41; mov eax, 60; syscall
  ['x86_64-linux', kind(64, 62, '5f 83c729 b83c000000 0f05')],
  // pop ebx; add ebx, 41; mov eax, 1; int 0x80
  ['i686-linux', kind(32, 3, '5b 83c329 b801000000 cd80')],
  // ldr x0, [sp]; add x0, x0, 41; mov x8, 93; svc 0
  ['aarch64-linux', kind(64, 183, 'e00340f9 00a40091 a80b80d2 010000d4')],
  // ldr r0, [sp]; add r0, r0, 41; mov r7, 1; svc 0
  ['armv7l-linux', kind(32, 40, '00009de5 290080e2 0170a0e3 000000ef', { flags: 0x05000000 })],
  // ld a0, 0(sp); addi a0, a0, 41; li a7, 93; ecall
  ['riscv64-linux', kind(64, 243, '03350100 13059502 9308d005 73000000')],
  // ld r3, 0(r1); addi r3, r3, 41; li r0, 1; sc
  ['powerpc64le-linux', kind(64, 21, '000061e8 29006338 01000038 02000044', { flags: 2 })],
  // lg r2, 0(r15); aghi r2, 41; svc 1
  ['s390x-linux', kind(64, 22, 'e320f0000004 a72b0029 0a01', { isBigEndian: true })],
])

function kind(
  bits: 32 | 64,
  machine: number,
  code: string,
  { flags = 0, isBigEndian = false } = {},
): ElfKind {
  return { bits, machine, code, flags, isBigEndian }
}

/** Where the file lies in memory: above what kernels keep free at the bottom. */
const ADDRESS = 0x10000
const PAGE_BYTES = 0x10000
const TYPE_EXECUTABLE = 2
const TYPE_LOAD = 1
const READ_AND_EXECUTE = 5

/** The whole file. */
export function makeTrialProgram({ bits, isBigEndian, machine, flags, code }: ElfKind): Buffer {
  const text = Buffer.from(code.replaceAll(' ', ''), 'hex')
  const is64 = bits === 64
  const headBytes = is64 ? 64 : 52
  const segmentBytes = is64 ? 56 : 32
  const start = headBytes + segmentBytes
  const file = Buffer.alloc(start + text.byteLength)
  let at = 0
  const put = (bytes: 2 | 4 | 8, value: number): void => {
    // All values here fit into 32 bits; the rest of the file is zero.
    const width = Math.min(bytes, 4)
    if (isBigEndian) file.writeUIntBE(value, at + bytes - width, width)
    else file.writeUIntLE(value, at, width)
    at += bytes
  }
  const long = is64 ? 8 : 4
  file.set([0x7f, 0x45, 0x4c, 0x46, is64 ? 2 : 1, isBigEndian ? 2 : 1, 1])
  at = 16
  put(2, TYPE_EXECUTABLE)
  put(2, machine)
  put(4, 1)
  put(long, ADDRESS + start)
  put(long, headBytes)
  put(long, 0)
  put(4, flags)
  for (const half of [headBytes, segmentBytes, 1, 0, 0, 0]) put(2, half)
  put(4, TYPE_LOAD)
  if (is64) put(4, READ_AND_EXECUTE)
  put(long, 0)
  put(long, ADDRESS)
  put(long, ADDRESS)
  put(long, file.byteLength)
  put(long, file.byteLength)
  if (!is64) put(4, READ_AND_EXECUTE)
  put(long, PAGE_BYTES)
  file.set(text, start)
  return file
}
