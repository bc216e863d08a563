/**
 * The map beside the data of a partial blob: which chunks were written, and after which chunk list.
 *
 * Written in batches and never synced: it names what is worth a look after a restart, not what is right.
 */
import { readFile, rename, writeFile } from 'node:fs/promises'
import type { Logger } from 'pino'
import { z } from 'zod'
import type { Clock, Timer } from '../../base/clock.ts'
import { hasCode, MeshError } from '../../base/errors.ts'
import { decodeObject, encodeObject } from '../../wire/cbor.ts'
import { CHUNKED_BYTES_MAX, CHUNKS_MAX } from '../../wire/chunk-list.ts'
import { DigestBytes } from '../../wire/digest.ts'

/** A crash loses at most the chunks of the last second or 16 MiB, whichever is more. */
const STALE_MS_MAX = 1_000
const STALE_BYTES_MAX = 16 * 1024 * 1024

const PartMap = z.object({
  v: z.literal(1),
  /** sha256 of the encoded chunk list. */
  list: DigestBytes,
  /** Of the chunks that are here. */
  heldBytes: z.int().min(0).max(CHUNKED_BYTES_MAX),
  usedAtWallMs: z.int(),
  /** Bit n, lowest first in each byte: chunk n was written. */
  bits: z.instanceof(Uint8Array).refine((bytes) => bytes.byteLength <= Math.ceil(CHUNKS_MAX / 8)),
})
export type PartMap = z.infer<typeof PartMap>

/** Undefined where there is none, or one that a crash left unreadable. */
export async function readPartMap(path: string): Promise<PartMap | undefined> {
  try {
    return decodeObject(PartMap, await readFile(path), path)
  } catch (error) {
    if (hasCode(error, 'ENOENT') || error instanceof MeshError) return undefined
    throw error
  }
}

/** Writes the map a while after it was touched. */
export class PartMapWriter {
  readonly #clock: Clock
  readonly #log: Logger
  readonly #path: string
  readonly #current: () => PartMap
  #staleBytes = 0
  #timer: Timer | undefined
  #last: Promise<void> = Promise.resolve()

  constructor(
    deps: { readonly clock: Clock; readonly log: Logger },
    options: { readonly path: string; readonly current: () => PartMap },
  ) {
    this.#clock = deps.clock
    this.#log = deps.log
    this.#path = options.path
    this.#current = options.current
  }

  /** To be called when bytes were written that the map does not know. */
  touch(byteCount: number): void {
    this.#staleBytes += byteCount
    if (this.#staleBytes >= STALE_BYTES_MAX) this.#writeLater()
    else this.#timer ??= this.#clock.setTimer(STALE_MS_MAX, () => this.#writeLater())
  }

  #writeLater(): void {
    // Without it chunks are fetched again after a restart, and no more: on a full disk there is no other way.
    this.write().catch((error: unknown) =>
      this.#log.warn({ err: error, path: this.#path }, 'map of a partial blob was not written'),
    )
  }

  /** Resolves when the map on disk is as new as the call. */
  write(): Promise<void> {
    this.#timer?.cancel()
    this.#timer = undefined
    this.#staleBytes = 0
    this.#last = Promise.allSettled([this.#last]).then(() => this.#write())
    return this.#last
  }

  async #write(): Promise<void> {
    const temporary = `${this.#path}.new`
    await writeFile(temporary, encodeObject(PartMap, this.#current()))
    await rename(temporary, this.#path)
  }

  /** Resolves when nothing is being written, and nothing will be unless it is touched again. */
  async stop(): Promise<void> {
    this.#timer?.cancel()
    this.#timer = undefined
    await Promise.allSettled([this.#last])
  }
}
