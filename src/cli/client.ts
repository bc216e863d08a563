/**
 * The daemon's API (wire/api.ts) as functions: HTTP over its unix socket, answers parsed once, problem
 * documents turned into errors.
 *
 * Every request of this API may be repeated. A connection that is lost after the daemon was found (it was
 * killed, or restarts) is bridged for a while, for what it accepted outlives it.
 */
import { Agent, request as httpRequest, type IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { z } from 'zod'
import { backoffMs } from '../base/backoff.ts'
import { deadline, sleep } from '../base/clock.ts'
import { EXIT, hasCode, isErrorCode, MeshError, messageOf } from '../base/errors.ts'
import type { Digest } from '../wire/digest.ts'
import { Event, Problem } from '../wire/api.ts'
import type { Arguments } from './command.ts'
import type { Context } from './context.ts'
import { findSocket } from './find-socket.ts'
import { ForeignError } from './report-error.ts'

const ANSWER_BYTES_MAX = 256 * 1024 * 1024
/** A daemon that is silent for this long, though it should answer at once, hangs. */
const ANSWER_MS_MAX = 120_000
/** How long a lost daemon is waited for: by a command that only asks, and by one that follows a request. */
const PATIENCE_MS = 3000
export const FOLLOW_PATIENCE_MS = 120_000
const RECONNECT = { firstMs: 100, maxMs: 3000 } as const
const LOST = ['ECONNREFUSED', 'ECONNRESET', 'ENOENT', 'EPIPE'] as const

export interface RequestOptions {
  readonly method?: 'GET' | 'POST' | 'PUT'
  /** Bytes, or a function that opens them, again at each try. */
  readonly body?: Uint8Array | (() => AsyncIterable<Uint8Array>)
  readonly contentType?: string
  /** Of a body that is opened. */
  readonly contentLength?: number
  readonly signal?: AbortSignal | undefined
}

export class Client implements Disposable {
  readonly #context: Context
  readonly #locate: () => Promise<string>
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 8 })
  readonly #patienceMs: number
  #socket: string

  constructor(
    { context, locate }: { readonly context: Context; readonly locate: () => Promise<string> },
    { socket, patienceMs }: { readonly socket: string; readonly patienceMs: number },
  ) {
    this.#context = context
    this.#locate = locate
    this.#socket = socket
    this.#patienceMs = patienceMs
  }

  [Symbol.dispose](): void {
    this.#agent.destroy()
  }

  /** A JSON answer of a GET, or of the method given. */
  async json<T>(schema: z.ZodType<T>, path: string, options: RequestOptions = {}): Promise<T> {
    const answer = await this.#patiently(options.signal, async () => {
      const limit = deadline(
        this.#context.clock,
        ANSWER_MS_MAX,
        () =>
          new MeshError(
            'MESH0101',
            `the daemon did not answer ${path} within ${ANSWER_MS_MAX / 1000} s`,
          ),
        options.signal,
      )
      try {
        return await readWhole(await this.#open(path, { ...options, signal: limit.signal }))
      } finally {
        limit.cancel()
      }
    })
    return parseAnswer(schema, answer, path)
  }

  /** Sends a value as JSON. */
  send<T>(schema: z.ZodType<T>, method: 'POST' | 'PUT', path: string, value?: unknown): Promise<T> {
    return this.json(schema, path, {
      method,
      ...(value === undefined
        ? {}
        : { body: Buffer.from(JSON.stringify(value)), contentType: 'application/json' }),
    })
  }

  /** The size of a blob, fetched into the daemon's store if need be. Throws MESH0501 or MESH0601 where nobody has it. */
  async sizeOf(digest: Digest): Promise<number> {
    // Not HEAD: its refusals have no body that would tell the reason.
    const response = await this.#patiently(undefined, () =>
      this.#open(`/cas/${digest}?fetch=1`, {}),
    )
    response.destroy()
    const length = response.headers['content-length']
    if (length === undefined)
      throw new MeshError('MESH0001', `GET /cas/${digest} has no content-length`)
    return Number(length)
  }

  /** The bytes of a blob, wherever in the mesh they are. The reader checks them. */
  readonly blob = (
    ref: { readonly digest: Digest; readonly size?: number; readonly isTree?: boolean },
    signal?: AbortSignal,
  ): AsyncIterable<Uint8Array> => {
    const size = ref.size === undefined ? '' : `&size=${ref.size}`
    return this.stream(
      `/cas/${ref.digest}?fetch=1${size}${ref.isTree === true ? '&tree=1' : ''}`,
      signal,
    )
  }

  /** The body of a GET, piece by piece. Throws ECONNRESET where it ends early. */
  async *stream(path: string, signal?: AbortSignal): AsyncIterable<Uint8Array> {
    const response = await this.#patiently(signal, () => this.#open(path, { signal }))
    for await (const piece of response) if (piece instanceof Uint8Array) yield piece
  }

  /**
   * What happens to a request, from its beginning, up to `end`. After a lost connection the stream starts
   * over, so that facts may come twice. Ends early without an error when `signal` aborts.
   */
  async *events(requestId: string, signal: AbortSignal, onLost: () => void): AsyncIterable<Event> {
    while (!signal.aborted) {
      try {
        for await (const line of linesOf(
          this.stream(`/api/requests/${requestId}/events`, signal),
        )) {
          const event = parseEvent(line)
          if (event === undefined) continue
          yield event
          if (event.type === 'end') return
        }
      } catch (error) {
        if (signal.aborted) return
        if (!isLost(error)) throw error
      }
      if (signal.aborted) return
      onLost()
      await sleep(this.#context.clock, backoffMs(this.#context.random, 1, RECONNECT), signal).catch(
        () => undefined,
      )
    }
  }

  /** Tries again while the daemon is away. */
  async #patiently<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    const { clock, random } = this.#context
    const giveUpAtMs = clock.nowMs() + this.#patienceMs
    for (let attempt = 1; ; attempt++) {
      try {
        return await work()
      } catch (error) {
        signal?.throwIfAborted()
        if (!isLost(error) || clock.nowMs() >= giveUpAtMs)
          throw unavailable(error, this.#patienceMs)
        await sleep(clock, backoffMs(random, attempt, RECONNECT), signal)
        // After a restart the socket may have another path; until there is one the old path is asked again.
        this.#socket = await this.#locate().catch(() => this.#socket)
      }
    }
  }

  /** The answer with its head; its status is below 400. */
  async #open(path: string, options: RequestOptions): Promise<IncomingMessage> {
    const { body, contentType, method = 'GET', signal } = options
    const length = body instanceof Uint8Array ? body.byteLength : options.contentLength
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>()
    const request = httpRequest({
      agent: this.#agent,
      socketPath: this.#socket,
      method,
      path,
      headers: {
        host: 'localhost',
        ...(contentType === undefined ? {} : { 'content-type': contentType }),
        ...(length === undefined ? {} : { 'content-length': length }),
      },
      ...(signal === undefined ? {} : { signal }),
    })
    request.once('response', resolve)
    request.on('error', (error) => reject(signal?.aborted ? signal.reason : error))
    if (typeof body === 'function') {
      // An answer that comes before the end of the body (a refusal) wins over the broken pipe that follows it.
      pipeline(Readable.from(body()), request).catch((error: unknown) => {
        if (!hasCode(error, ...LOST, 'ERR_STREAM_PREMATURE_CLOSE')) reject(error)
      })
    } else request.end(body)
    const response = await promise
    if ((response.statusCode ?? 0) >= 400) throw await problemOf(response, `${method} ${path}`)
    return response
  }
}

/** A client of the daemon that the arguments and the environment name. Throws MESH0101 or MESH0102. */
export async function openClient(
  context: Context,
  args: Arguments,
  options: { readonly patienceMs: number } = { patienceMs: PATIENCE_MS },
): Promise<Client> {
  const locate = (): Promise<string> => findSocket(context, args)
  return new Client({ context, locate }, { socket: await locate(), ...options })
}

/** A connection that broke, or a daemon that is on its way down. */
function isLost(error: unknown): boolean {
  return hasCode(error, ...LOST) || (error instanceof MeshError && error.code === 'MESH0108')
}

function unavailable(error: unknown, patienceMs: number): unknown {
  return hasCode(error, ...LOST)
    ? new MeshError(
        'MESH0101',
        `the daemon went away and did not come back within ${patienceMs / 1000} s: ${messageOf(error)}`,
        { cause: error },
      )
    : error
}

async function readWhole(response: IncomingMessage): Promise<Buffer> {
  const pieces: Uint8Array[] = []
  let length = 0
  for await (const piece of response) {
    if (!(piece instanceof Uint8Array)) continue
    length += piece.byteLength
    if (length > ANSWER_BYTES_MAX)
      throw new MeshError('MESH0211', `the answer of the daemon is over ${ANSWER_BYTES_MAX} bytes`)
    pieces.push(piece)
  }
  return Buffer.concat(pieces)
}

function parseAnswer<T>(schema: z.ZodType<T>, bytes: Buffer, path: string): T {
  const parsed = schema.safeParse(parseJson(bytes))
  if (parsed.success) return parsed.data
  const [issue] = parsed.error.issues
  throw new MeshError(
    'MESH0121',
    `the daemon's answer to ${path} is not what this version of mesh expects: ${issue?.path.join('.')}: ${issue?.message}`,
  )
}

function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'))
  } catch {
    return undefined // every schema refuses it, with a message that names the request
  }
}

/** Undefined for a kind of event that only newer daemons send. */
function parseEvent(line: string): Event | undefined {
  const value = parseJson(Buffer.from(line))
  const parsed = Event.safeParse(value)
  if (parsed.success) return parsed.data
  const type =
    typeof value === 'object' && value !== null && 'type' in value ? value.type : undefined
  if (typeof type === 'string' && !KNOWN_EVENTS.has(type)) return undefined
  throw new MeshError(
    'MESH0121',
    `an event of the daemon is not what this version of mesh expects: ${parsed.error.issues[0]?.message}`,
  )
}

const KNOWN_EVENTS: ReadonlySet<string> = new Set(
  Event.options.map((option) => option.shape.type.value),
)

/** Whole lines of text, as they come. */
export async function* linesOf(pieces: AsyncIterable<Uint8Array>): AsyncIterable<string> {
  let rest: Buffer = Buffer.alloc(0)
  for await (const piece of pieces) {
    rest = rest.byteLength === 0 ? Buffer.from(piece) : Buffer.concat([rest, piece])
    if (rest.byteLength > ANSWER_BYTES_MAX)
      throw new MeshError('MESH0211', 'an event of the daemon is too long')
    let start = 0
    for (let end = rest.indexOf(10); end !== -1; end = rest.indexOf(10, start)) {
      if (end > start) yield rest.toString('utf8', start, end)
      start = end + 1
    }
    rest = rest.subarray(start)
  }
}

async function problemOf(response: IncomingMessage, what: string): Promise<Error> {
  const bytes = await readWhole(response)
  const status = response.statusCode ?? 0
  const parsed = Problem.safeParse(parseJson(bytes))
  if (!parsed.success) {
    if (status === 404) return new MeshError('MESH0601', `${what}: not found`)
    return new MeshError(
      'MESH0001',
      `${what}: the daemon answered ${status}: ${bytes.toString('utf8', 0, 500)}`,
    )
  }
  const { code, detail, where, hints } = parsed.data
  if (isErrorCode(code))
    return new MeshError(code, detail, { ...(where === undefined ? {} : { where }), hints })
  return new ForeignError(code, detail, { where, hints, exit: exitOf(status) })
}

/** For codes that this version does not know. */
function exitOf(status: number): number {
  switch (status) {
    case 401:
    case 403:
      return EXIT.denied
    case 404:
      return EXIT.notFound
    case 429:
    case 502:
    case 503:
    case 504:
      return EXIT.temporary
    case 507:
      return EXIT.noSpace
    default:
      return status < 500 ? EXIT.usage : EXIT.internal
  }
}
