/**
 * The read side of the store over HTTP, in the layout of a static mirror: for other nodes, for mirrors
 * that pull through, and for people with curl.
 *
 * Plain `node:http`, since bodies may be terabytes and nothing of a framework is needed. Who may read is
 * decided before.
 */
import { once } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Logger } from 'pino'
import { MeshError, type ErrorCode } from '../base/errors.ts'
import { collectBytes } from '../files/collect-bytes.ts'
import { BATCH_HEAD_BYTES } from '../wire/api.ts'
import { BATCH_REQUEST_BYTES_MAX, decodeBatchRequest } from '../wire/cas-messages.ts'
import { digestBytes, isDigest, type Digest } from '../wire/digest.ts'
import { encodeSignedResult } from '../wire/result.ts'
import type { ActionCache } from './action-cache.ts'
import { SMALL_BLOB_BYTES_MAX } from './blob-source.ts'
import type { ChunkIndex } from './chunks/chunk-index.ts'
import type { ReadableStore } from './mirror/pull-through.ts'

/** What is sent of a batch in one write. */
const BATCH_WRITE_BYTES = 256 * 1024
/** Blobs of a batch that are read side by side: a mirror that pulls through waits for each. */
const BATCH_READS = 16
/** What a client may try again after this long. */
const RETRY_AFTER_S = 5
const FOR_EVER = 'public, max-age=31536000, immutable'
const LIST_ENDING = '.chunks'

interface Deps {
  readonly store: ReadableStore
  readonly actions: Pick<ActionCache, 'find'>
  readonly chunks?: Pick<ChunkIndex, 'encodedListOf'> | undefined
  readonly log: Logger
}

/**
 * Answers `/cas/<hex>`, `/cas/sha256/<ab>/<hex>`, each also with `.chunks` for the chunk list of the blob,
 * `/ac/<hex>` and `POST /cas/batch`; resolves false, having touched nothing, for any other URL.
 */
export function casRoutes(
  deps: Deps,
): (request: IncomingMessage, response: ServerResponse) => Promise<boolean> {
  return async (request, response) => {
    const path = (request.url ?? '').split('?', 1)[0] ?? ''
    if (!path.startsWith('/cas/') && !path.startsWith('/ac/')) return false
    try {
      await answer(deps, request, response, path)
    } catch (error) {
      const refusal = error instanceof MeshError ? REFUSALS[error.code] : undefined
      if (error instanceof MeshError && refusal !== undefined && !response.headersSent)
        refuse(response, refusal.status, error.message, refusal.headers)
      else {
        // Too late for a status: only an ended connection tells the reader that this is not all.
        if (!response.destroyed) deps.log.debug({ err: error, path }, 'answer was cut off')
        response.destroy()
      }
    }
    return true
  }
}

const TRY_LATER = { status: 503, headers: { 'retry-after': String(RETRY_AFTER_S) } } as const

/** Errors that a reader is told; any other is ours. */
const REFUSALS: Readonly<
  Partial<
    Record<
      ErrorCode,
      { readonly status: number; readonly headers?: Readonly<Record<string, string>> }
    >
  >
> = {
  MESH0210: { status: 400 },
  MESH0211: { status: 413, headers: { connection: 'close' } },
  MESH0501: TRY_LATER,
  MESH0503: TRY_LATER,
}

async function answer(
  deps: Deps,
  request: IncomingMessage,
  response: ServerResponse,
  path: string,
): Promise<void> {
  if (path === '/cas/batch') {
    if (request.method !== 'POST')
      refuse(response, 405, 'POST a list of digests', { allow: 'POST' })
    else await sendBatch(deps.store, request, response)
    return
  }
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    refuse(response, 405, 'read only', { allow: 'GET, HEAD' })
    return
  }
  const isList = path.startsWith('/cas/') && path.endsWith(LIST_ENDING)
  const digest = digestOf(isList ? path.slice(0, -LIST_ENDING.length) : path)
  if (digest === undefined) refuse(response, 400, 'expected 64 lower-case hex digits')
  else if (isList) await sendChunkList(deps.chunks, request, response, digest)
  else if (path.startsWith('/ac/')) await sendResult(deps.actions, request, response, digest)
  else await sendBlob(deps.store, request, response, digest)
}

/** The digest that a path names. Never builds a path out of anything else. */
function digestOf(path: string): Digest | undefined {
  const match = /^\/(?:cas|ac|cas\/sha256\/([0-9a-f]{2}))\/([0-9a-f]{64})$/.exec(path)
  const [, prefix, hex = ''] = match ?? []
  return isDigest(hex) && (prefix === undefined || hex.startsWith(prefix)) ? hex : undefined
}

async function sendBlob(
  store: ReadableStore,
  request: IncomingMessage,
  response: ServerResponse,
  digest: Digest,
): Promise<void> {
  const sizeBytes = await store.sizeOf(digest)
  if (sizeBytes === undefined) {
    refuse(response, 404, 'not here')
    return
  }
  const etag = `"${digest}"`
  const headers = {
    'accept-ranges': 'bytes',
    'cache-control': FOR_EVER,
    'content-type': 'application/octet-stream',
    etag,
  }
  if (matchesEtag(request.headers['if-none-match'], etag)) {
    response.writeHead(304, headers).end()
    return
  }
  const ifRange = request.headers['if-range']
  const range =
    ifRange === undefined || ifRange === etag
      ? parseRange(request.headers.range, sizeBytes)
      : undefined
  if (range === 'unsatisfiable') {
    refuse(response, 416, 'the range begins beyond the end', {
      'content-range': `bytes */${sizeBytes}`,
    })
    return
  }
  const { start, end } = range ?? { start: 0, end: sizeBytes }
  const status = range === undefined ? 200 : 206
  const lengths = {
    'content-length': end - start,
    ...(range === undefined ? {} : { 'content-range': `bytes ${start}-${end - 1}/${sizeBytes}` }),
  }
  if (request.method === 'HEAD') {
    response.writeHead(status, { ...headers, ...lengths }).end()
    return
  }
  await using reader = await store.open(digest, { offsetBytes: start, lengthBytes: end - start })
  if (reader?.sizeBytes !== sizeBytes) {
    refuse(response, 404, 'not here')
    return
  }
  response.writeHead(status, { ...headers, ...lengths })
  for await (const bytes of reader) await write(response, bytes)
  response.end()
}

async function sendResult(
  actions: Deps['actions'],
  request: IncomingMessage,
  response: ServerResponse,
  action: Digest,
): Promise<void> {
  const found = await actions.find(action)
  if (found === undefined) {
    refuse(response, 404, 'no result')
    return
  }
  const bytes = encodeSignedResult(found.signed)
  // A result may be replaced by a newer one of the same action.
  response.writeHead(200, {
    'cache-control': 'no-cache',
    'content-type': 'application/cbor',
    'content-length': bytes.byteLength,
  })
  response.end(request.method === 'GET' ? bytes : undefined)
}

/** A function of the blob, so it never changes either. */
async function sendChunkList(
  chunks: Deps['chunks'],
  request: IncomingMessage,
  response: ServerResponse,
  blob: Digest,
): Promise<void> {
  const bytes = await chunks?.encodedListOf(blob)
  if (bytes === undefined) {
    refuse(response, 404, 'no chunk list')
    return
  }
  response.writeHead(200, {
    'cache-control': FOR_EVER,
    'content-type': 'application/cbor',
    'content-length': bytes.byteLength,
  })
  response.end(request.method === 'GET' ? bytes : undefined)
}

/** Repeats [digest, u64 size, bytes] for those blobs that are here and small. */
async function sendBatch(
  store: ReadableStore,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  if (Number(request.headers['content-length'] ?? 0) > BATCH_REQUEST_BYTES_MAX) {
    refuse(response, 413, `at most ${BATCH_REQUEST_BYTES_MAX} bytes`, { connection: 'close' })
    return
  }
  const digests = decodeBatchRequest(await collectBytes(request, BATCH_REQUEST_BYTES_MAX))
  response.writeHead(200, {
    'cache-control': 'no-store',
    'content-type': 'application/octet-stream',
  })
  let pieces: Uint8Array[] = []
  let pieceBytes = 0
  for await (const [digest, bytes] of readAhead(store, digests)) {
    const head = Buffer.alloc(BATCH_HEAD_BYTES)
    head.set(digestBytes(digest))
    head.writeBigUInt64BE(BigInt(bytes.byteLength), 32)
    pieces.push(head, bytes)
    pieceBytes += head.byteLength + bytes.byteLength
    if (pieceBytes < BATCH_WRITE_BYTES) continue
    await write(response, Buffer.concat(pieces))
    pieces = []
    pieceBytes = 0
  }
  response.end(Buffer.concat(pieces))
}

/** The small ones of the blobs that can be had, in order. */
async function* readAhead(
  store: ReadableStore,
  digests: readonly Digest[],
): AsyncGenerator<readonly [Digest, Uint8Array]> {
  const read = async (digest: Digest): Promise<Uint8Array | undefined> => {
    try {
      const sizeBytes = await store.sizeOf(digest)
      if (sizeBytes === undefined || sizeBytes > SMALL_BLOB_BYTES_MAX) return undefined
      return await store.read(digest, SMALL_BLOB_BYTES_MAX)
    } catch (error) {
      // One that cannot be had now is left out like one that is absent.
      if (error instanceof MeshError && REFUSALS[error.code] !== undefined) return undefined
      throw error
    }
  }
  for (let at = 0; at < digests.length; at += BATCH_READS) {
    const part = digests.slice(at, at + BATCH_READS)
    const found = await Promise.all(part.map(read))
    for (const [index, digest] of part.entries()) {
      const bytes = found[index]
      if (bytes !== undefined) yield [digest, bytes]
    }
  }
}

/** Resolves when more may be written; rejects when nobody listens any more. */
async function write(response: ServerResponse, bytes: Uint8Array): Promise<void> {
  if (response.destroyed) throw new Error('the reader left')
  if (response.write(bytes)) return
  const left = new AbortController()
  const onClose = (): void => left.abort(new Error('the reader left'))
  response.once('close', onClose)
  try {
    await once(response, 'drain', { signal: left.signal })
  } finally {
    response.off('close', onClose)
  }
}

function refuse(
  response: ServerResponse,
  status: number,
  text: string,
  headers: Readonly<Record<string, string>> = {},
): void {
  const body = Buffer.from(`${text}\n`)
  response.writeHead(status, {
    'cache-control': 'no-store',
    'content-type': 'text/plain; charset=utf-8',
    'content-length': body.byteLength,
    ...headers,
  })
  response.end(body)
}

function matchesEtag(header: string | undefined, etag: string): boolean {
  return (
    header !== undefined &&
    header.split(',').some((one) => one.trim().replace(/^W\//, '') === etag || one.trim() === '*')
  )
}

/** One range, `end` exclusive; undefined (the whole) for none, for several and for nonsense, as RFC 9110 allows. */
function parseRange(
  header: string | undefined,
  sizeBytes: number,
): { readonly start: number; readonly end: number } | 'unsatisfiable' | undefined {
  // No range of nothing can be satisfied, but a cache that asks in slices means the whole.
  if (sizeBytes === 0) return undefined
  const match = /^bytes=(\d*)-(\d*)$/.exec(header ?? '')
  const [, first = '', last = ''] = match ?? []
  if (first === '' && last === '') return undefined
  if (first === '') {
    const length = Math.min(Number(last), sizeBytes)
    return length === 0 ? 'unsatisfiable' : { start: sizeBytes - length, end: sizeBytes }
  }
  const start = Number(first)
  const end = last === '' ? sizeBytes : Math.min(Number(last) + 1, sizeBytes)
  if (start >= sizeBytes) return 'unsatisfiable'
  return start < end ? { start, end } : undefined
}
