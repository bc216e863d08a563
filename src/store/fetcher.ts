/**
 * Brings blobs into the store from wherever they are: hints of the caller first, then whoever is located,
 * then mirrors. Each blob is fetched once however many ask for it; small ones travel together.
 *
 * Bytes go through memory piece by piece into the store, which alone decides whether they are the right
 * ones. A source that dies midway is continued by another at the same byte.
 */
import type { Logger } from 'pino'
import type { Clock } from '../base/clock.ts'
import { MeshError, messageOf } from '../base/errors.ts'
import type { Random } from '../base/random.ts'
import { mapLimited } from '../files/map-limited.ts'
import { OBJECT_BYTES_MAX } from '../wire/cbor.ts'
import { isChunked, type ChunkList } from '../wire/chunk-list.ts'
import { cidOf, type BlobRef, type Digest } from '../wire/digest.ts'
import { blobOf, decodeTree, TREE_DEPTH_MAX, type Entry, type Tree } from '../wire/tree.ts'
import { SMALL_BLOB_BYTES_MAX, SourceError, type BlobSource } from './blob-source.ts'
import type { BlobStore } from './blob-store.ts'
import { ByteWindow } from './byte-window.ts'
import { asSourceError, Trail } from './fetch/trail.ts'
import { batches } from './fetch/batches.ts'
import { firstToBegin } from './fetch/hedge.ts'
import { BrokenOff, bytesFromAny } from './fetch/side-by-side.ts'
import { SourceHealth } from './fetch/source-health.ts'
import { orAborted } from '../base/or-aborted.ts'
import { within } from './stall-limit.ts'
import type { Swarms } from './swarm/swarms.ts'

/** Blobs, or batches of small ones, that are fetched at a time. */
const FETCHES_AT_ONCE = 8
/** The others are used meanwhile; then it is as if nobody had been located. */
const LOCATE_MS = 2_000
/** Blobs of one tree. */
const TREE_BLOBS_MAX = 500_000

/** Bytes by where they came from. */
export interface FetchedBytes {
  readonly local: number
  readonly peer: number
  readonly mirror: number
}

interface FetchOptions {
  /** Sources that probably have it, best first. */
  readonly hints?: readonly BlobSource[]
  /** The tree that all of them are parts of. */
  readonly within?: BlobRef
  readonly signal: AbortSignal
}

export interface Fetcher {
  /**
   * Resolves when the blob is in the store. Throws MESH0501 naming each source with its answer, MESH0503
   * for a full disk.
   */
  fetch(ref: BlobRef, options: FetchOptions): Promise<FetchedBytes>
  /** All of them; what was fetched stays when one fails. */
  fetchAll(refs: readonly BlobRef[], options: FetchOptions): Promise<FetchedBytes>
  /** The blob of the entry and, for a directory, everything under it. */
  fetchTree(entry: Entry, options: FetchOptions): Promise<FetchedBytes>
  /** Received since the start, wrong and repeated bytes included: for metrics. */
  readonly totals: { readonly peer: number; readonly mirror: number }
}

/** Who has what, besides the hints; asked at most once per fetch, for all its blobs. */
export type Locate = (
  refs: readonly BlobRef[],
  options: { readonly within?: BlobRef | undefined; readonly signal: AbortSignal },
) => Promise<ReadonlyMap<Digest, readonly BlobSource[]>>

interface FetcherDeps {
  readonly store: BlobStore
  readonly clock: Clock
  readonly log: Logger
  readonly random: Random
  readonly locate?: Locate
  /** What is known of sources, where others look at it too. */
  readonly health?: SourceHealth
  /** Big blobs are fetched in parts from many; without it, whole from one at a time. */
  readonly swarms?: Pick<Swarms, 'fetch'> | undefined
}

export function openFetcher(
  deps: FetcherDeps,
  options: { readonly mirrors?: readonly BlobSource[] } = {},
): Fetcher {
  return new StoreFetcher(deps, options.mirrors ?? [])
}

type Located = () => Promise<ReadonlyMap<Digest, readonly BlobSource[]>>

class StoreFetcher implements Fetcher {
  readonly totals = { peer: 0, mirror: 0 }
  readonly #deps: FetcherDeps
  readonly #store: BlobStore
  readonly #mirrors: readonly BlobSource[]
  readonly #health: SourceHealth
  readonly #slots = new ByteWindow({ bytesMax: FETCHES_AT_ONCE })
  /** What is being fetched. Its failure is its starter's: others that wait for it try themselves then. */
  readonly #flights = new Map<Digest, Promise<FetchedBytes>>()

  constructor(deps: FetcherDeps, mirrors: readonly BlobSource[]) {
    this.#deps = deps
    this.#store = deps.store
    this.#mirrors = mirrors
    this.#health = deps.health ?? new SourceHealth({ random: deps.random })
  }

  fetch(ref: BlobRef, options: FetchOptions): Promise<FetchedBytes> {
    return this.#fetchOnce(ref, options, this.#locator([ref], options))
  }

  async #fetchOnce(
    ref: BlobRef,
    options: FetchOptions,
    located: Located,
    results: ReadonlyMap<string, string> = new Map(),
  ): Promise<FetchedBytes> {
    for (;;) {
      options.signal.throwIfAborted()
      const sizeBytes = await this.#store.sizeOf(ref.digest)
      if (sizeBytes === ref.size) return allFrom('local', ref)
      if (sizeBytes !== undefined)
        throw new MeshError(
          'MESH0501',
          `${cidOf(ref.digest)} has ${sizeBytes} bytes, not ${ref.size}: no source can give it`,
        )
      const flight = this.#flights.get(ref.digest)
      if (flight === undefined)
        return this.#fly(ref.digest, this.#fetchOne(ref, options, located, results))
      const isDone = await orAborted(flight, options.signal).then(
        () => true,
        () => false,
      )
      if (isDone) continue // it is in the store now, or was evicted since
    }
  }

  #fly(digest: Digest, work: Promise<FetchedBytes>): Promise<FetchedBytes> {
    const flight = work.finally(() => this.#flights.delete(digest))
    this.#flights.set(digest, flight)
    flight.catch(() => undefined) // its starter has the error; there may be nobody else
    return flight
  }

  async #fetchOne(
    ref: BlobRef,
    options: FetchOptions,
    located: Located,
    results: ReadonlyMap<string, string>,
  ): Promise<FetchedBytes> {
    const { signal } = options
    await this.#slots.acquire(1, signal)
    try {
      const inParts = await this.#fetchInParts(ref, options, located)
      if (inParts !== undefined) return inParts
      const trail = this.#trail([ref], options, located, results)
      let mayMix = true
      for (;;) {
        const contributors: BlobSource[] = []
        try {
          await this.#store.put(this.#bytes(ref, trail, { contributors, mayMix, signal }), ref)
          return allFrom(contributors.at(-1)?.kind ?? 'peer', ref)
        } catch (error) {
          signal.throwIfAborted()
          if (error instanceof BrokenOff) continue
          if (!(error instanceof MeshError) || error.code !== 'MESH0502') throw error
          const [only, ...others] = contributors
          if (only !== undefined && others.length === 0) this.#noteWrong(trail, only, error)
          // One of several lied. From now on each has to give the whole, which shows who.
          else {
            mayMix = false
            for (const source of contributors)
              trail.note(source, 'gave a part of wrong bytes', true)
          }
        }
      }
    } finally {
      this.#slots.release(1)
    }
  }

  /** In chunks from many; undefined where that does not work, and it has to come whole. */
  async #fetchInParts(
    ref: BlobRef,
    options: FetchOptions,
    located: Located,
  ): Promise<FetchedBytes | undefined> {
    const { swarms, log, clock } = this.#deps
    if (swarms === undefined || !isChunked(ref.size)) return undefined
    const found = await this.#findList(ref, options, located)
    if (found === undefined) return undefined
    let mirrorBytes = 0
    const { end, localBytes } = await swarms.fetch(ref, found.list, {
      stages: [
        async () => [...(options.hints ?? []), ...((await located()).get(ref.digest) ?? [])],
        async () => this.#mirrors,
      ],
      signal: options.signal,
      onBytes: ({ kind }, byteCount) => {
        this.totals[kind] += byteCount
        if (kind === 'mirror') mirrorBytes += byteCount
      },
    })
    if (end === 'done') {
      const mirror = Math.min(mirrorBytes, ref.size - localBytes)
      return { local: localBytes, mirror, peer: ref.size - localBytes - mirror }
    }
    log.info({ digest: ref.digest, end }, 'blob is fetched whole: in parts it could not be had')
    if (end === 'list is wrong')
      this.#health.note(found.source, 'wrong', clock.nowMs(), 'sent a wrong chunk list')
    return undefined
  }

  /** The chunk list of the first source that gives one. */
  async #findList(
    ref: BlobRef,
    options: FetchOptions,
    located: Located,
  ): Promise<{ readonly source: BlobSource; readonly list: ChunkList } | undefined> {
    const isFit = (source: BlobSource): boolean => source.chunkList !== undefined
    const begun = await firstToBegin(
      { clock: this.#deps.clock, health: this.#health },
      this.#trail([ref], options, located, new Map(), isFit),
      async (source, signal) => {
        const list = await source.chunkList?.(ref.digest, { signal })
        return list === undefined ? undefined : onlyItem(list)
      },
      options.signal,
    )
    if (begun === undefined) return undefined
    try {
      for await (const list of begun.items)
        if (list.size === ref.size) return { source: begun.source, list }
      return undefined
    } finally {
      begun.close()
    }
  }

  #noteWrong(trail: Trail, source: BlobSource, error: unknown): void {
    trail.note(source, `sent wrong bytes: ${messageOf(error)}`)
    this.#health.note(source, 'wrong', this.#deps.clock.nowMs())
    this.#deps.log.warn(
      { source: source.name, err: error },
      'source sent wrong bytes and was banned',
    )
  }

  #bytes(
    ref: BlobRef,
    trail: Trail,
    options: {
      readonly contributors: BlobSource[]
      readonly mayMix: boolean
      readonly signal: AbortSignal
    },
  ): AsyncIterable<Uint8Array> {
    const { contributors, mayMix, signal } = options
    const { clock, log } = this.#deps
    return bytesFromAny({ clock, log, health: this.#health }, trail, ref, {
      mayMix,
      signal,
      onPiece: (source, byteCount, usedBytes) => {
        this.totals[source.kind] += byteCount
        if (usedBytes > 0 && !contributors.includes(source)) contributors.push(source)
      },
    })
  }

  async fetchAll(refs: readonly BlobRef[], options: FetchOptions): Promise<FetchedBytes> {
    const missing = await this.#store.missing(refs)
    const located = this.#locator(missing, options)
    const sum = { local: 0, peer: 0, mirror: 0 }
    for (const { size } of new Map(refs.map((ref) => [ref.digest, ref])).values()) sum.local += size
    for (const { size } of missing) sum.local -= size
    const add = ({ local, peer, mirror }: FetchedBytes): void => {
      sum.local += local
      sum.peer += peer
      sum.mirror += mirror
    }
    const work = [
      ...batches(missing.filter((ref) => ref.size <= SMALL_BLOB_BYTES_MAX)),
      ...missing.filter((ref) => ref.size > SMALL_BLOB_BYTES_MAX).map((ref) => [ref]),
    ]
    await mapLimited(work, FETCHES_AT_ONCE, async (batch) => {
      const [first, ...others] = batch
      if (first !== undefined && others.length === 0)
        add(await this.#fetchOnce(first, options, located))
      else for (const fetched of await this.#fetchBatch(batch, options, located)) add(fetched)
    })
    return sum
  }

  /** Small blobs: together from the sources that can, then one by one from the others. */
  async #fetchBatch(
    batch: readonly BlobRef[],
    options: FetchOptions,
    located: Located,
  ): Promise<FetchedBytes[]> {
    const mine = batch.filter(({ digest }) => !this.#flights.has(digest))
    const mineAsked = new Set(mine)
    const done = new Map<Digest, FetchedBytes>()
    const trail = this.#trail(
      mine,
      options,
      located,
      new Map(),
      (source) => source.fetchMany !== undefined,
    )
    // Others that want one of these wait for the whole batch: it is short.
    const flight = this.#fetchTogether(mine, done, trail, options.signal)
    for (const { digest } of mine)
      void this.#fly(
        digest,
        flight.then(() => done.get(digest) ?? Promise.reject(new Error('not in the batch'))),
      )
    await flight
    const rest = batch.filter(({ digest }) => !done.has(digest))
    // Sources that were asked for all of them are not asked again for each.
    const later = await mapLimited(rest, FETCHES_AT_ONCE, (ref) =>
      this.#fetchOnce(ref, options, located, mineAsked.has(ref) ? trail.results : new Map()),
    )
    return [...done.values(), ...later]
  }

  async #fetchTogether(
    refs: readonly BlobRef[],
    done: Map<Digest, FetchedBytes>,
    trail: Trail,
    signal: AbortSignal,
  ): Promise<void> {
    const rest = new Map(refs.map((ref) => [ref.digest, ref]))
    if (rest.size === 0) return
    await this.#slots.acquire(1, signal)
    try {
      while (rest.size > 0) {
        const begun = await firstToBegin(
          { clock: this.#deps.clock, health: this.#health },
          trail,
          async (source, sourceSignal) =>
            source.fetchMany?.([...rest.values()], { signal: sourceSignal }),
          signal,
        )
        if (begun === undefined) return
        await this.#takeBatch(begun.source, begun.items, { rest, done, trail, signal }).finally(
          () => begun.close(),
        )
      }
    } finally {
      this.#slots.release(1)
    }
  }

  /** Stores what the source gives of `rest`, and notes what kept it from giving all. */
  async #takeBatch(
    source: BlobSource,
    items: AsyncIterable<{ readonly ref: BlobRef; readonly bytes: Uint8Array }>,
    state: {
      readonly rest: Map<Digest, BlobRef>
      readonly done: Map<Digest, FetchedBytes>
      readonly trail: Trail
      readonly signal: AbortSignal
    },
  ): Promise<void> {
    const { rest, done, trail, signal } = state
    const iterator = items[Symbol.asyncIterator]()
    try {
      while (rest.size > 0) {
        const next = await iterator.next().catch((error: unknown) => asSourceError(error))
        signal.throwIfAborted()
        if (next instanceof SourceError) {
          trail.note(source, next.message)
          this.#health.note(source, next.reason, this.#deps.clock.nowMs())
          return
        }
        if (next.done === true) {
          trail.note(source, 'does not have it')
          return
        }
        const { ref, bytes } = next.value
        this.totals[source.kind] += bytes.byteLength
        if (!rest.has(ref.digest)) continue
        await this.#store.put(bytes, ref)
        rest.delete(ref.digest)
        done.set(ref.digest, allFrom(source.kind, ref))
      }
      this.#health.noteGood(source)
    } catch (error) {
      if (!(error instanceof MeshError) || error.code !== 'MESH0502') throw error
      this.#noteWrong(trail, source, error)
    } finally {
      await iterator.return?.()
    }
  }

  async fetchTree(entry: Entry, options: FetchOptions): Promise<FetchedBytes> {
    const sum = { local: 0, peer: 0, mirror: 0 }
    const seen = new Set<Digest>()
    let trees: BlobRef[] = []
    let files: BlobRef[] = []
    const want = (one: Entry): void => {
      const ref = blobOf(one)
      if (ref === undefined || seen.has(ref.digest)) return
      seen.add(ref.digest)
      if (seen.size > TREE_BLOBS_MAX)
        throw new MeshError('MESH0211', `a tree has more than ${TREE_BLOBS_MAX} blobs`)
      ;(one.kind === 'dir' ? trees : files).push(ref)
    }
    want(entry)
    // Level by level: the files of one go together with the directories of the next.
    for (let depth = 0; trees.length + files.length > 0; depth++) {
      if (depth > TREE_DEPTH_MAX)
        throw new MeshError('MESH0210', `a tree is deeper than ${TREE_DEPTH_MAX} directories`)
      const level = trees
      // Whoever has the root has the rest: only that is asked for.
      const root = depth === 0 ? undefined : blobOf(entry)
      const fetched = await this.fetchAll([...trees, ...files], {
        ...options,
        ...(root === undefined ? {} : { within: root }),
      })
      sum.local += fetched.local
      sum.peer += fetched.peer
      sum.mirror += fetched.mirror
      trees = []
      files = []
      for (const ref of level)
        for (const child of await this.#readTree(ref, options)) want(child.entry)
    }
    return sum
  }

  async #readTree(ref: BlobRef, options: FetchOptions): Promise<Tree> {
    if (ref.size > OBJECT_BYTES_MAX)
      throw new MeshError(
        'MESH0210',
        `a tree claims ${ref.size} bytes, the limit is ${OBJECT_BYTES_MAX}`,
      )
    for (;;) {
      const bytes = await this.#store.read(ref.digest, OBJECT_BYTES_MAX)
      if (bytes !== undefined) return decodeTree(bytes)
      await this.fetch(ref, options) // evicted since it was fetched
    }
  }

  #trail(
    refs: readonly BlobRef[],
    options: FetchOptions,
    located: Located,
    results: ReadonlyMap<string, string>,
    isFit: (source: BlobSource) => boolean = () => true,
  ): Trail {
    const stages = [
      async () => options.hints ?? [],
      async () => {
        const sources = await located()
        return refs.flatMap(({ digest }) => sources.get(digest) ?? [])
      },
      async () => this.#mirrors,
    ]
    return new Trail(
      { health: this.#health },
      stages.map((stage) => async () => (await stage()).filter(isFit)),
      results,
    )
  }

  /** Asks when first called. A failure to locate is nobody located. */
  #locator(refs: readonly BlobRef[], { within: tree, signal }: FetchOptions): Located {
    const { locate, clock, log } = this.#deps
    let answer: Promise<ReadonlyMap<Digest, readonly BlobSource[]>> | undefined
    const ask = async (): Promise<ReadonlyMap<Digest, readonly BlobSource[]>> => {
      if (locate === undefined) return new Map()
      try {
        return await within(
          clock,
          locate(refs, { within: tree, signal }),
          LOCATE_MS,
          () => new Error(`no answer in ${LOCATE_MS} ms`),
        )
      } catch (error) {
        signal.throwIfAborted()
        log.debug({ err: error, count: refs.length }, 'blobs could not be located')
        return new Map()
      }
    }
    return () => (answer ??= ask())
  }
}

function allFrom(from: keyof FetchedBytes, { size }: BlobRef): FetchedBytes {
  return { local: 0, peer: 0, mirror: 0, [from]: size }
}

async function* onlyItem<T>(item: T): AsyncGenerator<T> {
  yield item
}
