/**
 * Reads a tar archive as a stream: ustar, pax and GNU long names; sizes in octal or base 256.
 *
 * Names come as they are written; who takes them must not believe them. A damaged header, a name without an
 * end or an archive that ends inside a file is MESH0207. Source: pax(1) of POSIX.1-2024; the manual of GNU
 * tar, "Basic Tar Format".
 */
import { MeshError } from '../../base/errors.ts'

export interface TarItem {
  readonly path: string
  readonly kind: 'file' | 'dir' | 'symlink' | 'hardlink' | 'other'
  readonly size: number
  readonly executable: boolean
  /** Of links. */
  readonly target: string
}

const BLOCK = 512
/** Of a long name, and of one pax header. */
const META_BYTES_MAX = 1024 * 1024

/** The body of an item must be read before the next one is asked for; what is left of it is skipped. */
export async function* readTar(
  source: AsyncIterable<Uint8Array>,
): AsyncGenerator<{ readonly item: TarItem; readonly body: AsyncIterable<Uint8Array> }> {
  const bytes = new Bytes(source)
  let pax: ReadonlyMap<string, string> = new Map()
  let all: ReadonlyMap<string, string> = new Map()
  let longName: string | undefined
  let longTarget: string | undefined
  for (;;) {
    const head = await bytes.take(BLOCK)
    // Two empty blocks end an archive; whoever writes none of them ends it with the stream.
    if (head === undefined || head.every((byte) => byte === 0)) return
    checkSum(head)
    const size = pax.has('size') ? Number(pax.get('size')) : numberAt(head, 124, 12)
    if (!Number.isSafeInteger(size) || size < 0) throw broken('a size is no number')
    const type = String.fromCharCode(head[156] ?? 0)
    if ('xgLK'.includes(type)) {
      const text = await bytes.text(numberAt(head, 124, 12))
      if (type === 'x') pax = paxValues(text)
      else if (type === 'g') all = new Map([...all, ...paxValues(text)])
      else if (type === 'L') longName = untilNul(text)
      else longTarget = untilNul(text)
      continue
    }
    const value = (key: string): string | undefined => pax.get(key) ?? all.get(key)
    if ([...pax.keys(), ...all.keys()].some((key) => key.startsWith('GNU.sparse')) || type === 'S')
      throw broken('it has sparse files, which are not read: make it without --sparse')
    const item: TarItem = {
      path: value('path') ?? longName ?? nameOf(head),
      kind: kindOf(type),
      size: kindOf(type) === 'file' ? size : 0,
      executable: (numberAt(head, 100, 8) & 0o111) !== 0,
      target: value('linkpath') ?? longTarget ?? textAt(head, 157, 100),
    }
    pax = new Map()
    longName = undefined
    longTarget = undefined
    const body = new Body(bytes, item.size)
    yield { item, body }
    await body.skip()
    await bytes.skip((BLOCK - (item.size % BLOCK)) % BLOCK)
  }
}

function kindOf(type: string): TarItem['kind'] {
  switch (type) {
    case '0':
    case '\0':
    case '7':
      return 'file'
    case '1':
      return 'hardlink'
    case '2':
      return 'symlink'
    case '5':
      return 'dir'
    default:
      return 'other'
  }
}

const broken = (why: string): MeshError =>
  new MeshError('MESH0207', `the archive cannot be read: ${why}`)

function checkSum(head: Buffer): void {
  let sum = 0
  for (const [at, byte] of head.entries()) sum += at >= 148 && at < 156 ? 32 : byte
  const told = textAt(head, 148, 8).trim()
  if (!/^[0-7]{1,7}$/.test(told) || sum !== Number.parseInt(told, 8))
    throw broken('this is no tar archive, or it is damaged')
}

function textAt(head: Buffer, at: number, length: number): string {
  const field = head.subarray(at, at + length)
  const end = field.indexOf(0)
  return field.toString('utf8', 0, end === -1 ? length : end)
}

function nameOf(head: Buffer): string {
  const name = textAt(head, 0, 100)
  const prefix = head.toString('latin1', 257, 263) === 'ustar\0' ? textAt(head, 345, 155) : ''
  return prefix === '' ? name : `${prefix}/${name}`
}

/** Octal text, or, where the first bit is set, a big-endian number. */
function numberAt(head: Buffer, at: number, length: number): number {
  if (((head[at] ?? 0) & 0x80) !== 0) {
    let value = (head[at] ?? 0) & 0x7f
    for (let next = at + 1; next < at + length; next++) value = value * 256 + (head[next] ?? 0)
    return value
  }
  const text = textAt(head, at, length).trim()
  if (text === '') return 0
  if (!/^[0-7]+$/.test(text)) throw broken('a number in a header is none')
  return Number.parseInt(text, 8)
}

/** Records of `LENGTH KEY=VALUE\n`, whose length is in bytes. */
function paxValues(bytes: Buffer): ReadonlyMap<string, string> {
  const values = new Map<string, string>()
  for (let at = 0; at < bytes.byteLength && bytes[at] !== 0;) {
    const space = bytes.indexOf(32, at)
    const length = Number(bytes.toString('latin1', at, space))
    const equals = bytes.indexOf(61, space)
    if (space === -1 || !Number.isSafeInteger(length) || length < 5 || at + length > bytes.length)
      throw broken('an extended header is damaged')
    if (equals !== -1 && equals < at + length)
      values.set(
        bytes.toString('utf8', space + 1, equals),
        bytes.toString('utf8', equals + 1, at + length - 1),
      )
    at += length
  }
  return values
}

function untilNul(bytes: Buffer): string {
  const end = bytes.indexOf(0)
  return bytes.toString('utf8', 0, end === -1 ? bytes.byteLength : end)
}

/** The bytes of one file; can be read once. */
class Body implements AsyncIterable<Uint8Array> {
  readonly #bytes: Bytes
  #left: number

  constructor(bytes: Bytes, size: number) {
    this.#bytes = bytes
    this.#left = size
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    while (this.#left > 0) {
      const piece = await this.#bytes.some(this.#left)
      this.#left -= piece.byteLength
      yield piece
    }
  }

  async skip(): Promise<void> {
    const left = this.#left
    this.#left = 0
    await this.#bytes.skip(left)
  }
}

/** A stream that is read in pieces of the reader's size. */
class Bytes {
  readonly #source: AsyncIterator<Uint8Array>
  #piece: Buffer = Buffer.alloc(0)

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#source = source[Symbol.asyncIterator]()
  }

  /** At least one byte and at most `bytesMax`. */
  async some(bytesMax: number): Promise<Buffer> {
    if (!(await this.#fill())) throw broken('it ends too early')
    const piece = this.#piece.subarray(0, bytesMax)
    this.#piece = this.#piece.subarray(piece.byteLength)
    return piece
  }

  /** Exactly `length`; undefined where the stream ends before its first byte. */
  async take(length: number): Promise<Buffer | undefined> {
    if (!(await this.#fill())) return undefined
    const pieces: Buffer[] = []
    for (let left = length; left > 0; left -= pieces.at(-1)?.byteLength ?? 0)
      pieces.push(await this.some(left))
    return Buffer.concat(pieces)
  }

  /** A body that is text, with what pads it. */
  async text(length: number): Promise<Buffer> {
    if (length > META_BYTES_MAX) throw broken(`a name or header has ${length} bytes`)
    const bytes = length === 0 ? Buffer.alloc(0) : await this.take(length)
    if (bytes === undefined) throw broken('it ends too early')
    await this.skip((BLOCK - (length % BLOCK)) % BLOCK)
    return bytes
  }

  async skip(length: number): Promise<void> {
    for (let left = length; left > 0;) left -= (await this.some(left)).byteLength
  }

  async #fill(): Promise<boolean> {
    while (this.#piece.byteLength === 0) {
      const next = await this.#source.next()
      if (next.done === true) return false
      const { value } = next
      this.#piece = Buffer.from(value.buffer, value.byteOffset, value.byteLength)
    }
    return true
  }
}
