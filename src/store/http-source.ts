/**
 * Blobs over HTTP: from other nodes, and from mirrors that may be no more than a static directory.
 *
 * Servers differ: one ignores Range and sends all, another compresses although asked not to, a third
 * knows only one of the two layouts. Whatever comes, the reader gets the bytes from its offset on and
 * never more than the blob has.
 */
import {
  createBrotliDecompress,
  createGunzip,
  createInflate,
  createZstdDecompress,
} from 'node:zlib'
import { pipeline, type Readable } from 'node:stream'
import { Pool, type Dispatcher } from 'undici'
import type { Clock } from '../base/clock.ts'
import { messageOf } from '../base/errors.ts'
import { collectBytes } from '../files/collect-bytes.ts'
import { BATCH_HEAD_BYTES } from '../wire/api.ts'
import { encodeBatchRequest } from '../wire/cas-messages.ts'
import { OBJECT_BYTES_MAX } from '../wire/cbor.ts'
import type { ChunkList } from '../wire/chunk-list.ts'
import { digestFromBytes, type BlobRef, type Digest } from '../wire/digest.ts'
import {
  BATCH_ITEMS_MAX,
  CONNECT_MS,
  LIST_MS,
  SMALL_BLOB_BYTES_MAX,
  SourceError,
  STALL_MS,
  type BlobSource,
  type FetchRange,
} from './blob-source.ts'
import { receivedChunkList } from './cas/received-chunk-list.ts'
import { pinnedConnector, type PeerAccess } from './pinned-connector.ts'
import { within, withStallLimit } from './stall-limit.ts'

const CONNECTIONS_MAX = 8
const BACKSTOP_MS = 30_000

export interface HttpSource extends BlobSource, AsyncDisposable {
  /** The size of a blob; undefined when the server does not have it, or does not tell. */
  sizeOf(digest: Digest, options: { readonly signal: AbortSignal }): Promise<number | undefined>
}

interface HttpSourceOptions {
  /** What `/cas/…` is appended to. */
  readonly url: string
  readonly kind: 'peer' | 'mirror'
  readonly name?: string
  /** For https of another node. Without it certificates are judged as everywhere: by their authorities. */
  readonly access?: PeerAccess
}

/** Connects when it is first asked. */
export function openHttpSource(
  deps: { readonly clock: Clock },
  options: HttpSourceOptions,
): HttpSource {
  return new Http(deps, options)
}

class Http implements HttpSource {
  readonly name: string
  readonly kind: 'peer' | 'mirror'
  readonly fetchMany?: NonNullable<BlobSource['fetchMany']>
  readonly #clock: Clock
  readonly #pool: Pool
  readonly #base: string
  readonly #access: PeerAccess | undefined
  /** Layouts that the server may have; the first is tried first. */
  #layouts: readonly ((digest: Digest) => string)[]

  constructor(deps: { readonly clock: Clock }, options: HttpSourceOptions) {
    const url = new URL(options.url)
    this.name = options.name ?? options.url
    this.kind = options.kind
    this.#clock = deps.clock
    this.#access = options.access
    this.#base = url.pathname.replace(/\/+$/, '')
    // The limits on silence are ours (stall-limit.ts); those of the pool end what nobody reads any more.
    this.#pool = new Pool(url.origin, {
      connections: CONNECTIONS_MAX,
      pipelining: 1,
      connect:
        options.access === undefined
          ? { timeout: CONNECT_MS }
          : pinnedConnector(deps, options.access),
      headersTimeout: BACKSTOP_MS,
      bodyTimeout: BACKSTOP_MS,
    })
    this.#layouts = options.kind === 'peer' ? [flat] : [sharded, flat]
    // A mirror has no batches: it may be a plain directory.
    if (options.kind === 'peer')
      this.fetchMany = (refs, { signal }) => this.#fetchMany(refs, signal)
  }

  async fetch(ref: BlobRef, range: FetchRange): Promise<AsyncIterable<Uint8Array> | undefined> {
    for (const layout of this.#layouts) {
      const path = `${this.#base}${layout(ref.digest)}`
      const bytes = await this.#fetchPath(path, ref, range)
      if (bytes === undefined) continue
      this.#layouts = [layout]
      return bytes
    }
    return undefined
  }

  async chunkList(
    digest: Digest,
    { signal }: { readonly signal: AbortSignal },
  ): Promise<ChunkList | undefined> {
    for (const layout of this.#layouts) {
      const path = `${this.#base}${layout(digest)}.chunks`
      const response = await this.#request({ method: 'GET', path, limitMs: LIST_MS }, signal)
      if (response.statusCode !== 200) {
        discard(response)
        continue
      }
      const body = decoded(response.body, encodingOf(response))
      const bytes = await collectBytes(this.#guard(body, signal), OBJECT_BYTES_MAX)
      return receivedChunkList(digest, bytes)
    }
    return undefined
  }

  async sizeOf(
    digest: Digest,
    { signal }: { readonly signal: AbortSignal },
  ): Promise<number | undefined> {
    for (const layout of this.#layouts) {
      const path = `${this.#base}${layout(digest)}`
      const response = await this.#request({ method: 'HEAD', path }, signal)
      discard(response)
      const length = headerOf(response, 'content-length')
      if (response.statusCode === 200 && encodingOf(response) === undefined && length !== undefined)
        return Number(length)
    }
    return undefined
  }

  async #fetchPath(
    path: string,
    ref: BlobRef,
    { offsetBytes, lengthBytes, signal }: FetchRange,
  ): Promise<AsyncIterable<Uint8Array> | undefined> {
    const endBytes = offsetBytes + (lengthBytes ?? ref.size - offsetBytes)
    // An empty range cannot be asked for: only whether the blob is there.
    const isPart = (offsetBytes > 0 || endBytes < ref.size) && offsetBytes < endBytes
    const last = endBytes < ref.size ? endBytes - 1 : ''
    const headers: Record<string, string> = isPart ? { range: `bytes=${offsetBytes}-${last}` } : {}
    let response = await this.#request({ method: 'GET', path, headers }, signal)
    if (response.statusCode === 206 && encodingOf(response) !== undefined) {
      // A part of the compressed bytes: useless. The whole is asked for, and its beginning skipped.
      discard(response)
      response = await this.#request({ method: 'GET', path }, signal)
    }
    const { statusCode } = response
    if (statusCode === 404 || statusCode === 403 || statusCode === 410) {
      discard(response)
      return undefined
    }
    let skipBytes = offsetBytes
    if (statusCode === 206) {
      const start = /^bytes (\d+)-/.exec(headerOf(response, 'content-range') ?? '')?.[1]
      if (Number(start) !== offsetBytes || !isPart) {
        discard(response)
        throw new SourceError(
          'failed',
          `answered bytes ${start ?? 'of no range'} when asked from ${offsetBytes}`,
        )
      }
      skipBytes = 0
    } else if (statusCode !== 200) {
      discard(response)
      throw new SourceError('failed', `answered ${statusCode} for ${path}`)
    } else if (isPart && lengthBytes !== undefined) {
      // Whoever asks for parts asks for many.
      discard(response)
      throw new SourceError('failed', 'sends all when asked for a part')
    }
    const encoding = encodingOf(response)
    const length = headerOf(response, 'content-length')
    const expectedLength = endBytes - offsetBytes + skipBytes
    if (encoding === undefined && length !== undefined && Number(length) !== expectedLength) {
      discard(response)
      throw new SourceError('failed', `announced ${length} bytes of ${expectedLength}`)
    }
    const body = decoded(response.body, encoding)
    return exactly(this.#guard(body, signal), { skipBytes, lengthBytes: endBytes - offsetBytes })
  }

  async *#fetchMany(
    refs: readonly BlobRef[],
    signal: AbortSignal,
  ): AsyncGenerator<{ readonly ref: BlobRef; readonly bytes: Uint8Array }> {
    for (let at = 0; at < refs.length; at += BATCH_ITEMS_MAX) {
      const wanted = new Map(refs.slice(at, at + BATCH_ITEMS_MAX).map((ref) => [ref.digest, ref]))
      const response = await this.#request(
        {
          method: 'POST',
          path: `${this.#base}/cas/batch`,
          headers: { 'content-type': 'application/cbor' },
          body: Buffer.from(encodeBatchRequest([...wanted.keys()])),
        },
        signal,
      )
      if (response.statusCode !== 200) {
        discard(response)
        throw new SourceError('failed', `answered ${response.statusCode} for a batch`)
      }
      yield* parseBatch(this.#guard(response.body, signal), wanted)
    }
  }

  /** With a token where one is needed; one that is refused is replaced once. */
  async #request(options: HttpRequest, signal: AbortSignal): Promise<Dispatcher.ResponseData> {
    const access = this.#access
    if (access === undefined) return this.#send(options, signal)
    let why = ''
    let refused: string | undefined
    for (;;) {
      let token: string
      try {
        token = await access.token({ signal, ...(refused === undefined ? {} : { refused }) })
      } catch (error) {
        signal.throwIfAborted()
        throw new SourceError('failed', `${why}no token for it: ${messageOf(error)}`, {
          cause: error,
        })
      }
      const headers = { ...options.headers, authorization: `Bearer ${token}` }
      const response = await this.#send({ ...options, headers }, signal)
      if (response.statusCode !== 401) return response
      const text = Buffer.from(await collectBytes(this.#guard(response.body, signal), 1024))
      why = `answered 401: ${text.toString().trim()}; `
      if (refused !== undefined) throw new SourceError('failed', `${why}with a new token as well`)
      refused = token
    }
  }

  async #send(options: HttpRequest, signal: AbortSignal): Promise<Dispatcher.ResponseData> {
    signal.throwIfAborted()
    const controller = new AbortController()
    const { limitMs = CONNECT_MS + STALL_MS, ...request } = options
    const headers = { 'accept-encoding': 'identity', ...options.headers }
    const answer = this.#pool.request({
      ...request,
      headers,
      signal: AbortSignal.any([signal, controller.signal]),
    })
    try {
      const response = await within(
        this.#clock,
        answer,
        limitMs,
        () => new SourceError('stalled', `did not answer for ${limitMs / 1000} s`),
      )
      // A body that is dropped unread fails with nobody listening; its reader gets the error all the same.
      response.body.on('error', () => undefined)
      return response
    } catch (error) {
      controller.abort()
      signal.throwIfAborted()
      if (error instanceof SourceError) throw error
      throw new SourceError('failed', messageOf(error), { cause: error })
    }
  }

  /** The body with its limit on silence, and with its errors as those of this source. */
  async *#guard(body: AsyncIterable<Uint8Array>, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    try {
      yield* withStallLimit(
        this.#clock,
        body,
        STALL_MS,
        () => new SourceError('stalled', `sent nothing for ${STALL_MS / 1000} s`),
      )
    } catch (error) {
      signal.throwIfAborted()
      if (error instanceof SourceError) throw error
      throw new SourceError('failed', messageOf(error), { cause: error })
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pool.destroy()
  }
}

type HttpRequest = Pick<Dispatcher.RequestOptions, 'method' | 'path' | 'body'> & {
  readonly headers?: Readonly<Record<string, string>>
  /** How long the answer may take to begin. */
  readonly limitMs?: number
}

const flat = (digest: Digest): string => `/cas/${digest}`
const sharded = (digest: Digest): string => `/cas/sha256/${digest.slice(0, 2)}/${digest}`

function headerOf(response: Dispatcher.ResponseData, name: string): string | undefined {
  const value = response.headers[name]
  return typeof value === 'string' ? value : value?.[0]
}

function encodingOf(response: Dispatcher.ResponseData): string | undefined {
  const encoding = headerOf(response, 'content-encoding')?.toLowerCase()
  return encoding === 'identity' ? undefined : encoding
}

/** Lets the connection be used again, or ends it when much is still to come. Nobody waits for that. */
function discard(response: Dispatcher.ResponseData): void {
  response.body.dump({ limit: 64 * 1024 }).catch(() => undefined)
}

function decoded(body: Readable, encoding: string | undefined): AsyncIterable<Uint8Array> {
  if (encoding === undefined) return body
  const decoders: Record<string, () => NodeJS.ReadWriteStream & Readable> = {
    gzip: createGunzip,
    'x-gzip': createGunzip,
    deflate: createInflate,
    br: createBrotliDecompress,
    zstd: createZstdDecompress,
  }
  const create = decoders[encoding]
  if (create === undefined) {
    body.destroy()
    throw new SourceError(
      'failed',
      `sent the unknown encoding ${JSON.stringify(encoding.slice(0, 40))}`,
    )
  }
  const decoder = create()
  // Its error also destroys the decoder, whose reader gets it.
  pipeline(body, decoder, () => undefined)
  return decoder
}

/** The bytes after the first `skipBytes`: `lengthBytes` of them, or an error. */
async function* exactly(
  source: AsyncIterable<Uint8Array>,
  { skipBytes, lengthBytes }: { readonly skipBytes: number; readonly lengthBytes: number },
): AsyncGenerator<Uint8Array> {
  let skip = skipBytes
  let given = 0
  for await (const piece of source) {
    const bytes = piece.subarray(Math.min(skip, piece.byteLength))
    skip -= piece.byteLength - bytes.byteLength
    given += bytes.byteLength
    if (given > lengthBytes) throw new SourceError('failed', `sent more than ${lengthBytes} bytes`)
    if (bytes.byteLength > 0) yield bytes
  }
  if (given !== lengthBytes)
    throw new SourceError('failed', `ended after ${given} of ${lengthBytes} bytes`)
}

/** Reads [digest, u64 size, bytes]…; refuses what was not asked for. */
async function* parseBatch(
  source: AsyncIterable<Uint8Array>,
  wanted: ReadonlyMap<Digest, BlobRef>,
): AsyncGenerator<{ readonly ref: BlobRef; readonly bytes: Uint8Array }> {
  const rest = new Map(wanted)
  let buffer: Buffer = Buffer.alloc(0)
  let needBytes = BATCH_HEAD_BYTES
  for await (const piece of source) {
    buffer = buffer.byteLength === 0 ? Buffer.from(piece) : Buffer.concat([buffer, piece])
    while (buffer.byteLength >= needBytes) {
      const digest = digestFromBytes(buffer.subarray(0, 32))
      const ref = rest.get(digest)
      const size = Number(buffer.readBigUInt64BE(32))
      if (ref === undefined || size > SMALL_BLOB_BYTES_MAX)
        throw new SourceError('wrong', `sent ${digest} of ${size} bytes in a batch`)
      needBytes = BATCH_HEAD_BYTES + size
      if (buffer.byteLength < needBytes) break
      rest.delete(digest)
      // Copied: the buffer of the whole batch would live as long as one blob of it.
      // Another size is another blob: as good as absent.
      if (size === ref.size)
        yield { ref, bytes: new Uint8Array(buffer.subarray(BATCH_HEAD_BYTES, needBytes)) }
      buffer = buffer.subarray(needBytes)
      needBytes = BATCH_HEAD_BYTES
    }
  }
  if (buffer.byteLength > 0)
    throw new SourceError('failed', 'a batch ended in the middle of a blob')
}
