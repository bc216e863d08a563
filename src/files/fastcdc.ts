/**
 * Cuts bytes where their content says so (FastCDC, Xia et al. 2016, normalised chunking with skipping of the
 * shortest): an insertion moves the cuts near it and no others, so two versions of a file share most chunks.
 *
 * The gear table, the masks and the bounds are part of version 1 of the chunk list; another choice would
 * make another list. Runs in worker threads as well: imports nothing but wire.
 */
import { createHash } from 'node:crypto'
import { CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, type Chunk } from '../wire/chunk-list.ts'
import { Hasher } from '../wire/digest.ts'

/** Up to here a cut must satisfy the strict mask (20 bits), from here on the loose one (16): lengths gather around it. */
const USUAL_BYTES = 256 * 1024
/** The high bits: each depends on as many bytes as it stands high. */
const STRICT_MASK = 0xfffff000
const LOOSE_MASK = 0xffff0000

/** What each byte adds: the first 32 bits, big-endian, of sha256("mesh gear v1 <byte>"). */
export const GEAR = Int32Array.from({ length: 256 }, (_, byte) =>
  createHash('sha256').update(`mesh gear v1 ${byte}`).digest().readInt32BE(),
)

/** Finds the cuts of one stream, fed in pieces of any size. */
export class FastCdc {
  /** Of the chunk that is not complete. */
  #length = 0
  #hash = 0

  /** The index after the last byte of the current chunk, or undefined when it goes on beyond `bytes`. */
  findCut(bytes: Uint8Array, start: number): number | undefined {
    const indexAt = (length: number): number =>
      Math.min(bytes.byteLength, start + Math.max(0, length - this.#length))
    // No cut comes before the shortest length, so nothing is computed up to there.
    let at = indexAt(CHUNK_BYTES_MIN)
    for (const { lengthMax, scan } of ZONES) {
      const end = indexAt(lengthMax)
      const cut = scan(bytes, at, end, this.#hash)
      if (cut !== undefined) return this.#cut(cut)
      this.#hash = roll(bytes, at, end, this.#hash)
      at = end
    }
    this.#length += at - start
    return this.#length === CHUNK_BYTES_MAX ? this.#cut(at) : undefined
  }

  #cut(at: number): number {
    this.#length = 0
    this.#hash = 0
    return at
  }
}

/** The hash after `end`: a byte is shifted out of it after 32 others, so no more are looked at. */
function roll(bytes: Uint8Array, from: number, end: number, hashBefore: number): number {
  let hash = hashBefore
  for (let at = Math.max(from, end - 32); at < end; at++)
    hash = ((hash << 1) + (GEAR[bytes[at] ?? 0] ?? 0)) | 0
  return hash
}

/**
 * The index after the first byte whose hash has no bit of the mask; one function for each mask.
 *
 * Two on purpose: V8's Maglev tier would inline a single one into its caller, where its loop is never
 * compiled by the optimising tier, and run at a fifth of the speed. A call site with two targets is not inlined.
 */
function scanStrictly(
  bytes: Uint8Array,
  from: number,
  end: number,
  hashBefore: number,
): number | undefined {
  let hash = hashBefore
  for (let at = from; at < end; at++) {
    hash = ((hash << 1) + (GEAR[bytes[at] ?? 0] ?? 0)) | 0
    if ((hash & STRICT_MASK) === 0) return at + 1
  }
  return undefined
}
function scanLoosely(
  bytes: Uint8Array,
  from: number,
  end: number,
  hashBefore: number,
): number | undefined {
  let hash = hashBefore
  for (let at = from; at < end; at++) {
    hash = ((hash << 1) + (GEAR[bytes[at] ?? 0] ?? 0)) | 0
    if ((hash & LOOSE_MASK) === 0) return at + 1
  }
  return undefined
}
/** How long a chunk may be for each of the masks. */
const ZONES = [
  { lengthMax: USUAL_BYTES, scan: scanStrictly },
  { lengthMax: CHUNK_BYTES_MAX, scan: scanLoosely },
]

/** Makes the chunks of one stream. Hashes each byte once; O(chunks) of memory. */
export class Chunker {
  readonly #cdc = new FastCdc()
  readonly #chunks: Chunk[] = []
  #hasher = new Hasher()
  #offset = 0
  /** Of the chunk that is not complete. */
  #length = 0

  /** Keeps nothing of `bytes`. Blocks for about 2 ms per MiB. */
  add(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.byteLength;) {
      const cut = this.#cdc.findCut(bytes, at)
      const end = cut ?? bytes.byteLength
      this.#hasher.update(bytes.subarray(at, end))
      this.#length += end - at
      if (cut !== undefined) this.#complete()
      at = end
    }
  }

  /** The last chunk ends where the stream does. */
  finish(): readonly Chunk[] {
    if (this.#length > 0) this.#complete()
    return this.#chunks
  }

  #complete(): void {
    this.#chunks.push({
      digest: this.#hasher.digest(),
      offset: this.#offset,
      length: this.#length,
    })
    this.#offset += this.#length
    this.#length = 0
    this.#hasher = new Hasher()
  }
}
