/**
 * Which nodes keep the records of a digest: the index. A small mesh has one, the parent; a big one spreads
 * the records over its stable nodes by rendezvous hashing, with nobody asking where a record is.
 *
 * Whoever announces and whoever looks up works with either (announcer.ts, finder.ts).
 */
import { hash } from 'node:crypto'
import type { Digest } from '../wire/digest.ts'

/** Index nodes that keep each record. */
export const REPLICAS = 3

export interface BlobDirectory {
  readonly indexNodes: readonly string[]
  /** Those that keep its records, in the order in which they are to be asked; empty when nobody does. */
  indexNodesOf(digest: Digest): readonly string[]
}

export function singleIndex(peerId: string): BlobDirectory {
  const only = [peerId]
  return { indexNodes: only, indexNodesOf: () => only }
}

/**
 * Highest random weight (Thaler, Ravishankar 1996): each digest ranks the index nodes in an order of its
 * own, and its records are at the first REPLICAS. When a node comes or goes, only the records that it has or
 * had move. Every node of a mesh must rank alike: the weights are part of the protocol. O(nodes) per digest.
 */
export function rendezvous(
  peerIds: readonly string[],
  options: { readonly replicas?: number } = {},
): BlobDirectory {
  const replicas = options.replicas ?? REPLICAS
  // Sorted, so that the rare equal weights are told apart alike everywhere.
  const nodes = peerIds.toSorted().map((peerId) => ({ peerId, seed: seedOf(peerId) }))
  return {
    indexNodes: peerIds,
    indexNodesOf(digest) {
      const key = [wordOf(digest, 0), wordOf(digest, 8)] as const
      const best: { readonly peerId: string; readonly weight: number }[] = []
      for (const { peerId, seed } of nodes) {
        const weight = weightOf(seed, key)
        const last = best.at(-1)
        if (best.length === replicas && last !== undefined && weight <= last.weight) continue
        if (best.length === replicas) best.pop()
        const before = best.findIndex((other) => other.weight < weight)
        best.splice(before === -1 ? best.length : before, 0, { peerId, weight })
      }
      return best.map(({ peerId }) => peerId)
    },
  }
}

type Words = readonly [number, number]

function seedOf(peerId: string): Words {
  const digest = hash('sha256', `mesh index v1 ${peerId}`, 'buffer')
  return [digest.readUInt32BE(0), digest.readUInt32BE(4)]
}

/** 32 bits of the digest. */
function wordOf(digest: Digest, atHex: number): number {
  return Number.parseInt(digest.slice(atHex, atHex + 8), 16)
}

function weightOf(seed: Words, key: Words): number {
  return mixed(mixed(seed[0] ^ key[0]) ^ seed[1] ^ key[1]) >>> 0
}

/** The finalizer of MurmurHash3 (Appleby): each bit of the input changes half of the output. */
function mixed(word: number): number {
  let value = word
  value = Math.imul(value ^ (value >>> 16), 0x85ebca6b)
  value = Math.imul(value ^ (value >>> 13), 0xc2b2ae35)
  return value ^ (value >>> 16)
}
