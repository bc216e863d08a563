/**
 * Tries a mirror with real requests, as `mesh mirror test` asks: which layout it has, whether it gives parts,
 * how fast it is, and whether its bytes are right. What it finds is told, not used.
 */
import { request, type Dispatcher } from 'undici'
import { deadline, type Clock } from '../../base/clock.ts'
import { messageOf } from '../../base/errors.ts'
import type { Random } from '../../base/random.ts'
import { collectBytes } from '../../files/collect-bytes.ts'
import type { BlobStore } from '../../store/blob-store.ts'
import { digestFromBytes, Hasher, type Digest } from '../../wire/digest.ts'
import type { MirrorTest, MirrorTestQuery } from '../../wire/mirrors.ts'

/** For all that is tried at one mirror. */
const TEST_MS = 30_000
/** Larger blobs are not fetched for a test. */
const TEST_BLOB_BYTES_MAX = 64 * 1024 * 1024
/** Blobs of this node that a mirror may have or not; of this many the first that are of a fit size. */
const SAMPLES_MAX = 8
const LOOKED_AT_MAX = 1_000
/** Both ends of the part that is asked for. */
const PART = { first: 1, last: 4 } as const

interface Deps {
  readonly clock: Clock
  readonly random: Random
}

/** Tries one mirror, or all of this node's one after the other: together they would measure each other. */
export async function testMirrors(
  deps: Deps & { readonly store: Pick<BlobStore, 'list'>; readonly urls: readonly string[] },
  query: MirrorTestQuery,
  signal: AbortSignal,
): Promise<MirrorTest[]> {
  const { digest } = query
  const samples = digest === undefined ? await samplesOf(deps.store) : [digest]
  const tests: MirrorTest[] = []
  for (const url of query.url === undefined ? deps.urls : [query.url])
    tests.push(await testMirror(deps, { url, samples, isExpected: digest !== undefined }, signal))
  return tests
}

async function samplesOf(store: Pick<BlobStore, 'list'>): Promise<Digest[]> {
  const samples: Digest[] = []
  let count = 0
  for await (const { digest, size } of store.list()) {
    if (size > PART.last && size <= TEST_BLOB_BYTES_MAX) samples.push(digest)
    if (samples.length >= SAMPLES_MAX || ++count >= LOOKED_AT_MAX) break
  }
  return samples
}

interface Query {
  readonly url: string
  /** What it may have; the first that it has is fetched. */
  readonly samples: readonly Digest[]
  /** It should have that one. */
  readonly isExpected: boolean
}

/** Never throws for what the mirror does. */
async function testMirror(deps: Deps, query: Query, signal: AbortSignal): Promise<MirrorTest> {
  const limit = deadline(
    deps.clock,
    TEST_MS,
    () => new Error(`the test took longer than ${TEST_MS / 1000} s`),
    signal,
  )
  const trial = new Trial(deps, query, limit.signal)
  try {
    await trial.run()
  } catch (error) {
    signal.throwIfAborted()
    trial.outcome.problems.push(messageOf(limit.signal.aborted ? limit.signal.reason : error))
  } finally {
    limit.cancel()
  }
  return { ...trial.outcome, ok: trial.outcome.problems.length === 0 }
}

const LAYOUTS = {
  sharded: (digest: Digest) => `cas/sha256/${digest.slice(0, 2)}/${digest}`,
  flat: (digest: Digest) => `cas/${digest}`,
} as const
type Layout = keyof typeof LAYOUTS

class Trial {
  readonly outcome: Omit<MirrorTest, 'ok'>
  readonly #deps: Deps
  readonly #query: Query
  readonly #signal: AbortSignal

  constructor(deps: Deps, query: Query, signal: AbortSignal) {
    this.#deps = deps
    this.#query = query
    this.#signal = signal
    this.outcome = {
      url: query.url,
      layout: null,
      range: null,
      latencyMs: null,
      bytesPerS: null,
      blob: null,
      wrongBytes: false,
      problems: [],
    }
  }

  async run(): Promise<void> {
    await this.#tryAbsent()
    for (const digest of this.#query.samples)
      for (const layout of ['sharded', 'flat'] as const) {
        const sizeBytes = await this.#sizeAt(layout, digest)
        if (sizeBytes === undefined) continue
        this.outcome.layout = layout
        if (sizeBytes > TEST_BLOB_BYTES_MAX) {
          this.outcome.problems.push(
            `says that ${digest} has ${sizeBytes} bytes: too many for a test`,
          )
          return
        }
        const beginning = await this.#tryWhole(layout, digest)
        if (beginning !== undefined) await this.#tryPart(layout, digest, beginning)
        return
      }
    if (this.#query.isExpected) this.outcome.problems.push('does not have the blob')
  }

  /** Nobody has a blob with a random name; a page that says 200 to everything is no mirror. */
  async #tryAbsent(): Promise<void> {
    const digest = digestFromBytes(this.#deps.random.bytes(32))
    const startedAtMs = this.#deps.clock.nowMs()
    const response = await this.#request('GET', 'sharded', digest)
    this.outcome.latencyMs = this.#deps.clock.nowMs() - startedAtMs
    await response.body.dump()
    if (![403, 404, 410].includes(response.statusCode))
      this.outcome.problems.push(
        `answers ${response.statusCode}, not 404, for a blob that nobody has`,
      )
  }

  async #sizeAt(layout: Layout, digest: Digest): Promise<number | undefined> {
    const response = await this.#request('HEAD', layout, digest)
    await response.body.dump()
    if (response.statusCode !== 200) return undefined
    return Number(response.headers['content-length'] ?? 0)
  }

  /** The first bytes of the blob, if all of it is right and there are as many as the part needs. */
  async #tryWhole(layout: Layout, digest: Digest): Promise<Buffer | undefined> {
    const { clock } = this.#deps
    const startedAtMs = clock.nowMs()
    const response = await this.#request('GET', layout, digest)
    this.outcome.latencyMs = clock.nowMs() - startedAtMs
    const encoding = response.headers['content-encoding']
    if (response.statusCode !== 200 || encoding !== undefined) {
      this.outcome.problems.push(
        response.statusCode === 200
          ? `compresses what it sends (${String(encoding)}), although asked not to`
          : `has the blob, but answers ${response.statusCode} to GET`,
      )
      await response.body.dump()
      return undefined
    }
    const hasher = new Hasher()
    let beginning: Buffer = Buffer.alloc(0)
    let size = 0
    for await (const piece of response.body) {
      if (!(piece instanceof Uint8Array)) continue
      hasher.update(piece)
      size += piece.byteLength
      if (beginning.byteLength <= PART.last) beginning = Buffer.concat([beginning, piece])
      if (size > TEST_BLOB_BYTES_MAX)
        throw new Error(`sends more than ${TEST_BLOB_BYTES_MAX} bytes`)
    }
    const sent = hasher.digest()
    const tookMs = Math.max(1, clock.nowMs() - startedAtMs)
    this.outcome.bytesPerS = Math.round((size * 1000) / tookMs)
    this.outcome.blob = { digest, size }
    if (sent === digest) return beginning.byteLength > PART.last ? beginning : undefined
    this.outcome.wrongBytes = true
    this.outcome.problems.push(`sends ${sent} as ${digest}`)
    return undefined
  }

  async #tryPart(layout: Layout, digest: Digest, beginning: Buffer): Promise<void> {
    const { first, last } = PART
    const response = await this.#request('GET', layout, digest, {
      range: `bytes=${first}-${last}`,
    })
    if (response.statusCode !== 206) {
      this.outcome.range = false
      await response.body.dump()
      return
    }
    const bytes = await collectBytes(response.body, TEST_BLOB_BYTES_MAX)
    this.outcome.range = beginning.subarray(first, last + 1).equals(bytes)
    if (!this.outcome.range) {
      this.outcome.wrongBytes = true
      this.outcome.problems.push('sends another part than the one that was asked for')
    }
  }

  #request(
    method: 'GET' | 'HEAD',
    layout: Layout,
    digest: Digest,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<Dispatcher.ResponseData> {
    return request(new URL(LAYOUTS[layout](digest), withSlash(this.#query.url)), {
      method,
      headers: { 'accept-encoding': 'identity', ...headers },
      signal: this.#signal,
    })
  }
}

const withSlash = (url: string): string => (url.endsWith('/') ? url : `${url}/`)
