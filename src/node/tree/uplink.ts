/**
 * The link of a node to its parent: says what is at and below this node, takes what should be, and answers
 * what the parent asks. Loops do not live: of the nodes of a ring the one with the smallest id lets go.
 */
import type { Logger } from 'pino'
import type { Clock, Timer } from '../../base/clock.ts'
import { deadline } from '../../base/clock.ts'
import { MeshError, messageOf } from '../../base/errors.ts'
import type { Random } from '../../base/random.ts'
import type { Event } from '../../scheduler/events.ts'
import type { Scheduler } from '../../scheduler/scheduler.ts'
import type { PeerRecord } from '../../wire/peer-record.ts'
import { Done, FEATURE_TREE, type DesiredMessage } from '../../wire/work-messages.ts'
import { createParents, type Parents, type ParentStatus } from '../links/parents.ts'
import type { LinkHandlers, PeerLink } from '../links/peer-link.ts'
import { inKnownWords } from './known-words.ts'
import {
  BELOW_PACE_MS,
  BUNDLE_PACE_MS,
  CUT_OFF_MS,
  isLoop,
  objection,
  UplinkSession,
} from './uplink-session.ts'

const BELOW_ANSWER_MS = 30_000

export interface UplinkDeps {
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
  readonly self: () => PeerRecord
  readonly scheduler: Scheduler
  readonly apply: (event: Event) => void
  /** Opens a link to a parent at one address. */
  readonly connect: (
    address: string,
    handlers: LinkHandlers,
    signal: AbortSignal,
  ) => Promise<PeerLink>
  /** Answers what the parent asks. */
  readonly serve: LinkHandlers['onCall']
  /** The way to the root is another one, or is there again. */
  readonly onWay: (parent: string) => void
  readonly onLink: (link: PeerLink) => void
  /** The parent knows who is below this node: it takes their results. */
  readonly onKnown: () => void
}

interface Session {
  readonly link: PeerLink
  readonly state: UplinkSession
  isTelling: boolean
}

export class Uplink implements AsyncDisposable {
  readonly #deps: UplinkDeps
  readonly #parents: Parents
  #session: Session | undefined
  #lostAtMs: number
  #lastSyncMs = Number.NEGATIVE_INFINITY
  #paced: Timer | undefined
  #belowTimer: Timer | undefined
  #isStopped = false

  constructor(deps: UplinkDeps, addresses: readonly string[]) {
    this.#deps = deps
    this.#lostAtMs = deps.clock.nowMs()
    const { clock, random, log } = deps
    this.#parents = createParents(
      {
        clock,
        random,
        log,
        connect: (address, { signal }) =>
          deps.connect(
            address,
            { onCall: deps.serve, onDesired: (message) => this.#take(message) },
            signal,
          ),
      },
      { addresses, onLink: (link) => this.#use(link) },
    )
  }

  start(): void {
    this.#parents.start()
  }

  link(): PeerLink | undefined {
    return this.#session?.link
  }
  status(): readonly ParentStatus[] {
    return this.#parents.status()
  }

  /** Nobody above has been reached for a while: this node is the head of what hangs below it. */
  get isCutOff(): boolean {
    return this.#session === undefined && this.#deps.clock.nowMs() - this.#lostAtMs >= CUT_OFF_MS
  }

  /** All of its parents are below it: this node is the root, whatever its settings say. */
  get isTop(): boolean {
    return (
      this.#session === undefined &&
      this.#parents.status().every(({ connected, error }) => !connected && isLoop(error))
    )
  }

  #use(link: PeerLink): void {
    const { scheduler, self, apply, log } = this.#deps
    const { peerId } = self()
    const { name } = link.remote.record
    const refusal = objection(scheduler, peerId, { peerId: link.peerId, name })
    if (refusal !== undefined) {
      link.close(refusal)
      apply({ type: 'uplink-down', isRing: true })
      return
    }
    const state = new UplinkSession(scheduler, peerId, link.peerId)
    const session: Session = { link, state, isTelling: false }
    this.#session = session
    apply({ type: 'uplink-up', peerId: link.peerId })
    void link.closed.then((reason) => {
      if (this.#session !== session) return
      this.#session = undefined
      this.#lostAtMs = this.#deps.clock.nowMs()
      if (!this.#isStopped) apply({ type: 'uplink-down', isRing: isLoop(reason) })
    })
    log.info({ parent: link.remote.record.name }, 'parent reached')
    this.request()
    this.belowChanged()
    this.#deps.onLink(link)
  }

  /** A heartbeat is due: the parent hears what is, whether it has changed or not. */
  beat(): void {
    this.#session?.state.beat()
    this.request()
  }

  /** What the parent should hear may have changed. */
  request(): void {
    const session = this.#session
    if (session === undefined || this.#paced !== undefined) return
    const waitMs = this.#lastSyncMs + BUNDLE_PACE_MS - this.#deps.clock.nowMs()
    if (waitMs <= 0) {
      this.#sync(session)
      return
    }
    this.#paced = this.#deps.clock.setTimer(waitMs, () => {
      this.#paced = undefined
      if (this.#session !== undefined) this.#sync(this.#session)
    })
  }

  #sync(session: Session): void {
    const { clock } = this.#deps
    session.link.requestSync(() => {
      if (this.#session !== session) return undefined
      const message = session.state.sync(clock.nowMs())
      // A single machine says at once what it has; what a subtree could take changes all the time.
      if (session.state.isSubtree) this.#lastSyncMs = clock.nowMs()
      return message === undefined ? undefined : inKnownWords(message, session.link.remote.features)
    })
  }

  #take(message: DesiredMessage): void {
    const session = this.#session
    if (session === undefined) return
    const { clock, apply, onWay } = this.#deps
    const heard = session.state.take(message, clock.nowMs())
    switch (heard.kind) {
      case 'loop':
        session.link.close(heard.reason)
        return
      case 'orders':
        apply(heard.event)
        if (heard.isOtherWay) onWay(session.link.peerId)
        return
    }
  }

  /** Nodes below came, went or moved. */
  belowChanged(): void {
    if (this.#session === undefined || this.#belowTimer !== undefined) return
    this.#belowTimer = this.#deps.clock.setTimer(BELOW_PACE_MS, () => {
      this.#belowTimer = undefined
      if (this.#session !== undefined) void this.#tellBelow(this.#session)
    })
  }

  async #tellBelow(session: Session): Promise<void> {
    if (session.isTelling || !session.link.remote.features.includes(FEATURE_TREE)) return
    const { clock, log } = this.#deps
    session.isTelling = true
    const limit = deadline(
      clock,
      BELOW_ANSWER_MS,
      () => new MeshError('MESH0120', 'the parent did not take in who is below'),
    )
    try {
      for (let below = session.state.below(); below !== undefined; below = session.state.below()) {
        const { isWhole, added, gone } = below
        await session.link.call(
          { method: 'below', isWhole, added: [...added], gone: [...gone] },
          Done,
          { signal: limit.signal },
        )
        session.state.toldBelow(below)
        if (below.isWhole) this.#deps.onKnown()
      }
    } catch (error) {
      log.info({ reason: messageOf(error) }, 'parent was not told who is below')
    } finally {
      limit.cancel()
      session.isTelling = false
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isStopped = true
    this.#paced?.cancel()
    this.#belowTimer?.cancel()
    await this.#parents.stop()
  }
}
