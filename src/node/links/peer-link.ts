/**
 * `/mesh/work/1`: both ends of one frame channel between a node and its parent.
 *
 * Owns the channel, the first messages, the calls under way in both directions, and the rule that a peer
 * silent for 30 s is gone. What the messages mean is the daemon's. The `sync` and `desired` that the daemon
 * asks for every HEARTBEAT_MS are the heartbeat: a link sends nothing by itself.
 */
import type { Logger } from 'pino'
import { z } from 'zod'
import { deadline, type Clock, type Timer } from '../../base/clock.ts'
import { isErrorCode, MeshError, messageOf } from '../../base/errors.ts'
import { decodeCbor, decodeObject, encodeObject, parseWith } from '../../wire/cbor.ts'
import { WORK_FRAME_BYTES_MAX, type FrameChannel } from '../../wire/frame-channel.ts'
import {
  WorkMessage,
  type Call,
  type DesiredMessage,
  type HelloMessage,
  type SyncMessage,
} from '../../wire/work-messages.ts'

/** How long the peer may take to say hello. */
const HELLO_MS_MAX = 10_000
/** Silence is counted in steps of the own clock, so that a process that stood still does not blame its peer. */
const SILENCE_STEP_MS = 5_000
const SILENCE_STEPS_MAX = 6
/** Own calls that wait for answers; one more is refused as busy. */
const CALLS_MAX = 1024
/** Calls of the peer that are answered at once; one more is refused as busy. */
const SERVED_MAX = 256
/** Answers of one call that its caller has not taken yet; one more ends the call. */
const UNREAD_ANSWERS_MAX = 4096
const UNREAD_ANSWER_BYTES_MAX = 16 * 1024 * 1024
/** Bounds of the schema of an answer's error. */
const ERROR_TEXT_MAX = 16 * 1024
const ERROR_HINTS_MAX = 16
const ERROR_HINT_TEXT_MAX = 1024

export interface PeerLink {
  readonly peerId: string
  /** What the peer said first. */
  readonly remote: HelloMessage
  /**
   * Asks for a sync to be sent: `make` is called once when the channel is ready for it, at the earliest at
   * the end of this tick; a later request before that replaces it. Undefined from `make` sends nothing.
   */
  requestSync(make: () => SyncMessage | undefined): void
  /** The same for `desired`. */
  requestDesired(make: () => DesiredMessage | undefined): void
  /** One call, one answer. Throws the peer's own MeshError, MESH0505 when the link closes, MESH0303 when busy. */
  call<T>(call: Call, answer: z.ZodType<T>, options: { readonly signal: AbortSignal }): Promise<T>
  /** One call, many answers; throws like `call`. Leaving the loop or aborting tells the peer to stop. */
  stream<T>(
    call: Call,
    answer: z.ZodType<T>,
    options: { readonly signal: AbortSignal },
  ): AsyncIterable<T>
  /** Ends the link at once. Idempotent: the first reason counts. */
  close(reason: string): void
  /** The reason; never rejects. */
  readonly closed: Promise<string>
}

export interface LinkHandlers {
  readonly onSync?: (message: SyncMessage) => void
  readonly onDesired?: (message: DesiredMessage) => void
  /** Answers in dag-cbor of the schema that the method promises; `signal` aborts when nobody waits any more. */
  readonly onCall: (
    call: Call,
    options: { readonly signal: AbortSignal; readonly peerId: string },
  ) => Promise<Uint8Array<ArrayBuffer>> | AsyncIterable<Uint8Array<ArrayBuffer>>
}

interface LinkDeps {
  readonly channel: FrameChannel
  readonly clock: Clock
  readonly log: Logger
}

/**
 * Exchanges the first messages; owns the channel from now on, also when it throws.
 * Throws MESH0121 for versions that do not overlap (so does the peer), MESH0123 for a peer that hangs up
 * before its hello or is not who it says, MESH0120 for one that says nothing, MESH0210 for nonsense.
 */
export async function openPeerLink(
  deps: LinkDeps,
  options: {
    readonly hello: HelloMessage
    /** Called before any message but the hello is taken in, and before openPeerLink resolves. */
    readonly handlers: (link: PeerLink) => LinkHandlers
    readonly signal: AbortSignal
  },
): Promise<PeerLink> {
  const { channel, clock } = deps
  const limit = deadline(
    clock,
    HELLO_MS_MAX,
    () =>
      new MeshError(
        'MESH0120',
        `${channel.remotePeer} did not say hello within ${HELLO_MS_MAX / 1000} s`,
      ),
    options.signal,
  )
  const onAbort = (): void => channel.close()
  limit.signal.addEventListener('abort', onAbort, { once: true })
  try {
    limit.signal.throwIfAborted()
    // Sent before the peer's is judged: it then finds out by itself what is wrong.
    const [received, sent] = await Promise.allSettled([
      channel.receive(),
      channel.send(encodeObject(WorkMessage, options.hello)),
    ])
    limit.signal.throwIfAborted()
    const frame = received.status === 'fulfilled' ? received.value : undefined
    if (frame === undefined)
      throw new MeshError(
        'MESH0123',
        `${channel.remotePeer} hung up before its hello; it seems not to admit this node, ${options.hello.record.peerId}`,
        {
          hints: [`on that node: mesh-node --allow ${options.hello.record.peerId}`],
          ...(sent.status === 'rejected' ? { cause: sent.reason } : {}),
        },
      )
    const link = new Link(deps, judgeHello(frame, channel.remotePeer, options.hello))
    link.start(options.handlers(link))
    return link
  } catch (error) {
    channel.close()
    limit.signal.throwIfAborted()
    throw error
  } finally {
    limit.signal.removeEventListener('abort', onAbort)
    limit.cancel()
  }
}

/** What every version of a hello has. */
const FirstWords = z.object({
  type: z.literal('hello'),
  versions: z.object({ min: z.int(), max: z.int() }),
  mesh: z.string().max(64),
  record: z.object({ name: z.string().max(64) }),
})

function judgeHello(frame: Uint8Array, remotePeer: string, own: HelloMessage): HelloMessage {
  const what = `hello of ${remotePeer}`
  const value = decodeCbor(frame, what)
  const { versions, mesh, record } = parseWith(FirstWords, value, what)
  const isOlder = versions.max < own.versions.min
  if (isOlder || versions.min > own.versions.max)
    throw new MeshError(
      'MESH0121',
      `${record.name} (${mesh}) speaks protocol ${versions.min}-${versions.max}, this node (${own.mesh}) speaks ${own.versions.min}-${own.versions.max}`,
      { hints: [`upgrade ${isOlder ? record.name : 'this node'}`] },
    )
  const remote = parseWith(WorkMessage, value, what)
  if (remote.type !== 'hello') throw new MeshError('MESH0210', `${what} is a ${remote.type}`)
  if (remote.record.peerId !== remotePeer)
    throw new MeshError(
      'MESH0123',
      `${remotePeer} (${record.name}) says that it is ${remote.record.peerId}`,
    )
  return remote
}

class Link implements PeerLink {
  readonly peerId: string
  readonly remote: HelloMessage
  readonly closed: Promise<string>
  readonly #settleClosed: (reason: string) => void
  readonly #channel: FrameChannel
  readonly #clock: Clock
  readonly #log: Logger
  #reason: string | undefined

  #silentSteps = 0
  #silenceTimer: Timer | undefined

  #makeSync: (() => SyncMessage | undefined) | undefined
  #makeDesired: (() => DesiredMessage | undefined) | undefined
  #isStating = false

  #nextCall = 1
  /** Own calls. */
  readonly #asked = new Map<number, Answers>()
  /** Calls of the peer. */
  readonly #served = new Map<number, AbortController>()

  constructor({ channel, clock, log }: LinkDeps, remote: HelloMessage) {
    const { promise, resolve } = Promise.withResolvers<string>()
    this.closed = promise
    this.#settleClosed = resolve
    this.peerId = channel.remotePeer
    this.remote = remote
    this.#channel = channel
    this.#clock = clock
    this.#log = log.child({ part: 'link', peer: remote.record.name })
  }

  start(handlers: LinkHandlers): void {
    this.#log.info({ peerId: this.peerId, mesh: this.remote.mesh }, 'link opened')
    this.#watchSilence()
    void this.#receiveAll(handlers)
  }

  requestSync(make: () => SyncMessage | undefined): void {
    this.#makeSync = make
    this.#state()
  }

  requestDesired(make: () => DesiredMessage | undefined): void {
    this.#makeDesired = make
    this.#state()
  }

  async call<T>(
    call: Call,
    answer: z.ZodType<T>,
    options: { readonly signal: AbortSignal },
  ): Promise<T> {
    const answers = this.stream(call, answer, options)
    const first = await answers.next()
    if (first.done === true)
      throw new MeshError(
        'MESH0505',
        `${this.remote.record.name} ended ${call.method} without an answer`,
      )
    await answers.return(undefined)
    return first.value
  }

  async *stream<T>(
    call: Call,
    answer: z.ZodType<T>,
    { signal }: { readonly signal: AbortSignal },
  ): AsyncGenerator<T, undefined> {
    signal.throwIfAborted()
    const name = this.remote.record.name
    if (this.#reason !== undefined) throw this.#closedError()
    if (this.#asked.size >= CALLS_MAX)
      throw new MeshError(
        'MESH0303',
        `busy: ${this.#asked.size} calls to ${name} wait for their answers`,
      )
    const id = this.#nextCall++
    const answers = new Answers(name)
    const onAbort = (): void => answers.fail(signal.reason)
    signal.addEventListener('abort', onAbort, { once: true })
    this.#asked.set(id, answers)
    try {
      this.#post({ type: 'call', id, call })
      for (;;) {
        const body = await answers.next()
        if (body === undefined) return
        yield decodeObject(answer, body, `answer of ${name} to ${call.method}`)
      }
    } finally {
      signal.removeEventListener('abort', onAbort)
      this.#asked.delete(id)
      if (!answers.isDone && this.#reason === undefined) this.#post({ type: 'abort', id })
    }
  }

  close(reason: string): void {
    if (this.#reason !== undefined) return
    this.#reason = reason
    this.#silenceTimer?.cancel()
    this.#channel.close()
    for (const answers of this.#asked.values()) answers.fail(this.#closedError())
    for (const controller of this.#served.values()) controller.abort(this.#closedError())
    this.#log.info({ reason }, 'link closed')
    this.#settleClosed(reason)
  }

  async #receiveAll(handlers: LinkHandlers): Promise<void> {
    try {
      for (;;) {
        const frame = await this.#channel.receive()
        if (frame === undefined) break
        this.#silentSteps = 0
        this.#take(decodeObject(WorkMessage, frame, 'message'), handlers)
      }
      this.close('the peer hung up')
    } catch (error) {
      this.#log.error({ err: error }, 'message not taken')
      this.close(`bad message: ${messageOf(error)}`)
    }
  }

  #take(message: WorkMessage, handlers: LinkHandlers): void {
    switch (message.type) {
      case 'hello':
        throw new MeshError('MESH0210', 'a second hello')
      case 'sync':
        handlers.onSync?.(message)
        return
      case 'desired':
        handlers.onDesired?.(message)
        return
      case 'call':
        if (this.#served.has(message.id))
          throw new MeshError('MESH0210', `call ${message.id} twice`)
        void this.#serve(message.id, message.call, handlers)
        return
      case 'answer':
        // Unknown ids are those that this side gave up.
        this.#asked.get(message.id)?.push(message)
        return
      case 'abort':
        this.#served.get(message.id)?.abort(new Error('the caller gave up'))
        return
    }
  }

  async #serve(id: number, call: Call, handlers: LinkHandlers): Promise<void> {
    if (this.#served.size >= SERVED_MAX) {
      const busy = new MeshError(
        'MESH0303',
        `busy: ${this.#served.size} calls of this peer are being answered`,
      )
      this.#post({ type: 'answer', id, body: null, error: wireError(busy), done: true })
      return
    }
    const controller = new AbortController()
    this.#served.set(id, controller)
    try {
      const answers = handlers.onCall(call, { signal: controller.signal, peerId: this.peerId })
      if (Symbol.asyncIterator in answers) {
        for await (const body of answers) {
          controller.signal.throwIfAborted()
          await this.#send({ type: 'answer', id, body, done: false })
        }
        await this.#send({ type: 'answer', id, body: null, done: true })
      } else {
        await this.#send({ type: 'answer', id, body: await answers, done: true })
      }
    } catch (error) {
      if (!controller.signal.aborted) {
        if (!(error instanceof MeshError))
          this.#log.error({ err: error, method: call.method }, 'call failed')
        this.#post({ type: 'answer', id, body: null, error: wireError(error), done: true })
      }
    } finally {
      this.#served.delete(id)
    }
  }

  /** At the end of this tick, however often it is asked for in it. */
  #state(): void {
    if (this.#isStating || this.#reason !== undefined) return
    this.#isStating = true
    setImmediate(() => void this.#sendState())
  }

  /** One message under way at a time; what is asked for meanwhile is made when that has left. */
  async #sendState(): Promise<void> {
    try {
      while (this.#reason === undefined) {
        const make = this.#makeDesired ?? this.#makeSync
        if (make === undefined) break
        if (make === this.#makeDesired) this.#makeDesired = undefined
        else this.#makeSync = undefined
        const message = make()
        if (message !== undefined) await this.#send(message)
      }
    } catch (error) {
      if (this.#reason === undefined) this.#log.error({ err: error }, 'state not sent')
      this.close(`state not sent: ${messageOf(error)}`)
    } finally {
      this.#isStating = false
    }
  }

  #send(message: WorkMessage): Promise<void> {
    const frame = encodeObject(WorkMessage, message)
    if (frame.byteLength > WORK_FRAME_BYTES_MAX)
      throw new MeshError(
        'MESH0211',
        `a message "${message.type}" of ${frame.byteLength} bytes, the limit is ${WORK_FRAME_BYTES_MAX}`,
      )
    return this.#channel.send(frame)
  }

  /** Sends without waiting for room. A channel that has closed is noticed by its reader. */
  #post(message: WorkMessage): void {
    this.#send(message).catch((error: unknown) =>
      this.#log.debug({ err: error }, 'message not sent'),
    )
  }

  #watchSilence(): void {
    this.#silenceTimer = this.#clock.setTimer(SILENCE_STEP_MS, () => {
      this.#silentSteps += 1
      if (this.#silentSteps < SILENCE_STEPS_MAX) this.#watchSilence()
      else this.close(`silent for ${(SILENCE_STEPS_MAX * SILENCE_STEP_MS) / 1000} s`)
    })
  }

  #closedError(): MeshError {
    return new MeshError(
      'MESH0505',
      `the link to ${this.remote.record.name} closed: ${this.#reason}`,
    )
  }
}

type AnswerMessage = Extract<WorkMessage, { type: 'answer' }>

/** The answers to one call between their arrival and their reader. */
class Answers {
  /** No more comes from the peer. */
  isDone = false
  readonly #peerName: string
  #bodies: Uint8Array[] = []
  #bytes = 0
  #failure: { readonly error: unknown } | undefined
  #wake: (() => void) | undefined

  constructor(peerName: string) {
    this.#peerName = peerName
  }

  push({ body, error, done }: AnswerMessage): void {
    if (this.isDone || this.#failure !== undefined) return
    this.isDone = done
    if (error !== undefined) this.#failure = { error: meshError(error) }
    else if (body !== null) this.#bodies.push(body)
    this.#bytes += body?.byteLength ?? 0
    if (this.#bodies.length > UNREAD_ANSWERS_MAX || this.#bytes > UNREAD_ANSWER_BYTES_MAX) {
      this.#bodies = []
      this.fail(
        new MeshError(
          'MESH0505',
          `answers of ${this.#peerName} were read too slowly: more than ${UNREAD_ANSWERS_MAX}, or ${UNREAD_ANSWER_BYTES_MAX} bytes, waited`,
        ),
      )
    }
    this.#wake?.()
  }

  fail(error: unknown): void {
    if (!this.isDone) this.#failure ??= { error }
    this.#wake?.()
  }

  /** Undefined after the last one. What came before a failure is read first. */
  async next(): Promise<Uint8Array | undefined> {
    for (;;) {
      const body = this.#bodies.shift()
      if (body !== undefined) {
        this.#bytes -= body.byteLength
        return body
      }
      if (this.#failure !== undefined) throw this.#failure.error
      if (this.isDone) return undefined
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }
}

type WireError = NonNullable<AnswerMessage['error']>

/** In the form that the schema of an error allows. */
function cut(text: string, lengthMax: number): string {
  return text.replaceAll('\0', '\u{fffd}').slice(0, lengthMax)
}

function wireError(error: unknown): WireError {
  return {
    code: error instanceof MeshError ? error.code : 'MESH0001',
    message: cut(messageOf(error), ERROR_TEXT_MAX),
    hints: (error instanceof MeshError ? error.hints : [])
      .slice(0, ERROR_HINTS_MAX)
      .map((hint) => cut(hint, ERROR_HINT_TEXT_MAX)),
  }
}

/** The peer's error as one of ours; codes of newer peers are shown as they came. */
function meshError({ code, message, hints }: WireError): MeshError {
  return isErrorCode(code)
    ? new MeshError(code, message, { hints })
    : new MeshError('MESH0505', `${code}: ${message}`, { hints })
}
