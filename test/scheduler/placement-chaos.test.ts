/**
 * Random farms in which nodes of different speed come, go and fail, and jobs take other times than expected:
 * everything is done in the end, and on the way nothing is granted twice but second runs, nothing is
 * overbooked, and nothing waits that could start.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { canStart } from '../../src/scheduler/match.ts'
import { isLive, type Job } from '../../src/scheduler/model.ts'
import { isOpen } from '../../src/scheduler/kinds.ts'
import { Dice } from '../sim/dice.ts'
import { derivation, GIB } from './samples.ts'
import { World, type WorldNode } from './world.ts'

const STEPS = 120
/** Names of derivations, each with what it takes at speed 1: they come again and again and are learnt. */
const KINDS = [
  { name: 'tiny', ms: 2_000, cpus: 1, gib: 0 },
  { name: 'short', ms: 8_000, cpus: 1, gib: 1 },
  { name: 'long', ms: 40_000, cpus: 1, gib: 2 },
  { name: 'wide', ms: 12_000, cpus: 4, gib: 0 },
  { name: 'fat', ms: 10_000, cpus: 1, gib: 14 },
] as const

interface Seen {
  held: number
  reserved: number
  second: number
  lost: number
}

class Chaos {
  readonly world = new World()
  readonly #dice: Dice
  readonly #seen: Seen
  readonly #endsMs = new Map<string, number>()
  readonly #label: string
  #requestCount = 0

  constructor(seed: number, seen: Seen) {
    this.#dice = new Dice(seed)
    this.#seen = seen
    this.#label = `seed ${seed}`
    const count = this.#dice.between(2, 8)
    for (let at = 0; at < count; at += 1)
      this.world.node(`n${at}`, {
        cpus: this.#dice.pick([1, 2, 4, 8]),
        memoryBytes: this.#dice.pick([4, 8, 16]) * GIB,
        speed: this.#dice.pick([0.5, 1, 1, 2, 4]),
      })
    // Everything can run somewhere.
    this.world.node('large', { cpus: 8, memoryBytes: 16 * GIB, speed: 1 })
  }

  run(): void {
    for (let at = 0; at < STEPS; at += 1) {
      this.#disturb()
      this.#second()
    }
    for (const node of this.world.nodes) if (!node.isConnected) node.up()
    for (let at = 0; this.world.scheduler.state.openJobs.size > 0; at += 1) {
      assert(
        at < 10_000,
        `${this.#label}: ${this.world.scheduler.state.openJobs.size} jobs stay open`,
      )
      this.#second()
    }
    for (const request of this.world.scheduler.state.requests.values())
      assert.equal(request.state, 'done', `${this.#label}: ${request.wire.graph.name}`)
    const { queues, reservations } = this.world.scheduler
    assert.deepEqual([[...queues.all].length, reservations.count], [0, 0], this.#label)
  }

  #disturb(): void {
    const dice = this.#dice
    const { world } = this
    if (dice.between(0, 2) === 0) {
      this.#requestCount += 1
      const id = `r${this.#requestCount}`
      const made = Array.from({ length: dice.between(1, 8) }, (_, at) => {
        const kind = dice.pick(KINDS)
        return derivation(`${kind.name}-${at}`, {
          args: [id, `${at}`],
          cpus: kind.cpus,
          memoryBytes: kind.gib * GIB,
          run: { retries: 100 },
        })
      })
      // Derivations of one kind have one name in every request, so that they are learnt.
      world.submit(id, made, {
        priority: dice.pick([40, 50, 60]),
        user: `user-${dice.between(1, 3)}`,
        keepGoing: true,
      })
    }
    if (dice.between(0, 30) !== 0) return
    const node = dice.pick(world.nodes)
    this.#seen.lost += 1
    if (!node.isConnected) node.up()
    else if (dice.between(0, 1) === 0) node.restart()
    else node.down()
  }

  /** A second goes by. */
  #second(): void {
    const { world } = this
    world.pass(1_000)
    for (const node of world.nodes) {
      if (!node.isConnected) continue
      node.take()
      for (const id of [...node.running.keys()]) this.#work(node, id)
    }
    this.#check()
  }

  #work(node: WorldNode, id: string): void {
    const grant = node.running.get(id)
    if (grant === undefined) return
    const endMs = this.#endsMs.get(id)
    if (endMs === undefined) {
      const kind = KINDS.find(({ name }) => grant.name.startsWith(name))
      const odd = this.#dice.pick([0.8, 1, 1, 1, 1, 1, 1.2, 1.2, 1.5, 12])
      const ms = ((kind?.ms ?? 1_000) * odd) / (node.speed ?? 1)
      this.#endsMs.set(id, this.world.nowMs + ms)
      return
    }
    if (endMs > this.world.nowMs) return
    const wallMs = Math.round(this.world.nowMs - endMs + 1_000)
    const kind = KINDS.find(({ name }) => grant.name.startsWith(name))
    const usage = {
      wallMs: Math.max(wallMs, Math.round((kind?.ms ?? 1_000) / (node.speed ?? 1))),
      cpuMs: 1_000,
      maxRssBytes: 2 ** 20,
    }
    node.build(id, undefined, { usage })
  }

  #check(): void {
    const { state, nodes, queues, reservations, placement } = this.world.scheduler
    for (const jobs of state.openJobs.values()) for (const job of jobs) this.#checkJob(job)
    for (const node of nodes.values()) {
      let cpus = 0
      let memoryBytes = 0
      for (const attempt of node.attempts) {
        cpus += attempt.allotted
        memoryBytes += attempt.memoryBytes
      }
      const { allocated, capacity, record } = node
      assert.deepEqual([allocated.cpus, allocated.memoryBytes], [cpus, memoryBytes], this.#label)
      assert(
        cpus <= capacity.cpus && memoryBytes <= capacity.memoryBytes,
        `${this.#label}: ${record.name}`,
      )
    }
    this.#seen.reserved += reservations.count
    for (const home of queues.all) {
      for (const { job } of home.aside.keys())
        if (placement.stateOf(job)?.kind === 'held-for') this.#seen.held += 1
      const first = queues.first(home)
      if (first === undefined) continue
      for (const node of nodes.values())
        assert(
          !isOpen(node) ||
            reservations.has(node) ||
            home.cut.has(node.peerId) ||
            home.avoid.has(node.peerId) ||
            !canStart(home.requirement, node),
          `${this.#label}: ${node.record.name} could start ${home.key}`,
        )
    }
  }

  #checkJob(job: Job): void {
    const live = job.attempts.filter(isLive)
    assert(live.length <= 2, `${this.#label}: ${job.id} has ${live.length} live attempts`)
    assert.equal(job.phase === 'leased', live.length > 0, this.#label)
    if (live.length < 2) return
    this.#seen.second += 1
    assert.notEqual(live[0]?.node.peerId, live[1]?.node.peerId, this.#label)
    assert.equal(live[0]?.action, live[1]?.action, this.#label)
  }
}

test('placement: 15 random farms get everything done, and nothing that could start is left waiting', () => {
  const seen: Seen = { held: 0, reserved: 0, second: 0, lost: 0 }
  for (let seed = 1; seed <= 15; seed += 1) new Chaos(seed, seen).run()
  // That nothing is found must not come from nothing happening.
  assert(
    seen.held > 100 && seen.reserved > 50 && seen.second > 20 && seen.lost > 30,
    JSON.stringify(seen),
  )
})
