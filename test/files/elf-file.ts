/** Makes ELF files of any machine for tests: headers, an interpreter, a dynamic section, and no code. */

export interface ElfParts {
  readonly machine: number
  readonly bits: 32 | 64
  readonly isLittle: boolean
  readonly interpreter?: string
  readonly needed?: readonly string[]
  readonly rpath?: string
  readonly soname?: string
}

/** Where the file is mapped: offsets and addresses differ. */
const BASE = 0x10000

export function elfFile(parts: ElfParts): Buffer {
  const { machine, bits, isLittle, interpreter, needed = [], rpath, soname } = parts
  const is64 = bits === 64
  const [headBytes, segmentBytes, width] = is64 ? [64, 56, 8] : [52, 32, 4]
  const file = Buffer.alloc(4096)
  const half = (at: number, value: number): void => {
    if (isLittle) file.writeUInt16LE(value, at)
    else file.writeUInt16BE(value, at)
  }
  const word = (at: number, value: number): void => {
    if (isLittle) file.writeUInt32LE(value, at)
    else file.writeUInt32BE(value, at)
  }
  const long = (at: number, value: number): void => {
    if (!is64) word(at, value)
    else if (isLittle) file.writeBigUInt64LE(BigInt(value), at)
    else file.writeBigUInt64BE(BigInt(value), at)
  }
  file.write('\u007fELF', 0, 'latin1')
  file[4] = is64 ? 2 : 1
  file[5] = isLittle ? 1 : 2
  file[6] = 1
  half(16, 3)
  half(18, machine)
  long(is64 ? 32 : 28, headBytes)
  half(is64 ? 54 : 42, segmentBytes)

  let end = 1024
  const text = (value: string): number => {
    const at = end
    end += file.write(`${value}\0`, at)
    return at
  }
  const segments: { type: number; offset: number; size: number }[] = [
    { type: 1, offset: 0, size: 4096 },
  ]
  if (interpreter !== undefined)
    segments.push({ type: 3, offset: text(interpreter), size: interpreter.length + 1 })
  const stringsAt = end
  end += 1
  const entries: [tag: number, value: number][] = [
    ...needed.map((name): [number, number] => [1, text(name) - stringsAt]),
    ...(soname === undefined ? [] : [[14, text(soname) - stringsAt] as [number, number]]),
    ...(rpath === undefined ? [] : [[15, text(rpath) - stringsAt] as [number, number]]),
    [5, BASE + stringsAt],
    [0, 0],
  ]
  if (entries.length > 2) {
    segments.push({ type: 2, offset: 3072, size: entries.length * 2 * width })
    for (const [at, [tag, value]] of entries.entries()) {
      long(3072 + at * 2 * width, tag)
      long(3072 + at * 2 * width + width, value)
    }
  }
  half(is64 ? 56 : 44, segments.length)
  for (const [at, { type, offset, size }] of segments.entries()) {
    const start = headBytes + at * segmentBytes
    word(start, type)
    long(start + (is64 ? 8 : 4), offset)
    long(start + (is64 ? 16 : 8), BASE + offset)
    long(start + (is64 ? 32 : 16), size)
  }
  return file
}
