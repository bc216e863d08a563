/**
 * A store that gets what it lacks from upstream while it is read: the read side of a mirror.
 *
 * A blob is pulled once however many ask; they follow the pull as it comes. Its bytes are kept only after
 * their sha256 was right, and nobody is given the last one of anything before: when upstream lied, readers
 * see a broken connection, never an end.
 */
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { deadline, type Clock } from '../../base/clock.ts'
import { MeshError } from '../../base/errors.ts'
import { collectBytes } from '../../files/collect-bytes.ts'
import { Hasher, type BlobRef, type Digest } from '../../wire/digest.ts'
import { SMALL_BLOB_BYTES_MAX, SourceError, type BlobSource } from '../blob-source.ts'
import type { BlobRange, BlobReader, BlobStore } from '../blob-store.ts'
import { ByteWindow } from '../byte-window.ts'
import { diskError } from '../disk.ts'
import { firstToBegin } from '../fetch/hedge.ts'
import { bytesFromAny } from '../fetch/side-by-side.ts'
import { HEDGE_MS_MAX, type SourceHealth } from '../fetch/source-health.ts'
import { Trail } from '../fetch/trail.ts'
import { orAborted } from '../../base/or-aborted.ts'
import { Absences } from './absences.ts'
import { Spool } from './spool.ts'

/** Pulls that move bytes; others wait their turn. */
const PULLS_AT_ONCE = 64
/** Pulls and questions under way; beyond it nothing new is begun (MESH0501, try later). */
const PULLS_MAX = 4_096
/** How long one source may take to tell a size. */
const SIZE_MS = 5_000
/** Where a blob was seen, and how big it is said to be: for the GET that follows a HEAD. */
const SIZES_MAX = 10_000
const SIZE_KNOWN_MS = 60_000

type Stages = readonly (() => Promise<readonly BlobSource[]>)[]

interface Deps {
  readonly store: BlobStore
  /** Room for a blob that is on its way. Throws MESH0503. */
  readonly reserve: (sizeBytes: number) => Promise<Disposable>
  readonly clock: Clock
  readonly log: Logger
  readonly health: SourceHealth
  /** Who may have the blob: each stage is asked when the sources of those before are used up. */
  readonly stages: (digest: Digest, signal: AbortSignal) => Stages
  /** Brings a blob into the store by every means there is; used when the sources fail. Throws MESH0501. */
  readonly obtain: (ref: BlobRef, signal: AbortSignal) => Promise<unknown>
}

export interface PullStats {
  /** Blobs that were read: from the store, by a pull, or not to be had. */
  readonly hits: number
  readonly misses: number
  readonly absent: number
  readonly bytesIn: number
  readonly bytesOut: number
  readonly inFlight: number
  readonly upstreamErrors: number
}

/** The part of a store that answers readers. */
export type ReadableStore = Pick<BlobStore, 'sizeOf' | 'open' | 'read'>

/** Its reads throw MESH0501 when a blob that somebody has cannot be had now. */
export interface PullThrough extends ReadableStore, AsyncDisposable {
  stats(): PullStats
}

/** `directory` is emptied. It lies on the file system of the store. */
export function openPullThrough(deps: Deps, options: { readonly directory: string }): PullThrough {
  rmSync(options.directory, { recursive: true, force: true })
  mkdirSync(options.directory, { recursive: true, mode: 0o700 })
  return new StorePullThrough(deps, options.directory)
}

interface Pull {
  /** The blob is in the store. */
  readonly done: Promise<void>
  /** Bytes are there to be read, or the pull has ended. */
  readonly begun: Promise<void>
  /** Of a blob that is read while it comes. */
  spool: Spool | undefined
}

interface KnownSize {
  readonly sizeBytes: number
  readonly from: BlobSource
  readonly untilMs: number
}

class StorePullThrough implements PullThrough {
  readonly #deps: Deps
  readonly #directory: string
  readonly #lifetime = new AbortController()
  readonly #slots = new ByteWindow({ bytesMax: PULLS_AT_ONCE })
  readonly #pulls = new Map<Digest, Pull>()
  readonly #questions = new Map<Digest, Promise<KnownSize | undefined>>()
  readonly #sizes = new Map<Digest, KnownSize>()
  readonly #absences = new Absences()
  readonly #stats = { hits: 0, misses: 0, absent: 0, bytesIn: 0, bytesOut: 0 }
  #spoolCount = 0

  constructor(deps: Deps, directory: string) {
    this.#deps = deps
    this.#directory = directory
  }

  stats(): PullStats {
    return {
      ...this.#stats,
      inFlight: this.#pulls.size,
      upstreamErrors: this.#deps.health.failureCount,
    }
  }

  async sizeOf(digest: Digest): Promise<number | undefined> {
    return (await this.#deps.store.sizeOf(digest)) ?? (await this.#find(digest))?.sizeBytes
  }

  async open(digest: Digest, range: BlobRange = {}): Promise<BlobReader | undefined> {
    const own = await this.#deps.store.open(digest, range)
    if (own !== undefined) {
      this.#stats.hits++
      return this.#metered(own)
    }
    const known = await this.#find(digest)
    if (known === undefined) {
      this.#stats.absent++
      return undefined
    }
    this.#stats.misses++
    const pull = this.#pull({ digest, size: known.sizeBytes }, known.from)
    await pull.begun
    if (pull.spool?.isSound !== true) {
      await pull.done
      const stored = await this.#deps.store.open(digest, range)
      return stored === undefined ? undefined : this.#metered(stored)
    }
    const start = Math.min(range.offsetBytes ?? 0, known.sizeBytes)
    const end = Math.min(start + (range.lengthBytes ?? Infinity), known.sizeBytes)
    return this.#metered(Object.assign(pull.spool.read(start, end), { sizeBytes: known.sizeBytes }))
  }

  async read(digest: Digest, bytesMax: number): Promise<Uint8Array | undefined> {
    let bytes = await this.#deps.store.read(digest, bytesMax)
    if (bytes !== undefined) this.#stats.hits++
    else {
      const known = await this.#find(digest)
      if (known === undefined) {
        this.#stats.absent++
        return undefined
      }
      this.#stats.misses++
      if (known.sizeBytes > bytesMax)
        throw new MeshError('MESH0211', `blob ${digest} is said to have ${known.sizeBytes} bytes`)
      await this.#pull({ digest, size: known.sizeBytes }, known.from).done
      bytes = await this.#deps.store.read(digest, bytesMax)
    }
    this.#stats.bytesOut += bytes?.byteLength ?? 0
    return bytes
  }

  #metered(reader: BlobReader): BlobReader {
    const stats = this.#stats
    return {
      sizeBytes: reader.sizeBytes,
      async *[Symbol.asyncIterator]() {
        for await (const bytes of reader) {
          stats.bytesOut += bytes.byteLength
          yield bytes
        }
      },
      [Symbol.asyncDispose]: () => reader[Symbol.asyncDispose](),
    }
  }

  /** Where the blob is and how big; undefined when nobody has it, or had it a moment ago. */
  async #find(digest: Digest): Promise<KnownSize | undefined> {
    const nowMs = this.#deps.clock.nowMs()
    const known = this.#sizes.get(digest)
    if (known !== undefined && known.untilMs > nowMs) return known
    if (this.#absences.has(digest, nowMs)) return undefined
    let question = this.#questions.get(digest)
    if (question === undefined) {
      this.#checkRoom()
      question = this.#ask(digest).finally(() => this.#questions.delete(digest))
      this.#questions.set(digest, question)
    }
    return question
  }

  async #ask(digest: Digest): Promise<KnownSize | undefined> {
    const { clock, health } = this.#deps
    const { signal } = this.#lifetime
    const begun = await firstToBegin(
      { clock, health },
      this.#trail(this.#deps.stages(digest, signal), (source) => source.sizeOf !== undefined),
      async (source, sourceSignal) => {
        // One that failed before is not waited for: most misses would be as slow as the slowest of the dead.
        const limitMs = health.isDoubtful(source) ? HEDGE_MS_MAX : SIZE_MS
        const stalled = (): SourceError =>
          new SourceError('stalled', `told no size for ${limitMs} ms`)
        const limit = deadline(clock, limitMs, stalled, sourceSignal)
        try {
          const asking = source.sizeOf?.(digest, { signal: limit.signal })
          const sizeBytes = await (asking && orAborted(asking, limit.signal))
          return sizeBytes === undefined ? undefined : once(sizeBytes)
        } finally {
          limit.cancel()
        }
      },
      signal,
    )
    if (begun === undefined) {
      this.#absences.add(digest, clock.nowMs())
      return undefined
    }
    this.#absences.delete(digest)
    const { source: from } = begun
    for await (const sizeBytes of begun.items) {
      const known = { sizeBytes, from, untilMs: clock.nowMs() + SIZE_KNOWN_MS }
      this.#remember(digest, known)
      return known
    }
    return undefined
  }

  #remember(digest: Digest, known: KnownSize): void {
    this.#sizes.delete(digest)
    this.#sizes.set(digest, known)
    if (this.#sizes.size <= SIZES_MAX) return
    const [oldest] = this.#sizes.keys()
    if (oldest !== undefined) this.#sizes.delete(oldest)
  }

  /** Without those that lied lately: readers would be sent their bytes before they can be judged. */
  #trail(stages: Stages, isFit: (source: BlobSource) => boolean = () => true): Trail {
    const { clock, health } = this.#deps
    const isTrusted = (source: BlobSource): boolean =>
      isFit(source) && !health.isBanned(source, clock.nowMs())
    return new Trail(
      { health },
      stages.map((stage) => async () => (await stage()).filter(isTrusted)),
    )
  }

  #checkRoom(): void {
    if (this.#pulls.size + this.#questions.size >= PULLS_MAX)
      throw new MeshError(
        'MESH0501',
        `${PULLS_MAX} blobs are being pulled already: try again later`,
      )
  }

  #pull(ref: BlobRef, from: BlobSource): Pull {
    const running = this.#pulls.get(ref.digest)
    if (running !== undefined) return running
    this.#checkRoom()
    const begun = Promise.withResolvers<void>()
    const pull: Pull = {
      spool: undefined,
      begun: begun.promise,
      done: this.#bring(ref, from, (spool) => {
        pull.spool = spool
        begun.resolve()
      }).finally(() => {
        this.#pulls.delete(ref.digest)
        this.#sizes.delete(ref.digest)
        begun.resolve()
      }),
    }
    pull.done.catch(() => undefined) // whoever waits for it is told
    this.#pulls.set(ref.digest, pull)
    return pull
  }

  /** Brings the blob into the store: following the sources, and by every other means when they fail. */
  async #bring(ref: BlobRef, from: BlobSource, onSpool: (spool: Spool) => void): Promise<void> {
    const { log, obtain } = this.#deps
    const { signal } = this.#lifetime
    await this.#slots.acquire(1, signal)
    try {
      if (ref.size <= SMALL_BLOB_BYTES_MAX) await this.#take(ref, from)
      else await this.#follow(ref, from, onSpool)
    } catch (error) {
      signal.throwIfAborted()
      log.warn({ err: error, digest: ref.digest }, 'pull broke off')
      await obtain(ref, signal)
    } finally {
      this.#slots.release(1)
    }
  }

  async #take(ref: BlobRef, from: BlobSource): Promise<void> {
    const givers = new Set<BlobSource>()
    const bytes = await collectBytes(this.#bytes(ref, from, givers), ref.size)
    try {
      await this.#deps.store.put(bytes, ref)
    } catch (error) {
      if (error instanceof MeshError && error.code === 'MESH0502') this.#blame(givers)
      throw error
    }
  }

  async #follow(ref: BlobRef, from: BlobSource, onSpool: (spool: Spool) => void): Promise<void> {
    const givers = new Set<BlobSource>()
    const hasher = new Hasher()
    let spool: Spool | undefined
    using room = await this.#deps.reserve(ref.size)
    try {
      for await (const bytes of this.#bytes(ref, from, givers)) {
        hasher.update(bytes)
        if (spool === undefined) {
          spool = new Spool(join(this.#directory, String(++this.#spoolCount)))
          await spool.append(bytes)
          onSpool(spool) // its readers wait for bytes
        } else await spool.append(bytes)
      }
      await spool?.flush()
      if (spool === undefined || hasher.digest() !== ref.digest) {
        this.#blame(givers)
        throw new MeshError('MESH0502', `what was sent as ${ref.digest} is something else`)
      }
      room[Symbol.dispose]() // the store counts it from here on
      await this.#deps.store.putFile(spool.path, { move: true })
      spool.accept()
    } catch (error) {
      spool?.break(error)
      throw diskError(error, this.#directory)
    } finally {
      if (spool !== undefined) rmSync(spool.path, { force: true })
    }
  }

  #bytes(ref: BlobRef, from: BlobSource, givers: Set<BlobSource>): AsyncIterable<Uint8Array> {
    const { clock, log, health } = this.#deps
    const others = this.#deps.stages(ref.digest, this.#lifetime.signal)
    const trail = this.#trail([async () => [from], ...others])
    return bytesFromAny({ clock, log, health }, trail, ref, {
      mayMix: true,
      signal: this.#lifetime.signal,
      onPiece: (source, byteCount, usedBytes) => {
        this.#stats.bytesIn += byteCount
        if (usedBytes > 0) givers.add(source)
      },
    })
  }

  /** Of several givers nobody knows which one lied: `obtain` finds out. */
  #blame(givers: ReadonlySet<BlobSource>): void {
    const [only, ...others] = givers
    if (only === undefined || others.length > 0) return
    const { clock, health, log } = this.#deps
    health.note(only, 'wrong', clock.nowMs())
    log.warn({ source: only.name }, 'source sent wrong bytes and was banned')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#lifetime.abort(new MeshError('MESH0108', 'the mirror is stopping'))
    await Promise.allSettled([...this.#pulls.values()].map(({ done }) => done))
    rmSync(this.#directory, { recursive: true, force: true })
  }
}

async function* once<T>(value: T): AsyncGenerator<T> {
  yield value
}
