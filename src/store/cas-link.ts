/**
 * `/mesh/cas/1` on one frame channel: both ends may ask, answer and offer at the same time.
 *
 * Everything that is sent goes through one loop, short control frames before data, and the loop waits for
 * the channel: a peer that does not read stops it, and its own requests with it, but no memory grows.
 */
import type { Logger } from 'pino'
import type { Clock } from '../base/clock.ts'
import { messageOf } from '../base/errors.ts'
import {
  CHUNKS_REPLY_BYTES_MAX,
  decodeCasFrame,
  encodeCasMessage,
  FEATURE_CHUNKS,
  FEATURE_SWARM,
  OFFER_ITEMS_MAX,
  type CasMessage,
} from '../wire/cas-messages.ts'
import type { BlobRef, Digest } from '../wire/digest.ts'
import { CAS_FRAME_BYTES_MAX, type FrameChannel } from '../wire/frame-channel.ts'
import { SourceError, STALL_MS, type BlobSource } from './blob-source.ts'
import type { BlobStore } from './blob-store.ts'
import { CasAnswerer } from './cas/answerer.ts'
import { CasAsker } from './cas/asker.ts'
import type { SwarmDoor, SwarmLink, SwarmMessage } from './cas/swarm-door.ts'
import { within } from './stall-limit.ts'

/** Control frames waiting to be sent; a peer that lets more pile up is cut off. */
const CONTROL_FRAMES_MAX = 1024
/** Offers of the peer that are being fetched at a time; more are refused. */
const OFFERS_MAX = 8
/** An offer waits as long as the peer shows life: it may take hours to fetch. */
const LIFE_MS = 15_000

/** Questions for chunk lists that are being answered; more are told that there is none. */
const LISTS_MAX = 8

export interface CasLink extends SwarmLink {
  /** Whether the peer announced the feature; false when the link ended before its hello. */
  supports(feature: string): Promise<boolean>
  /**
   * Asks the peer to fetch these from here; resolves once it has all of them. Throws SourceError.
   */
  offer(refs: readonly BlobRef[], options: { readonly signal: AbortSignal }): Promise<void>
  /** Closes the channel; whatever waits fails. Idempotent. */
  close(): void
  readonly closed: Promise<void>
}

export interface CasLinkOptions {
  /** Without one this end only asks. */
  readonly store?: BlobStore
  readonly mayRead?: (digest: Digest) => boolean
  /** Encoded chunk lists of what is in the store, for peers that ask (wire/chunk-list.ts). */
  readonly encodedListOf?: ((digest: Digest) => Promise<Uint8Array | undefined>) | undefined
  /** The swarms that this end takes part in. */
  readonly swarms?: SwarmDoor | undefined
  /** Fetches what the peer offers from `source`, which is that peer; without one offers are refused. */
  readonly onOffer?: (
    refs: readonly BlobRef[],
    source: BlobSource,
    signal: AbortSignal,
  ) => Promise<void>
}

/** Takes the channel over. */
export function openCasLink(
  deps: { readonly channel: FrameChannel; readonly clock: Clock; readonly log: Logger },
  options: CasLinkOptions,
): CasLink {
  return new Link(deps, options)
}

class Link implements CasLink {
  readonly peerId: string
  readonly source: CasAsker
  readonly closed: Promise<void>
  readonly #channel: FrameChannel
  readonly #clock: Clock
  readonly #log: Logger
  readonly #answerer: CasAnswerer | undefined
  readonly #swarms: SwarmDoor | undefined
  readonly #mayRead: CasLinkOptions['mayRead']
  readonly #encodedListOf: CasLinkOptions['encodedListOf']
  readonly #onOffer: CasLinkOptions['onOffer']
  readonly #features = Promise.withResolvers<readonly string[]>()
  readonly #control: Uint8Array[] = []
  readonly #offers = new Map<number, { resolve: () => void; reject: (error: Error) => void }>()
  readonly #ending = new AbortController()
  #offersTaken = 0
  #listsAnswered = 0
  #lastOffer = 0
  #lastFrameAtMs: number
  #wake: (() => void) | undefined
  #end: SourceError | undefined

  constructor(
    deps: { readonly channel: FrameChannel; readonly clock: Clock; readonly log: Logger },
    options: CasLinkOptions,
  ) {
    this.#channel = deps.channel
    this.#clock = deps.clock
    this.#log = deps.log
    this.#lastFrameAtMs = deps.clock.nowMs()
    this.#onOffer = options.onOffer
    this.#swarms = options.swarms
    this.#mayRead = options.mayRead
    this.#encodedListOf = options.encodedListOf
    this.peerId = deps.channel.remotePeer
    if (options.store !== undefined)
      this.#answerer = new CasAnswerer(
        { store: options.store, log: deps.log, swarms: options.swarms },
        { peerId: this.peerId, mayRead: options.mayRead },
      )
    this.source = new CasAsker(
      { clock: deps.clock, sender: { send: (message) => this.#send(message) } },
      { name: this.peerId, supports: (feature) => this.supports(feature) },
    )
    const features = [
      ...(options.swarms === undefined ? [] : [FEATURE_SWARM]),
      ...(options.encodedListOf === undefined ? [] : [FEATURE_CHUNKS]),
    ]
    this.#send({ type: 'hello', v: 1, features })
    this.closed = Promise.all([this.#receiveAll(), this.#sendAll(), deps.channel.closed]).then(
      () => undefined,
    )
  }

  close(): void {
    this.#finish(new SourceError('failed', 'the connection was closed here'))
  }

  async supports(feature: string): Promise<boolean> {
    return (await this.#features.promise).includes(feature)
  }

  tell(message: SwarmMessage): void {
    this.#send(message)
  }

  async offer(
    refs: readonly BlobRef[],
    { signal }: { readonly signal: AbortSignal },
  ): Promise<void> {
    for (let at = 0; at < refs.length; at += OFFER_ITEMS_MAX)
      await this.#offer(refs.slice(at, at + OFFER_ITEMS_MAX), signal)
  }

  async #offer(refs: BlobRef[], signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
    if (this.#end !== undefined) throw this.#end
    const id = ++this.#lastOffer
    const answer = new Promise<void>((resolve, reject) => {
      this.#offers.set(id, { resolve, reject })
    })
    const onAbort = (): void => this.#offers.get(id)?.reject(signal.reason)
    signal.addEventListener('abort', onAbort, { once: true })
    this.#send({ type: 'offer', id, refs })
    const silence = new SourceError('stalled', `showed no life for ${LIFE_MS / 1000} s`)
    try {
      for (;;) {
        try {
          await within(this.#clock, answer, STALL_MS, () => silence)
          return
        } catch (error) {
          if (error !== silence || this.#clock.nowMs() - this.#lastFrameAtMs >= LIFE_MS) throw error
          this.#send({ type: 'ping', id })
        }
      }
    } finally {
      signal.removeEventListener('abort', onAbort)
      this.#offers.delete(id)
    }
  }

  #send(message: CasMessage): void {
    if (this.#end !== undefined) return
    if (this.#control.length >= CONTROL_FRAMES_MAX) {
      this.#finish(new SourceError('failed', 'the peer does not read'))
      return
    }
    this.#control.push(encodeCasMessage(message))
    this.#wakeSender()
  }

  #wakeSender(): void {
    this.#wake?.()
    this.#wake = undefined
  }

  async #sendAll(): Promise<void> {
    try {
      let sent: Promise<unknown> = Promise.resolve()
      while (this.#end === undefined) {
        const control = this.#control.shift()
        const frames = control === undefined ? await this.#answerer?.nextFrames() : [control]
        // What comes next was read while these were on their way.
        await sent
        if (frames === undefined || frames.length === 0) await this.#idle()
        else {
          sent = Promise.all(frames.map((frame) => this.#channel.send(frame)))
          // Its failure is met at the next turn, which may be a while off.
          sent.catch(() => undefined)
        }
      }
    } catch (error) {
      this.#finish(
        new SourceError('failed', `the connection ended: ${messageOf(error)}`, { cause: error }),
      )
    }
  }

  /** Until there may be something to send. Nothing can come between the look and the wait. */
  async #idle(): Promise<void> {
    if (this.#control.length > 0 || this.#end !== undefined || this.#answerer?.isIdle === false)
      return
    await new Promise<void>((resolve) => {
      this.#wake = resolve
    })
  }

  async #receiveAll(): Promise<void> {
    try {
      let isFirst = true
      for (
        let frame = await this.#channel.receive();
        frame !== undefined;
        frame = await this.#channel.receive()
      ) {
        if (frame.byteLength > CAS_FRAME_BYTES_MAX)
          throw new Error(`a frame has ${frame.byteLength} bytes`)
        this.#lastFrameAtMs = this.#clock.nowMs()
        const message = decodeCasFrame(frame)
        if (isFirst && message?.type !== 'hello') throw new Error('the first frame is no hello')
        isFirst = false
        if (message !== undefined) this.#receive(message)
      }
      this.#finish(new SourceError('failed', 'the connection ended'))
    } catch (error) {
      this.#log.warn({ peer: this.#channel.remotePeer, err: error }, 'peer broke the protocol')
      this.#finish(
        new SourceError('wrong', `broke the protocol: ${messageOf(error)}`, { cause: error }),
      )
    }
  }

  #receive(message: NonNullable<ReturnType<typeof decodeCasFrame>>): void {
    switch (message.type) {
      case 'data':
        return this.source.onData(message.pieces)
      case 'no':
        return this.source.onNo(message)
      case 'haveReply':
        return this.source.onHaveReply(message)
      case 'get':
      case 'have':
        if (this.#answerer === undefined) return this.#refuse(message)
        if (!this.#answerer.add(message)) throw new Error('too many requests are open')
        return this.#wakeSender()
      case 'cancel':
        return this.#answerer?.cancel(message.id)
      case 'chunks':
        return this.#answerList(message)
      case 'chunksReply':
        return this.source.onChunksReply(message)
      case 'join':
      case 'bits':
      case 'leave':
        return this.#swarms?.receive(message, this)
      case 'offer':
        return this.#takeOffer(message.id, message.refs)
      case 'offerReply':
        return this.#endOffer(message)
      case 'ping':
        return this.#send({ type: 'pong', id: message.id })
      case 'hello':
        return this.#features.resolve(message.features)
      case 'pong':
    }
  }

  /** This end has no store. */
  #refuse(message: Extract<CasMessage, { type: 'get' | 'have' }>): void {
    const { id } = message
    if (message.type === 'get')
      this.#send({ type: 'no', id, items: [...message.items.keys()], why: 'absent' })
    else
      this.#send({
        type: 'haveReply',
        id,
        bits: new Uint8Array(Math.ceil(message.digests.length / 8)),
      })
  }

  /** Beside everything else: the list may have to be made first. */
  #answerList({ id, digest, offset }: Extract<CasMessage, { type: 'chunks' }>): void {
    const reply = (list: Uint8Array = new Uint8Array()): void =>
      this.#send({
        type: 'chunksReply',
        id,
        size: list.byteLength,
        bytes: new Uint8Array(list.subarray(offset, offset + CHUNKS_REPLY_BYTES_MAX)),
      })
    const isAllowed = this.#mayRead?.(digest) !== false
    if (this.#encodedListOf === undefined || !isAllowed || this.#listsAnswered >= LISTS_MAX)
      return reply()
    this.#listsAnswered++
    this.#encodedListOf(digest)
      .then(reply, (error: unknown) => {
        this.#log.warn({ err: error, digest }, 'chunk list could not be read for a peer')
        reply()
      })
      .finally(() => this.#listsAnswered--)
  }

  #takeOffer(id: number, refs: readonly BlobRef[]): void {
    const reply = (ok: boolean, text: string): void =>
      this.#send({ type: 'offerReply', id, ok, message: text.slice(0, 2000) })
    if (this.#onOffer === undefined) return reply(false, 'offers are not taken here')
    if (this.#offersTaken >= OFFERS_MAX)
      return reply(false, `${OFFERS_MAX} offers are being taken already`)
    this.#offersTaken++
    this.#onOffer(refs, this.source, this.#ending.signal)
      .then(
        () => reply(true, ''),
        (error: unknown) => reply(false, messageOf(error)),
      )
      .finally(() => this.#offersTaken--)
  }

  #endOffer({ id, ok, message }: Extract<CasMessage, { type: 'offerReply' }>): void {
    const offer = this.#offers.get(id)
    if (ok) offer?.resolve()
    else offer?.reject(new SourceError('failed', `did not take the offer: ${message}`))
  }

  #finish(reason: SourceError): void {
    if (this.#end !== undefined) return
    this.#end = reason
    this.#answerer?.end()
    this.source.end(reason)
    for (const { reject } of this.#offers.values()) reject(reason)
    this.#ending.abort(reason)
    this.#features.resolve([])
    this.#swarms?.linkEnded(this)
    this.#channel.close()
    this.#wakeSender()
  }
}
