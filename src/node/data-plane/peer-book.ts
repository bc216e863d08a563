/**
 * The records of other nodes as they may be used here: only what a node itself has signed, the newest of
 * what it said, and without addresses that lead elsewhere from this machine.
 */
import type { Logger } from 'pino'
import type { Digest } from '../../wire/digest.ts'
import { isSignedByItself, type PeerRecord } from '../../wire/peer-record.ts'
import { isLoopback } from '../config/config-values.ts'

/** Peers whose newest record is kept; beyond it the one that was looked at longest ago is forgotten. */
const PEERS_MAX = 10_000
/** Peers that the log has told of; beyond it they may be told of again. */
const WARNED_MAX = 1_000

interface Page {
  readonly signed: PeerRecord
  readonly usable: PeerRecord
}

export class PeerBook {
  readonly #log: Logger
  readonly #loopback: string
  readonly #pages = new Map<string, Page>()
  readonly #warned = new Set<string>()

  constructor(deps: { readonly log: Logger }, own: { readonly loopback: string }) {
    this.#log = deps.log
    this.#loopback = own.loopback
  }

  /** The peer as far as this node can reach it; undefined when nothing that it signed is known. */
  find(record: PeerRecord): PeerRecord | undefined {
    const known = this.#pages.get(record.peerId)
    // By its signature it is the one that is known, whatever else it says: that is not looked at.
    if (known !== undefined && hasSameSignature(known.signed, record)) return this.#keep(known)
    if (!isSignedByItself(record)) {
      this.#warn(record)
      return known?.usable
    }
    if (known !== undefined && seqOf(known.signed) >= seqOf(record)) return this.#keep(known)
    return this.#keep({ signed: record, usable: usableOf(record, this.#loopback) })
  }

  #keep(page: Page): PeerRecord {
    const { peerId } = page.signed
    this.#pages.delete(peerId)
    this.#pages.set(peerId, page)
    if (this.#pages.size > PEERS_MAX) {
      const [oldest] = this.#pages.keys()
      if (oldest !== undefined) this.#pages.delete(oldest)
    }
    return page.usable
  }

  #warn({ peerId, name }: PeerRecord): void {
    if (this.#warned.has(peerId)) return
    if (this.#warned.size >= WARNED_MAX) this.#warned.clear()
    this.#warned.add(peerId)
    this.#log.warn({ peer: peerId, node: name }, 'record that its node did not sign was not used')
  }
}

const seqOf = (record: PeerRecord): number => record.proof?.seq ?? -1

function hasSameSignature(one: PeerRecord, other: PeerRecord): boolean {
  const [a, b] = [one.proof?.signature, other.proof?.signature]
  return a !== undefined && b !== undefined && Buffer.compare(a, b) === 0
}

/** A loopback address of another machine is an address of this one: whoever answers there is somebody else. */
function usableOf(record: PeerRecord, loopback: string): PeerRecord {
  const isNear = record.loopback === loopback
  const { addresses, http } = record
  return {
    ...record,
    addresses: isNear
      ? addresses
      : addresses.filter((address) => !isLoopback(address.split('/')[2] ?? '')),
    http: http !== null && isUsable(http, record.tls, isNear) ? http : null,
  }
}

/** Plain HTTP never leaves the machine, and TLS is of use only with a certificate to expect. */
function isUsable(http: string, tls: Digest | undefined, isNear: boolean): boolean {
  if (!URL.canParse(http)) return false
  const { protocol, hostname } = new URL(http)
  if (isLoopback(hostname.replace(/^\[|\]$/g, ''))) return isNear
  return protocol === 'https:' && tls !== undefined
}
