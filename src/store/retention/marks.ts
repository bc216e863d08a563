/** Which blobs are reached from what is kept: compact sets of digests, and the walk through trees that fills them. */
import { nextTurn } from '../../files/map-limited.ts'
import { OBJECT_BYTES_MAX } from '../../wire/cbor.ts'
import type { Digest } from '../../wire/digest.ts'
import { decodeTree, type Tree } from '../../wire/tree.ts'
import type { KeptEntry } from './kept.ts'

const SLOTS_MIN = 1 << 12
/** 512 MiB of table. */
const SLOTS_MAX = 1 << 26

/**
 * Digests by their first eight bytes, 16 bytes of memory each: of two with the same eight, one counts as
 * marked when the other is, and is kept for nothing. Full at 67 million, when everything counts as marked.
 */
export class Marks {
  #slots = new BigUint64Array(SLOTS_MIN)
  #count = 0
  #isFull = false

  get count(): number {
    return this.#count
  }

  has(digest: Digest): boolean {
    return this.#isFull || this.#slots[this.#slotOf(fingerprintOf(digest))] !== 0n
  }

  /** False when it is marked already. */
  add(digest: Digest): boolean {
    if (this.#isFull) return false
    const fingerprint = fingerprintOf(digest)
    const slot = this.#slotOf(fingerprint)
    if (this.#slots[slot] !== 0n) return false
    this.#slots[slot] = fingerprint
    if (++this.#count * 2 > this.#slots.length) this.#grow()
    return true
  }

  /** Where it is, or would be: open addressing, and a digest is as random as a hash of it. */
  #slotOf(fingerprint: bigint): number {
    const mask = this.#slots.length - 1
    let slot = Number(fingerprint & 0xffff_ffffn) & mask
    while (this.#slots[slot] !== 0n && this.#slots[slot] !== fingerprint) slot = (slot + 1) & mask
    return slot
  }

  #grow(): void {
    if (this.#slots.length >= SLOTS_MAX) {
      this.#isFull = true
      return
    }
    const old = this.#slots
    this.#slots = new BigUint64Array(old.length * 2)
    for (const fingerprint of old)
      if (fingerprint !== 0n) this.#slots[this.#slotOf(fingerprint)] = fingerprint
  }
}

/** Never 0, which stands for a free slot. */
const fingerprintOf = (digest: Digest): bigint => BigInt(`0x${digest.slice(0, 16)}`) || 1n

/** The bytes of a blob that is here, without counting as its use. */
export type ReadBlob = (digest: Digest, bytesMax: number) => Promise<Uint8Array | undefined>

/** Marks a kept entry with all that it contains. Walks each tree once. */
export class Marker {
  readonly marks = new Marks()
  readonly #walked = new Marks()
  readonly #read: ReadBlob

  constructor(deps: { readonly read: ReadBlob }) {
    this.#read = deps.read
  }

  /** What is not here, or is no tree, is marked itself and ends the walk there. */
  async mark({ digest, kind }: Pick<KeptEntry, 'digest' | 'kind'>): Promise<void> {
    this.marks.add(digest)
    if (kind === 'file') return
    const waiting = [digest]
    for (let tree = waiting.pop(); tree !== undefined; tree = waiting.pop()) {
      if (!this.#walked.add(tree)) continue
      for (const { entry } of await this.#readTree(tree)) {
        if (entry.kind === 'symlink') continue
        this.marks.add(entry.digest)
        if (entry.kind === 'dir') waiting.push(entry.digest)
      }
      await nextTurn()
    }
  }

  async #readTree(digest: Digest): Promise<Tree> {
    const bytes = await this.#read(digest, OBJECT_BYTES_MAX)
    try {
      return bytes === undefined ? [] : decodeTree(bytes)
    } catch {
      return [] // a pin may name anything as a directory
    }
  }
}
