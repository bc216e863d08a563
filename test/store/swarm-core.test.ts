/** The pure half of a swarm, one decision at a time; what comes of many is in test/sim/swarm.test.ts. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ChunkSet } from '../../src/store/swarm/chunk-set.ts'
import { SwarmCore, type SwarmEffect } from '../../src/store/swarm/swarm-core.ts'
import { random } from './support.ts'

const CHUNKS = 40
const CHUNK_BYTES = 256 * 1024

function setOf(chunks: Iterable<number>): ChunkSet {
  const set = new ChunkSet(CHUNKS)
  for (const chunk of chunks) set.add(chunk)
  return set
}
const all = (): ChunkSet => ChunkSet.full(CHUNKS)
const but = (...missing: number[]): ChunkSet => {
  const set = all()
  for (const chunk of missing) set.delete(chunk)
  return set
}

function coreWith(have: ChunkSet): SwarmCore {
  const lengths = Array.from({ length: CHUNKS }, () => CHUNK_BYTES)
  return new SwarmCore({ random }, { lengths, have })
}

const asks = (effects: readonly SwarmEffect[]): Extract<SwarmEffect, { type: 'ask' }>[] =>
  effects.filter((effect) => effect.type === 'ask')
const chunksOf = ({ first, count }: { first: number; count: number }): number[] =>
  Array.from({ length: count }, (_, at) => first + at)
const types = (effects: readonly SwarmEffect[]): string[] => effects.map(({ type }) => type)

test('chunk-set: counts what it has, and takes no bitmap of another blob', () => {
  const set = setOf([0, 8, 39])
  assert.deepEqual(
    [set.count, [...set], set.has(8), set.add(8), set.add(CHUNKS)],
    [3, [0, 8, 39], true, false, false],
  )
  assert.deepEqual([...ChunkSet.fromBytes(CHUNKS, set.toBytes())], [0, 8, 39])
  assert(set.delete(8) && !set.delete(8) && set.count === 2)
  assert.throws(() => ChunkSet.fromBytes(CHUNKS, new Uint8Array(6)), { code: 'MESH0210' })
  assert.throws(() => ChunkSet.fromBytes(9, Uint8Array.of(0, 2)), { code: 'MESH0210' })
})

test('swarm-core: the rarest chunk is asked for first', () => {
  const core = coreWith(new ChunkSet(CHUNKS))
  core.addMember('a', but(7), 0, 0)
  core.addMember('b', but(7, 30), 0, 0)
  core.addMember('c', all(), 0, 0)
  const first = asks(core.step(0))
  // 7 is with c alone, 30 with a and c.
  assert(first.some((ask) => ask.to === 'c' && ask.first === 7 && ask.count === 1))
  assert(first.some((ask) => chunksOf(ask).includes(30)))
})

test('swarm-core: of the last chunks a second copy is asked for, and the slower one cancelled', () => {
  const core = coreWith(but(3, 20))
  core.addMember('a', all(), 0, 0)
  core.addMember('b', setOf([3, 20]), 0, 0)
  const asked = asks(core.step(0)).filter((ask) => chunksOf(ask).includes(3))
  assert.deepEqual(asked.map(({ to }) => to).toSorted(), ['a', 'b'])
  const [winner, loser] = asked
  assert(winner !== undefined && loser !== undefined)
  core.got(3, winner.to)
  core.ended(winner.to, winner.ask, 'done', 1)
  const effects = core.step(1)
  assert(
    effects.some(
      (effect) => effect.type === 'cancel' && effect.to === loser.to && effect.ask === loser.ask,
    ),
    types(effects).join(),
  )
})

test('swarm-core: a member that is silent for five seconds is left alone, then given up', () => {
  const core = coreWith(new ChunkSet(CHUNKS))
  core.addMember('silent', all(), 0, 0)
  assert(asks(core.step(0)).length > 0)
  assert.deepEqual(types(core.step(4_999)), [])
  core.addMember('other', all(), 0, 4_999)
  const later = core.step(5_000)
  assert(later.some(({ type }) => type === 'cancel'))
  assert(asks(later).every(({ to }) => to === 'other'))
  let nowMs = 5_000
  for (; nowMs < 120_000 && core.hasMember('silent'); nowMs += 500) {
    core.progress('other', nowMs)
    core.step(nowMs)
  }
  assert(nowMs < 60_000, `${nowMs} ms`)
})

test('swarm-core: two that come to each other at once lose no chunk over it', () => {
  const core = coreWith(but(11))
  core.addMember('a', all(), 0, 0)
  const [ask] = asks(core.step(0))
  assert(ask !== undefined && ask.first === 11)
  core.addMember('a', all(), 0, 1)
  const again = asks(core.step(1))
  assert(
    again.some(({ first }) => first === 11),
    'it is asked for once more',
  )
  core.remove('a', 2)
  core.addMember('b', all(), 0, 2)
  assert(asks(core.step(2)).some(({ to, first }) => to === 'b' && first === 11))
})

test('swarm-core: what is refused is asked elsewhere, and again when it is told', () => {
  const core = coreWith(but(5))
  core.addMember('a', all(), 0, 0)
  const [ask] = asks(core.step(0))
  assert(ask !== undefined)
  core.ended('a', ask.ask, 'refused', 1)
  assert.deepEqual(asks(core.step(1)), [])
  core.heard('a', { added: [5] }, 2)
  assert.equal(asks(core.step(2))[0]?.first, 5)
})

test('swarm-core: a seed shows everything to one, and to two never the same at first', () => {
  const core = coreWith(all())
  core.addMember('a', new ChunkSet(CHUNKS), undefined, 0)
  const [only] = core.step(0)
  assert(only?.type === 'bits' && 'bitmap' in only.bits)
  assert(ChunkSet.fromBytes(CHUNKS, only.bits.bitmap).isFull)
  core.addMember('b', new ChunkSet(CHUNKS), undefined, 300)
  const shown = new Map<string, number[]>()
  for (const effect of core.step(300)) {
    if (effect.type !== 'bits') continue
    const { bits } = effect
    const chunks = 'added' in bits ? bits.added : ChunkSet.fromBytes(CHUNKS, bits.bitmap)
    shown.set(effect.to, [...chunks])
  }
  const [a = [], b = []] = [shown.get('a'), shown.get('b')]
  assert(a.length > 0 && b.length > 0 && a.length + b.length < CHUNKS)
  assert(a.every((chunk) => !b.includes(chunk)))
  for (const chunk of a) assert(core.mayGive('a', chunk) && !core.mayGive('b', chunk))
  assert(core.mayGive('stranger', 0), 'others than members are not refused')
})

test('swarm-core: members are told four times a second at the most', () => {
  const core = coreWith(new ChunkSet(CHUNKS))
  core.addMember('a', new ChunkSet(CHUNKS), undefined, 0)
  let told = 0
  for (let nowMs = 0; nowMs < 1_000; nowMs += 25) {
    core.got(nowMs / 25, 'b')
    told += core.step(nowMs).filter(({ type }) => type === 'bits').length
  }
  assert.equal(told, 4)
})

test('swarm-core: who has everything leaves those who have it too, and stays for the others', () => {
  const core = coreWith(but(0))
  core.addMember('done', all(), 0, 0)
  core.addMember('not yet', setOf([1]), 0, 0)
  core.got(0, 'done')
  assert.deepEqual(
    core.step(1_000).map((effect) => [effect.type, 'to' in effect ? effect.to : '']),
    [
      ['leave', 'done'],
      ['bits', 'not yet'],
    ],
  )
})
