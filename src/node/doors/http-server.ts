/** The API of a node on its unix socket. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { chmod } from 'node:fs/promises'
import { Readable } from 'node:stream'
import fastify, { type FastifyInstance, type FastifyReply } from 'fastify'
import type { Logger } from 'pino'
import type { z } from 'zod'
import { MeshError, hasCode } from '../../base/errors.ts'
import type { BlobStore } from '../../store/blob-store.ts'
import {
  BATCH_BYTES_MAX,
  BATCH_CONTENT_TYPE,
  BATCH_HEAD_BYTES,
  type BatchAnswer,
  BlobRefs,
  Entries,
  type Status,
} from '../../wire/api.ts'
import { parseWith } from '../../wire/cbor.ts'
import { digestFromBytes, isDigest, type Digest } from '../../wire/digest.ts'
import { MirrorTestQuery, type MirrorTest, type MirrorView } from '../../wire/mirrors.ts'
import type { Entry } from '../../wire/tree.ts'
import { API_BODY_BYTES_MAX, type ApiAnswer } from '../../wire/work-messages.ts'
import { parseLogQuery } from '../logs/log-query.ts'
import type { LogOptions } from './logs.ts'
import { problemOf } from './problem.ts'
import { addStorageRoutes, type StorageDeps } from './storage.ts'
import { addLocalBuildRoutes } from './local-builds.ts'
import type { LocalTakers } from '../policy/local-takers.ts'

export interface ApiDoor {
  readonly store: BlobStore
  readonly log: Logger
  /** Whatever is not answered here: by this node, or by the owner. */
  answer(call: { verb: 'GET' | 'POST'; path: string; body: string }): Promise<ApiAnswer>
  status(): Promise<Status>
  submit(id: string, body: unknown): Promise<ApiAnswer>
  /** Lines of JSON, each an Event. */
  events(id: string, signal: AbortSignal): AsyncIterable<string>
  /** One line of JSON, ShellReady; the shell's place is kept until the signal aborts. */
  shell(job: string, query: unknown, signal: AbortSignal): AsyncIterable<string>
  readLog(job: string, options: LogOptions): AsyncIterable<Uint8Array>
  /** Brings a blob, or a tree with all that is in it, into the store; undefined when nobody has it. Throws MESH0501. */
  obtain(
    digest: Digest,
    options: { readonly size: number | undefined; readonly isTree: boolean },
    signal: AbortSignal,
  ): Promise<unknown>
  /** The same for many entries, with all that is below them. */
  obtainAll(entries: readonly Entry[], signal: AbortSignal): Promise<void>
  readonly storage: StorageDeps
  /** Where builds beside the mesh take processors; undefined on a node that runs no builds. */
  takers(): LocalTakers | undefined
  mirrors(): MirrorView[]
  testMirrors(query: MirrorTestQuery, signal: AbortSignal): Promise<MirrorTest[]>
  readonly cas: (request: IncomingMessage, response: ServerResponse) => Promise<boolean>
}

/** Listens on the unix socket; only its owner may connect. */
export async function openApi(
  door: ApiDoor,
  options: { readonly socket: string },
): Promise<FastifyInstance> {
  const app = fastify({
    bodyLimit: API_BODY_BYTES_MAX,
    forceCloseConnections: true,
    exposeHeadRoutes: false,
  })
  // Streams and batches are read by their handlers.
  app.addContentTypeParser('application/octet-stream', (_request, payload, done) =>
    done(null, payload),
  )
  app.addContentTypeParser(
    BATCH_CONTENT_TYPE,
    { parseAs: 'buffer', bodyLimit: BATCH_BYTES_MAX + 1024 * 1024 },
    (_request, body, done) => done(null, body),
  )
  app.setErrorHandler((error, _request, reply) => sendProblem(reply, withCode(error), door.log))
  app.setNotFoundHandler((request, reply) =>
    sendProblem(
      reply,
      new MeshError('MESH0601', `the API has no ${request.method} ${request.url}`),
      door.log,
    ),
  )

  app.get('/api/status', () => door.status())
  addStorageRoutes(app, door.storage, abortedWith)
  addLocalBuildRoutes(app, () => door.takers())
  app.get('/api/mirrors', async () => door.mirrors())
  app.post('/api/mirrors/test', async (request, reply) =>
    door.testMirrors(
      parseWith(MirrorTestQuery, request.body, 'mirror test'),
      abortedWith(reply.raw),
    ),
  )
  app.get('/ac/:hex', async (request, reply) => {
    reply.hijack()
    await door.cas(request.raw, reply.raw)
  })
  app.post('/api/blobs/missing', async (request) => {
    const refs = parseWith(BlobRefs, request.body, 'blob references')
    return (await door.store.missing(refs)).map((ref) => ref.digest)
  })
  app.post('/api/blobs/fetch', async (request, reply) => {
    const entries = parseWith(Entries, request.body, 'entries')
    await door.obtainAll(entries, abortedWith(reply.raw))
    return { fetched: entries.length }
  })
  app.post('/api/blobs', async (request): Promise<z.infer<typeof BatchAnswer>> => {
    if (!Buffer.isBuffer(request.body))
      throw new MeshError('MESH0210', `a blob batch has the content type ${BATCH_CONTENT_TYPE}`)
    return { stored: await storeBatch(door.store, request.body) }
  })
  app.put<{ Params: { hex: string } }>(
    '/cas/:hex',
    async (request): Promise<z.infer<typeof BatchAnswer>> => {
      const { hex } = request.params
      const length = Number(request.headers['content-length'])
      if (!isDigest(hex) || !Number.isSafeInteger(length))
        throw new MeshError(
          'MESH0210',
          'PUT /cas/HEX needs 64 lower-case hex digits and a content-length',
        )
      if (!(request.body instanceof Readable))
        throw new MeshError(
          'MESH0210',
          'PUT /cas/HEX needs the content type application/octet-stream',
        )
      await door.store.put(request.body, { digest: hex, size: length })
      return { stored: 1 }
    },
  )
  app.route<{
    Params: { hex: string }
    Querystring: { fetch?: string; size?: string; tree?: string }
  }>({
    method: ['GET', 'HEAD'],
    url: '/cas/:hex',
    async handler(request, reply) {
      const { hex } = request.params
      if (request.query.fetch === '1' && isDigest(hex)) {
        const size = request.query.size === undefined ? undefined : Number(request.query.size)
        await door.obtain(
          hex,
          { size, isTree: request.query.tree === '1' },
          abortedWith(request.raw),
        )
      }
      reply.hijack()
      await door.cas(request.raw, reply.raw)
    },
  })
  app.put<{ Params: { id: string } }>('/api/requests/:id', async (request, reply) => {
    sendAnswer(reply, await door.submit(request.params.id, request.body))
    return reply
  })
  app.get<{ Params: { id: string } }>('/api/jobs/:id/shell', (request, reply) => {
    const signal = abortedWith(reply.raw)
    const answer = door.shell(request.params.id, request.query, signal)
    void streamTo(reply, 'application/x-ndjson', lines(answer), door.log)
  })
  app.get<{ Params: { id: string } }>('/api/requests/:id/events', (request, reply) => {
    const signal = abortedWith(reply.raw)
    void streamTo(
      reply,
      'application/x-ndjson',
      lines(door.events(request.params.id, signal)),
      door.log,
    )
  })
  app.get<{
    Params: { id: string }
  }>('/api/jobs/:id/log', (request, reply) => {
    const question = parseLogQuery(request.query)
    const signal = abortedWith(reply.raw)
    const bytes = door.readLog(request.params.id, { ...question, signal })
    void streamTo(reply, 'application/octet-stream', bytes, door.log)
  })
  app.route({
    method: ['GET', 'POST'],
    url: '/api/*',
    async handler(request, reply) {
      const body =
        request.body === undefined || request.body === null ? '' : JSON.stringify(request.body)
      sendAnswer(
        reply,
        await door.answer({
          verb: request.method === 'POST' ? 'POST' : 'GET',
          path: request.url,
          body,
        }),
      )
      return reply
    },
  })
  await app.listen({ path: options.socket })
  await chmod(options.socket, 0o600)
  return app
}

/** A signal that aborts when the other side has gone. */
function abortedWith(stream: IncomingMessage | ServerResponse): AbortSignal {
  const controller = new AbortController()
  stream.once('close', () => controller.abort(new Error('the client left')))
  return controller.signal
}

async function* lines(events: AsyncIterable<string>): AsyncIterable<Uint8Array> {
  for await (const event of events) yield Buffer.from(`${event}\n`)
}

/** Sends pieces as they come; an error before the first one is still a problem document. */
async function streamTo(
  reply: FastifyReply,
  contentType: string,
  pieces: AsyncIterable<Uint8Array>,
  log: Logger,
): Promise<void> {
  const iterator = pieces[Symbol.asyncIterator]()
  try {
    let next = await iterator.next()
    reply.hijack()
    reply.raw.writeHead(200, { 'content-type': contentType, 'cache-control': 'no-store' })
    while (next.done !== true) {
      if (!reply.raw.write(next.value))
        await new Promise((resolve) => reply.raw.once('drain', resolve).once('close', resolve))
      if (reply.raw.destroyed) break
      next = await iterator.next()
    }
    reply.raw.end()
  } catch (error) {
    if (reply.raw.headersSent) {
      // Too late for a status: only an ended connection tells the reader that this is not all.
      log.debug({ err: error }, 'stream was cut off')
      reply.raw.destroy()
    } else sendProblem(reply, error, log)
  } finally {
    await iterator.return?.()
  }
}

/** Refusals of the HTTP library are the client's mistakes and have a code of ours. */
function withCode(error: unknown): unknown {
  if (error instanceof MeshError) return error
  if (hasCode(error, 'FST_ERR_CTP_BODY_TOO_LARGE'))
    return new MeshError('MESH0211', `the body is larger than ${API_BODY_BYTES_MAX} bytes`)
  if (
    error instanceof Error &&
    'statusCode' in error &&
    typeof error.statusCode === 'number' &&
    error.statusCode < 500
  )
    return new MeshError('MESH0210', error.message)
  return error
}

function sendProblem(reply: FastifyReply, error: unknown, log: Logger): void {
  const problem = problemOf(error)
  if (problem.code === 'MESH0001') log.error({ err: error }, 'request failed')
  void reply
    .code(problem.status)
    .header('content-type', 'application/problem+json')
    .send(JSON.stringify(problem))
}

function sendAnswer(reply: FastifyReply, answer: ApiAnswer): void {
  const type = answer.status < 400 ? 'application/json' : 'application/problem+json'
  void reply.code(answer.status).header('content-type', type).send(answer.body)
}

/** Stores the blobs of a batch; each is checked against its digest. Throws MESH0210, MESH0502. */
async function storeBatch(store: BlobStore, batch: Buffer): Promise<number> {
  let stored = 0
  let at = 0
  while (at < batch.byteLength) {
    if (batch.byteLength - at < BATCH_HEAD_BYTES)
      throw new MeshError('MESH0210', `the blob batch ends inside a head, at byte ${at}`)
    const digest = digestFromBytes(batch.subarray(at, at + 32))
    const size = Number(batch.readBigUInt64BE(at + 32))
    at += BATCH_HEAD_BYTES
    if (size > batch.byteLength - at)
      throw new MeshError('MESH0210', `the blob batch ends inside a blob of ${size} bytes`)
    await store.put(batch.subarray(at, at + size), { digest, size })
    at += size
    stored += 1
  }
  return stored
}
