/** Which chunks of one blob: a bitmap in the form that travels (bit n, lowest first in each byte). */
import { MeshError } from '../../base/errors.ts'

export class ChunkSet {
  readonly size: number
  readonly #bits: Uint8Array
  #count = 0

  /** An empty set of `size` possible chunks. */
  constructor(size: number) {
    this.size = size
    this.#bits = new Uint8Array(Math.ceil(size / 8))
  }

  static full(size: number): ChunkSet {
    const set = new ChunkSet(size)
    for (let chunk = 0; chunk < size; chunk++) set.add(chunk)
    return set
  }

  /** Throws MESH0210 for a bitmap of another length, or with bits beyond the last chunk. */
  static fromBytes(size: number, bytes: Uint8Array): ChunkSet {
    const set = new ChunkSet(size)
    const strayBits = size % 8 === 0 ? 0 : (bytes.at(-1) ?? 0) >> (size % 8)
    if (bytes.byteLength !== set.#bits.byteLength || strayBits !== 0)
      throw new MeshError('MESH0210', `a bitmap of ${bytes.byteLength} bytes for ${size} chunks`)
    for (let chunk = 0; chunk < size; chunk++)
      if ((((bytes[chunk >> 3] ?? 0) >> (chunk & 7)) & 1) === 1) set.add(chunk)
    return set
  }

  get count(): number {
    return this.#count
  }

  get isFull(): boolean {
    return this.#count === this.size
  }

  has(chunk: number): boolean {
    return (((this.#bits[chunk >> 3] ?? 0) >> (chunk & 7)) & 1) === 1
  }

  /** False when it was there, or is no chunk of the blob. */
  add(chunk: number): boolean {
    if (chunk >= this.size || this.has(chunk)) return false
    this.#bits[chunk >> 3] = (this.#bits[chunk >> 3] ?? 0) | (1 << (chunk & 7))
    this.#count++
    return true
  }

  /** False when it was not there. */
  delete(chunk: number): boolean {
    if (!this.has(chunk)) return false
    this.#bits[chunk >> 3] = (this.#bits[chunk >> 3] ?? 0) & ~(1 << (chunk & 7))
    this.#count--
    return true
  }

  /** In ascending order. */
  *[Symbol.iterator](): Generator<number> {
    for (let chunk = 0; chunk < this.size; chunk++) if (this.has(chunk)) yield chunk
  }

  /** A copy. */
  toBytes(): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.#bits)
  }
}
