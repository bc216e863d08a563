/** Brings blobs to a store node at the owner's word: it fetches them, or one who has them offers them to it. */
import { messageOf } from '../../base/errors.ts'
import type { PeerRecord } from '../../wire/peer-record.ts'
import type { Entry } from '../../wire/tree.ts'
import type { Call, Done } from '../../wire/work-messages.ts'

/** Providers that a store node is told of at once. */
const PULLED_FROM_MAX = 16

export type Carry = Extract<Call, { method: 'pull' | 'push' }>
/** Calls a connected node, or this one. */
export type CallCarrier = (peerId: string, call: Carry, signal: AbortSignal) => Promise<Done>

export interface Carried {
  /** Bytes that moved; undefined when there was no way. */
  readonly bytes: number | undefined
  /** What each try said that failed. */
  readonly problems: readonly string[]
}

/** The store may reach a provider; else a provider may reach the store. Only an abort throws. */
export async function carry(
  call: CallCarrier,
  {
    entries,
    providers,
    store,
  }: {
    readonly entries: readonly Entry[]
    readonly providers: readonly PeerRecord[]
    readonly store: PeerRecord
  },
  signal: AbortSignal,
): Promise<Carried> {
  const from = providers.filter(({ peerId }) => peerId !== store.peerId)
  const tries: [PeerRecord, Carry][] = [
    [store, { method: 'pull', entries: [...entries], from: from.slice(0, PULLED_FROM_MAX) }],
    ...from.map((record): [PeerRecord, Carry] => [
      record,
      { method: 'push', entries: [...entries], to: store },
    ]),
  ]
  const problems: string[] = []
  for (const [{ peerId, name }, what] of tries) {
    try {
      const { ok, bytes, message } = await call(peerId, what, signal)
      if (ok) return { bytes, problems }
      problems.push(`${what.method} at ${name}: ${message}`)
    } catch (error) {
      signal.throwIfAborted()
      problems.push(`${what.method} at ${name}: ${messageOf(error)}`)
    }
  }
  return { bytes: undefined, problems }
}
