/**
 * Tells the index which blobs this node has, so that others find them: roots, and blobs that are worth a
 * record. The small blobs of a tree are found by way of its root.
 *
 * Nothing is sent per blob: changes gather while an announcement is under way or was just sent. What an
 * index node was told holds while it is renewed by its fingerprint, and a lost connection costs one message
 * when nothing changed meanwhile.
 */
import type { Logger } from 'pino'
import { backoffMs } from '../base/backoff.ts'
import { deadline, type Clock, type Timer } from '../base/clock.ts'
import { MeshError } from '../base/errors.ts'
import type { Random } from '../base/random.ts'
import {
  ANNOUNCED_MAX,
  ANNOUNCED_MS,
  type Announced,
  type Announcement,
} from '../wire/announcement.ts'
import type { Digest } from '../wire/digest.ts'
import { AnnouncedSet } from './announced-set.ts'
import type { BlobDirectory } from './directory.ts'
import { oldestOf } from './oldest.ts'

/** Blobs below this are announced only as roots. */
export const ANNOUNCE_BYTES_MIN = 64 * 1024
/** Between two announcements to one index node. */
export const ANNOUNCE_PACE_MS = 250
const RENEW_MS = ANNOUNCED_MS / 4
/** An index node takes in what many announce at once little by little. */
const ANSWER_MS = 120_000
const BACKOFF = { firstMs: 1_000, maxMs: 60_000 }

interface AnnouncerDeps {
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
  readonly send: (
    indexNode: string,
    announcement: Announcement,
    signal: AbortSignal,
  ) => Promise<Announced>
}

/** One index node. */
interface Session {
  readonly set: AnnouncedSet
  sentAtMs: number
  renewAtMs: number
  /** In a row. */
  failures: number
  retryAtMs: number
  isSending: boolean
}

export class Announcer implements Disposable {
  readonly #deps: AnnouncerDeps
  /** Oldest first, with the index nodes that are told of each. */
  readonly #digests = new Map<Digest, readonly string[]>()
  readonly #sessions = new Map<string, Session>()
  readonly #lifetime = new AbortController()
  #directory: BlobDirectory = { indexNodes: [], indexNodesOf: () => [] }
  #timer: Timer | undefined
  #timerAtMs = Number.POSITIVE_INFINITY
  /** Announcements and digests in them, sent since the start. */
  readonly counts = { messages: 0, digests: 0 }

  constructor(deps: AnnouncerDeps) {
    this.#deps = deps
  }

  /**
   * This node has the blob and will keep it for a while. `root`: somebody may ask for it by name (the tree
   * or file of an output or a source, a log). Beyond ANNOUNCED_MAX the oldest are taken back.
   */
  add(digest: Digest, size: number, kind: 'root' | 'part'): void {
    if ((kind === 'part' && size < ANNOUNCE_BYTES_MIN) || this.#digests.has(digest)) return
    for (const oldest of oldestOf(this.#digests, ANNOUNCED_MAX)) this.#drop(oldest)
    this.#place(digest, this.#directory.indexNodesOf(digest))
    this.#arm()
  }

  /** This node does not have them any more: evicted, damaged. */
  forget(digests: Iterable<Digest>): void {
    for (const digest of digests) this.#drop(digest)
    this.#arm()
  }

  /** From now on these are the index nodes; only records whose index nodes changed are sent again. */
  use(directory: BlobDirectory): void {
    this.#directory = directory
    const indexNodes = new Set(directory.indexNodes)
    // Whoever is no index node any more is told nothing: what it holds ends by itself.
    for (const indexNode of this.#sessions.keys())
      if (!indexNodes.has(indexNode)) this.#sessions.delete(indexNode)
    for (const [digest, before] of this.#digests) {
      const now = directory.indexNodesOf(digest)
      if (now === before) continue
      for (const indexNode of before)
        if (!now.includes(indexNode)) this.#sessions.get(indexNode)?.set.remove(digest)
      this.#place(digest, now)
    }
    this.#arm()
  }

  /**
   * The index node can be reached, again: it is told at once, or asked whether it still knows. Also one that
   * has nothing of this node, for it may hold what was announced before a restart.
   */
  reached(indexNode: string): void {
    if (!this.#directory.indexNodes.includes(indexNode)) return
    const session = this.#session(indexNode)
    session.failures = 0
    session.retryAtMs = 0
    session.renewAtMs = 0
    this.#arm()
  }

  [Symbol.dispose](): void {
    this.#timer?.cancel()
    this.#lifetime.abort(new MeshError('MESH0108', 'the node is stopping'))
    this.#sessions.clear()
  }

  #place(digest: Digest, indexNodes: readonly string[]): void {
    this.#digests.set(digest, indexNodes)
    for (const indexNode of indexNodes) this.#session(indexNode).set.add(digest)
  }

  #drop(digest: Digest): void {
    for (const indexNode of this.#digests.get(digest) ?? [])
      this.#sessions.get(indexNode)?.set.remove(digest)
    this.#digests.delete(digest)
  }

  #session(indexNode: string): Session {
    const session = this.#sessions.get(indexNode) ?? {
      set: new AnnouncedSet(),
      sentAtMs: Number.NEGATIVE_INFINITY,
      renewAtMs: 0,
      failures: 0,
      retryAtMs: 0,
      isSending: false,
    }
    this.#sessions.set(indexNode, session)
    return session
  }

  #dueAtMs(session: Session): number {
    if (session.isSending) return Number.POSITIVE_INFINITY
    const dueAtMs = session.set.hasNews ? 0 : session.renewAtMs
    return Math.max(dueAtMs, session.retryAtMs, session.sentAtMs + ANNOUNCE_PACE_MS)
  }

  #arm(): void {
    let nextAtMs = Number.POSITIVE_INFINITY
    for (const session of this.#sessions.values())
      nextAtMs = Math.min(nextAtMs, this.#dueAtMs(session))
    if (nextAtMs >= this.#timerAtMs) return
    this.#timer?.cancel()
    this.#timerAtMs = nextAtMs
    const { clock } = this.#deps
    this.#timer = clock.setTimer(Math.max(0, nextAtMs - clock.nowMs()), () => {
      this.#timerAtMs = Number.POSITIVE_INFINITY
      for (const [indexNode, session] of this.#sessions)
        if (this.#dueAtMs(session) <= clock.nowMs()) void this.#send(indexNode, session)
      this.#arm()
    })
  }

  async #send(indexNode: string, session: Session): Promise<void> {
    const { clock, random, log, send } = this.#deps
    const announcement = session.set.next()
    session.isSending = true
    session.sentAtMs = clock.nowMs()
    this.counts.messages += 1
    this.counts.digests += announcement.added.length + announcement.gone.length
    const limit = deadline(
      clock,
      ANSWER_MS,
      () => new MeshError('MESH0120', `no answer within ${ANSWER_MS / 1000} s`),
      this.#lifetime.signal,
    )
    let isGood = false
    try {
      const { held } = await send(indexNode, announcement, limit.signal)
      isGood = session.set.answered(held)
      session.renewAtMs = clock.nowMs() + RENEW_MS
    } catch (error) {
      log.debug({ err: error, peer: indexNode }, 'blobs were not announced')
    } finally {
      limit.cancel()
      session.isSending = false
    }
    if (this.#lifetime.signal.aborted) return
    session.failures = isGood ? 0 : session.failures + 1
    session.retryAtMs = isGood ? 0 : clock.nowMs() + backoffMs(random, session.failures, BACKOFF)
    this.#arm()
  }
}
