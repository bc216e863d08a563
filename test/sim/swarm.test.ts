/** Swarms on a simulated network: what the origin sends, how long it takes, who dies, and that nobody is stuck. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Dice } from './dice.ts'
import { SwarmWorld, type SwarmPlan } from './swarm-world.ts'

const CHUNKS = 256

interface Outcome {
  readonly world: SwarmWorld
  /** What the origin sent, in blobs. */
  readonly egress: number
  /** When the last one was done, against the time that one link takes for the blob. */
  readonly slowest: number
  readonly stuck: number[]
}

function run(plan: SwarmPlan): Outcome {
  const world = new SwarmWorld({ chunks: CHUNKS, ...plan })
  world.run()
  const doneAtMs = world.wanting.map((node) => node.doneAtMs ?? Infinity)
  return {
    world,
    egress: world.origin.sentBytes / world.sizeBytes,
    slowest: Math.max(...doneAtMs) / world.idealMs,
    stuck: world.wanting.filter((node) => node.doneAtMs === undefined).map(({ id }) => id),
  }
}

function check(plan: SwarmPlan, limits: { readonly egress: number; readonly slowest: number }) {
  const outcome = run(plan)
  const { egress, slowest, stuck } = outcome
  const told = `seed ${plan.seed}, ${plan.nodes} nodes: ${egress.toFixed(3)} blobs, ${slowest.toFixed(2)} x ideal`
  assert.deepEqual(stuck, [], `${told}: stuck`)
  assert(egress <= limits.egress && slowest <= limits.slowest, told)
  return outcome
}

for (const [nodes, seeds] of [
  [1, [1]],
  [2, [1, 2, 3]],
  [16, [1, 2, 3, 4]],
  [64, [1, 2]],
] as const)
  test(`swarm: ${nodes} at once cost the origin one blob, and little more time than one`, () => {
    for (const seed of seeds) check({ seed, nodes }, { egress: 1.1, slowest: 1.5 })
  })

test('swarm: one that is late gets it from the others', () => {
  for (const seed of [1, 2, 3])
    check({ seed, nodes: 16, arrivalMs: 8_000 }, { egress: 1.1, slowest: 3 })
})

test('swarm: with a quarter killed midway the others are done, for little more', () => {
  for (const seed of [1, 2, 3, 4]) {
    const dice = new Dice(seed)
    const nodes = 16
    const doomed = Array.from({ length: nodes / 4 }, (_, at) => ({
      id: 1 + 4 * at + dice.between(0, 3),
      part: 0.3 + 0.4 * dice.fraction(),
    }))
    const { world } = check(
      {
        seed,
        nodes,
        onTick(running, nowMs) {
          for (const { id, part } of doomed) {
            const node = running.nodes[id]
            if (node?.isAlive === true && nowMs > part * running.idealMs) running.kill(node)
          }
        },
      },
      { egress: 1.3, slowest: 1.95 },
    )
    assert.equal(world.wanting.length, 12)
  }
})

test('swarm: the origin may leave when it has sent each chunk once', () => {
  for (const seed of [1, 2, 3, 4]) {
    const { world } = check(
      {
        seed,
        nodes: 16,
        onTick(running) {
          // Cheap as long as it is not the whole.
          if (!running.origin.isAlive || running.origin.sentBytes < running.sizeBytes) return
          const shared = new Set(running.wanting.flatMap(({ core }) => [...core.have]))
          if (shared.size === CHUNKS) running.kill(running.origin)
        },
      },
      { egress: 1.1, slowest: 1.5 },
    )
    assert(!world.origin.isAlive)
  }
})

test('swarm: when all lack the same chunk the origin sends it once, and nobody else can', () => {
  const holds = (): number[] =>
    Array.from({ length: CHUNKS }, (_, at) => at).filter((at) => at !== 77)
  for (const seed of [1, 2, 3]) {
    const { world } = check({ seed, nodes: 16, holds }, { egress: 0.03, slowest: 1 })
    assert(world.wanting.every(({ order }) => order.join() === '77'))
    // Without an origin nobody ends, and nobody sends anything in vain.
    const orphans = run({ seed, nodes: 16, holds, hasOrigin: false })
    assert.equal(orphans.stuck.length, 16)
    assert(orphans.world.nodes.every(({ sentBytes }) => sentBytes === 0))
  }
})

test('swarm: those that hold different halves need no origin', () => {
  const holds = (node: number): number[] =>
    Array.from({ length: CHUNKS / 2 }, (_, at) => 2 * at + (node % 2))
  const { stuck } = run({ seed: 5, nodes: 8, holds, hasOrigin: false })
  assert.deepEqual(stuck, [])
})

test('swarm: those that reach nobody but the origin get it from there', () => {
  for (const seed of [1, 2]) {
    const { stuck, slowest, egress } = run({ seed, nodes: 2, isHidden: () => true })
    assert.deepEqual(stuck, [])
    // Each gets its half at once, then after a while all of it.
    assert(egress > 1.9 && slowest < 4, `${egress} blobs, ${slowest}`)
  }
})

test('swarm: no two want the chunks in the same order, nor in that of the blob', () => {
  const { world } = run({ seed: 7, nodes: 16 })
  for (const { order, id } of world.wanting) {
    const ascending = order.filter((chunk, at) => at > 0 && chunk === (order[at - 1] ?? 0) + 1)
    assert(ascending.length < CHUNKS / 4, `node ${id}: ${ascending.length} in order`)
  }
  const firsts = new Set(world.wanting.map(({ order }) => order.slice(0, 8).join()))
  assert.equal(firsts.size, 16)
})

test('swarm: what is sent twice or in vain is little', () => {
  for (const seed of [1, 2]) {
    const { world } = run({ seed, nodes: 16 })
    const received = world.wanting.reduce((sum, node) => sum + node.receivedBytes, 0)
    assert(received <= 1.05 * 16 * world.sizeBytes, `${received / world.sizeBytes / 16}`)
  }
})

test('swarm: the same seed gives the same run', () => {
  const [a, b] = [run({ seed: 9, nodes: 16 }), run({ seed: 9, nodes: 16 })]
  assert.deepEqual(
    a.world.nodes.map(({ order, doneAtMs }) => [order, doneAtMs]),
    b.world.nodes.map(({ order, doneAtMs }) => [order, doneAtMs]),
  )
})
