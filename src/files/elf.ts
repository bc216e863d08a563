/**
 * What an ELF file says of itself: the system that it is for, its interpreter, the libraries that it needs.
 *
 * Read, never run, so that a foreign or hostile file may be looked at. Every offset and length comes from
 * the file and is bounded before it is used; what makes no sense is undefined, not an error.
 * Source: elf(5); System V ABI, chapters 4 and 5.
 */
import { closeSync, constants, openSync, readSync } from 'node:fs'
import { hasCode } from '../base/errors.ts'

export interface Elf {
  /** `x86_64-linux`; undefined for a machine that has no name here. */
  readonly system: string | undefined
  readonly bits: 32 | 64
  /** `e_machine`. */
  readonly machine: number
  readonly kind: 'executable' | 'shared' | 'object' | 'other'
  /** The program that loads it, such as /lib64/ld-linux-x86-64.so.2; undefined: static, or a library. */
  readonly interpreter: string | undefined
  /** DT_NEEDED, in its order. */
  readonly needed: readonly string[]
  /** Directories of DT_RPATH and DT_RUNPATH as they are written: `$ORIGIN` is left in. */
  readonly rpath: readonly string[]
  readonly runpath: readonly string[]
  readonly soname: string | undefined
}

const HEADER_BYTES = 64
const SEGMENTS_MAX = 512
const DYNAMIC_BYTES_MAX = 1024 * 1024
const STRINGS_BYTES_MAX = 16 * 1024 * 1024
const STRING_BYTES_MAX = 4096
const NEEDED_MAX = 1024

/** By `e_machine`, for 32 and 64 bits, little endian unless said otherwise. */
const SYSTEMS: ReadonlyMap<string, string> = new Map([
  ['3/32/le', 'i686-linux'],
  ['8/32/be', 'mips-linux'],
  ['8/32/le', 'mipsel-linux'],
  ['8/64/le', 'mips64el-linux'],
  ['20/32/be', 'powerpc-linux'],
  ['21/64/be', 'powerpc64-linux'],
  ['21/64/le', 'powerpc64le-linux'],
  ['22/64/be', 's390x-linux'],
  ['40/32/le', 'armv7l-linux'],
  ['62/32/le', 'x86_64_x32-linux'],
  ['62/64/le', 'x86_64-linux'],
  ['183/64/le', 'aarch64-linux'],
  ['243/32/le', 'riscv32-linux'],
  ['243/64/le', 'riscv64-linux'],
  ['258/64/le', 'loongarch64-linux'],
])

const PT_LOAD = 1
const PT_DYNAMIC = 2
const PT_INTERP = 3
const DT_NULL = 0
const DT_NEEDED = 1
const DT_STRTAB = 5
const DT_SONAME = 14
const DT_RPATH = 15
const DT_RUNPATH = 29

/** Up to `length` bytes from `at`; fewer at the end of the file. */
type Read = (at: number, length: number) => Buffer

/** What the file at `path` is; undefined where it is no ELF file, no regular one, or cannot be opened. Follows links. */
export function readElf(path: string): Elf | undefined {
  let file: number
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR', 'EACCES', 'ELOOP', 'EISDIR', 'ENXIO', 'EPERM'))
      return undefined
    throw error
  }
  try {
    return parse((at, length) => {
      const bytes = Buffer.alloc(length)
      return bytes.subarray(0, readSync(file, bytes, 0, length, at))
    })
  } catch (error) {
    // A directory opens well, and is no file to read from; neither is a pipe.
    if (hasCode(error, 'EISDIR', 'ESPIPE', 'EAGAIN', 'EINVAL')) return undefined
    throw error
  } finally {
    closeSync(file)
  }
}

/** The same of bytes in memory. */
export function parseElf(bytes: Uint8Array): Elf | undefined {
  const all = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  return parse((at, length) => all.subarray(at, at + length))
}

interface Segment {
  readonly type: number
  readonly offset: number
  readonly address: number
  readonly size: number
}

function parse(read: Read): Elf | undefined {
  const head = read(0, HEADER_BYTES)
  if (head.byteLength < 52 || head.readUInt32BE(0) !== 0x7f454c46) return undefined
  const bits = head[4] === 1 ? 32 : head[4] === 2 ? 64 : undefined
  const isLittle = head[5] === 1
  if (bits === undefined || (!isLittle && head[5] !== 2)) return undefined
  if (bits === 64 && head.byteLength < HEADER_BYTES) return undefined
  const words = new Words(isLittle, bits)
  const machine = words.half(head, 18)
  const segments = segmentsOf(read, head, words)
  const interpreterAt = segments.find(({ type }) => type === PT_INTERP)
  return {
    system: SYSTEMS.get(`${machine}/${bits}/${isLittle ? 'le' : 'be'}`),
    bits,
    machine,
    kind: KINDS[words.half(head, 16)] ?? 'other',
    interpreter:
      interpreterAt === undefined
        ? undefined
        : stringIn(read(interpreterAt.offset, Math.min(interpreterAt.size, STRING_BYTES_MAX))),
    ...dynamicOf(read, segments, words),
  }
}

const KINDS: Readonly<Record<number, Elf['kind']>> = { 1: 'object', 2: 'executable', 3: 'shared' }

/** Numbers of one byte order and width. */
class Words {
  readonly #isLittle: boolean
  readonly bits: 32 | 64

  constructor(isLittle: boolean, bits: 32 | 64) {
    this.#isLittle = isLittle
    this.bits = bits
  }

  half(bytes: Buffer, at: number): number {
    return this.#isLittle ? bytes.readUInt16LE(at) : bytes.readUInt16BE(at)
  }
  word(bytes: Buffer, at: number): number {
    return this.#isLittle ? bytes.readUInt32LE(at) : bytes.readUInt32BE(at)
  }
  /** An address, offset or size. Beyond 2^53 it is not exact, and then it lies in no file. */
  long(bytes: Buffer, at: number): number {
    if (this.bits === 32) return this.word(bytes, at)
    return Number(this.#isLittle ? bytes.readBigUInt64LE(at) : bytes.readBigUInt64BE(at))
  }
}

function segmentsOf(read: Read, head: Buffer, words: Words): Segment[] {
  const is64 = words.bits === 64
  const tableAt = words.long(head, is64 ? 32 : 28)
  const entryBytes = words.half(head, is64 ? 54 : 42)
  const count = words.half(head, is64 ? 56 : 44)
  if (count === 0 || count > SEGMENTS_MAX || entryBytes < (is64 ? 56 : 32)) return []
  if (!Number.isSafeInteger(tableAt)) return []
  const table = read(tableAt, count * entryBytes)
  const segments: Segment[] = []
  for (let at = 0; at + entryBytes <= table.byteLength; at += entryBytes) {
    const segment = {
      type: words.word(table, at),
      offset: words.long(table, at + (is64 ? 8 : 4)),
      address: words.long(table, at + (is64 ? 16 : 8)),
      size: words.long(table, at + (is64 ? 32 : 16)),
    }
    if (Number.isSafeInteger(segment.offset + segment.size)) segments.push(segment)
  }
  return segments
}

function dynamicOf(
  read: Read,
  segments: readonly Segment[],
  words: Words,
): Pick<Elf, 'needed' | 'rpath' | 'runpath' | 'soname'> {
  const found = { needed: [], rpath: [], runpath: [], soname: undefined }
  const dynamic = segments.find(({ type }) => type === PT_DYNAMIC)
  if (dynamic === undefined) return found
  const table = read(dynamic.offset, Math.min(dynamic.size, DYNAMIC_BYTES_MAX))
  const width = words.bits / 8
  const entries: { tag: number; value: number }[] = []
  for (let at = 0; at + 2 * width <= table.byteLength; at += 2 * width) {
    const tag = words.long(table, at)
    if (tag === DT_NULL) break
    entries.push({ tag, value: words.long(table, at + width) })
  }
  const stringsAt = entries.find(({ tag }) => tag === DT_STRTAB)?.value
  const load = segments.find(
    ({ type, address, size }) =>
      type === PT_LOAD &&
      stringsAt !== undefined &&
      stringsAt >= address &&
      stringsAt < address + size,
  )
  if (stringsAt === undefined || load === undefined) return found
  const inLoad = stringsAt - load.address
  const strings = (offset: number): string | undefined => {
    if (!(offset >= 0 && offset < Math.min(load.size - inLoad, STRINGS_BYTES_MAX))) return undefined
    return stringIn(read(load.offset + inLoad + offset, STRING_BYTES_MAX))
  }
  const all = (wanted: number): string[] =>
    entries
      .filter(({ tag }) => tag === wanted)
      .slice(0, NEEDED_MAX)
      .map(({ value }) => strings(value) ?? '')
      .filter((text) => text !== '')
  const paths = (wanted: number): string[] =>
    all(wanted).flatMap((list) => list.split(':').filter((directory) => directory !== ''))
  return {
    needed: all(DT_NEEDED),
    rpath: paths(DT_RPATH),
    runpath: paths(DT_RUNPATH),
    soname: all(DT_SONAME)[0],
  }
}

/** Up to the NUL; undefined where none comes. */
function stringIn(bytes: Buffer): string | undefined {
  const end = bytes.indexOf(0)
  return end === -1 ? undefined : bytes.toString('utf8', 0, end)
}
