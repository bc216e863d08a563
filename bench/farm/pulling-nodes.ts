/**
 * Nodes in the process of a real owner: each takes what it is granted, ends it at once and says so. What
 * they do themselves is timed apart, since elsewhere it is done by other machines.
 */
import { generateKeyPairSync } from 'node:crypto'
import { desiredMessage } from '../../src/node/owner/desired-message.ts'
import type { Owner } from '../../src/node/owner/owner.ts'
import type { Grant } from '../../src/scheduler/events.ts'
import { decodeObject, encodeObject } from '../../src/wire/cbor.ts'
import { peerIdOf, signResult, type Signer } from '../../src/wire/result.ts'
import {
  WorkMessage,
  type FinishedAttempt,
  type SyncMessage,
} from '../../src/wire/work-messages.ts'
import { environment, GIB, resultOf } from '../../test/scheduler/samples.ts'
import { failed } from '../../test/scheduler/world.ts'

const ENVIRONMENT = environment()
const NO_HINTS = { hints: [], peers: [] }

export function newSigner(): Signer {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519')
  const bytes = publicKey.export({ format: 'der', type: 'spki' }).subarray(-32)
  return { peerId: peerIdOf(bytes), privateKey }
}

export interface Pulling {
  readonly owner: Owner
  /** `failed` needs no signature; `built` is signed, verified, countersigned and stored. */
  readonly outcome: 'failed' | 'built'
  /** `frames`: messages are encoded and decoded as on a connection. */
  readonly messages: 'objects' | 'frames'
  readonly cpus: number
  /** Peer id and name of the owner. */
  readonly self: { readonly peerId: string; readonly name: string }
}

export class PullingNode {
  readonly #pulling: Pulling
  readonly #signer = newSigner()
  readonly #name: string
  readonly #finished = new Map<string, FinishedAttempt>()
  #seq = 0
  #desiredSeq = 0
  #heardSeq = 0
  #isAsked = false
  #isStopped = false
  /** Spent on what a node does on its own machine. */
  ownMs = 0
  /** Spent on encoding and decoding at the owner. */
  framesMs = 0
  grantCount = 0

  constructor(pulling: Pulling, name: string) {
    this.#pulling = pulling
    this.#name = name
  }

  start(): void {
    const record = {
      peerId: this.#signer.peerId,
      name: this.#name,
      roles: ['worker' as const],
      addresses: ['/ip4/10.0.0.7/tcp/7421'],
      http: null,
    }
    this.#pulling.owner.attach(record, { mesh: '0', protocols: [], features: [] }, '1', {
      requestDesired: () => this.#ask(),
    })
    this.#say()
  }

  stop(): void {
    this.#isStopped = true
  }

  /** As a link does: several changes of one turn are one message. */
  #ask(): void {
    if (this.#isAsked || this.#isStopped) return
    this.#isAsked = true
    setImmediate(() => {
      this.#isAsked = false
      if (!this.#isStopped) this.#hear()
    })
  }

  #hear(): void {
    const { owner, messages, self } = this.#pulling
    const seq = this.#desiredSeq + 1
    const desired = owner.desiredOf(this.#signer.peerId, seq)
    if (desired === undefined) return
    this.#desiredSeq = seq
    if (messages === 'frames') {
      const startedAt = performance.now()
      const frame = encodeObject(
        WorkMessage,
        desiredMessage(desired, seq, self, () => NO_HINTS),
      )
      this.framesMs += performance.now() - startedAt
      this.#own(() => decodeObject(WorkMessage, frame, 'message'))
    }
    this.#heardSeq = seq
    const fresh = desired.grants.filter(({ attempt }) => !this.#finished.has(attempt.id))
    this.#own(() => {
      for (const attempt of desired.ack) this.#finished.delete(attempt)
      for (const grant of fresh) this.#finished.set(grant.attempt.id, this.#end(grant))
    })
    this.grantCount += fresh.length
    if (fresh.length > 0 || desired.ack.length > 0) this.#say()
  }

  #end(grant: Grant): FinishedAttempt {
    const result = resultOf(grant)
    return {
      attempt: grant.attempt.id,
      outcome:
        this.#pulling.outcome === 'failed'
          ? failed
          : { kind: 'built', result: signResult(result, this.#signer) },
      usage: result.usage,
      phases: { fetch: 10, build: 1_000, upload: 10 },
      bytes: { peer: 1_000, mirror: 0, local: 0 },
    }
  }

  #say(): void {
    const { owner, messages, cpus } = this.#pulling
    this.#seq += 1
    const message: SyncMessage = {
      type: 'sync',
      seq: this.#seq,
      ackSeq: this.#heardSeq,
      state: 'ready',
      note: '',
      environments: [ENVIRONMENT],
      capacity: { cpus, memoryBytes: 1024 * GIB, diskBytes: 1024 * GIB },
      running: [],
      finished: [...this.#finished.values()],
    }
    if (messages === 'objects') {
      owner.sync(this.#signer.peerId, message)
      return
    }
    const frame = this.#own(() => encodeObject(WorkMessage, message))
    const startedAt = performance.now()
    const decoded = decodeObject(WorkMessage, frame, 'message')
    this.framesMs += performance.now() - startedAt
    if (decoded.type === 'sync') owner.sync(this.#signer.peerId, decoded)
  }

  #own<T>(work: () => T): T {
    const startedAt = performance.now()
    const result = work()
    this.ownMs += performance.now() - startedAt
    return result
  }
}
