/** Rendezvous hashing: an even share for each index node, and little that moves. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { rendezvous, REPLICAS, singleIndex } from '../../src/gossip/directory.ts'
import { sha256, type Digest } from '../../src/wire/digest.ts'

const NODES = 50
const RECORDS = 10_000
const nodes = Array.from({ length: NODES }, (_, at) => `12D3KooW${at}`)
const digests = Array.from({ length: RECORDS }, (_, at) => sha256(`${at}`))

function places(peerIds: readonly string[]): Map<Digest, readonly string[]> {
  const directory = rendezvous(peerIds)
  return new Map(digests.map((digest) => [digest, directory.indexNodesOf(digest)]))
}

test('directory: a parent keeps everything', () => {
  assert.deepEqual(singleIndex('p').indexNodesOf(sha256('a')), ['p'])
})

test('directory: every node ranks alike, whatever the order in which it heard of the others', () => {
  const reversed = rendezvous(nodes.toReversed())
  for (const [digest, indexNodes] of places(nodes))
    assert.deepEqual(reversed.indexNodesOf(digest), indexNodes)
  // Pinned: nodes of different versions have to agree.
  assert.deepEqual(rendezvous(['a', 'b', 'c', 'd', 'e']).indexNodesOf(sha256('golden')), PINNED)
})
const PINNED = ['a', 'c', 'b']

test('directory: each record has three places, and each node an even share of them', () => {
  const counts = new Map<string, number>()
  const firsts = new Map<string, number>()
  for (const indexNodes of places(nodes).values()) {
    assert.equal(new Set(indexNodes).size, REPLICAS)
    for (const indexNode of indexNodes) counts.set(indexNode, (counts.get(indexNode) ?? 0) + 1)
    const [first = ''] = indexNodes
    firsts.set(first, (firsts.get(first) ?? 0) + 1)
  }
  // Five standard deviations of a fair draw.
  for (const [share, found] of [
    [REPLICAS, counts],
    [1, firsts],
  ] as const) {
    const mean = (RECORDS * share) / NODES
    const spread = 5 * Math.sqrt(mean)
    assert.equal(found.size, NODES)
    for (const count of found.values())
      assert(Math.abs(count - mean) < spread, `${count} of ${mean}`)
  }
  assert.deepEqual(rendezvous(['a', 'b']).indexNodesOf(sha256('a')).toSorted(), ['a', 'b'])
  assert.deepEqual(rendezvous([]).indexNodesOf(sha256('a')), [])
})

test('directory: what a node that leaves had goes to the next in line of each record, and nothing else moves', () => {
  const [gone = '', ...rest] = nodes
  const before = places(nodes)
  const heirs = new Set<string>()
  let movedCount = 0
  for (const [digest, after] of places(rest)) {
    const old = before.get(digest) ?? []
    assert.deepEqual(after.slice(0, -1), old.filter((node) => node !== gone).slice(0, 2))
    if (old.includes(gone)) {
      movedCount += 1
      heirs.add(after.at(-1) ?? '')
    } else assert.deepEqual(after, old)
  }
  const mean = (RECORDS * REPLICAS) / NODES
  assert(Math.abs(movedCount - mean) < 5 * Math.sqrt(mean), `${movedCount} of ${RECORDS} moved`)
  assert(heirs.size > NODES / 2, `${heirs.size} nodes share what was left`)
})
