/** Processors in a tree: who sees the machine decides, and what waits above counts below. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { desiredMessage } from '../../src/node/owner/desired-message.ts'
import { FEATURE_TREE } from '../../src/wire/work-messages.ts'
import type { Desired, Effect, Event } from '../../src/scheduler/events.ts'
import { Scheduler } from '../../src/scheduler/scheduler.ts'
import { derivation, environment, GIB, peerOf } from './samples.ts'
import { liveOf, World } from './world.ts'

/** A machine with a number of processors, which runs what it is told until `end`. */
interface Machine {
  readonly name: string
  readonly cpus: number
  /** By attempt. */
  readonly running: Map<string, number>
  seq: number
  ackSeq: number
}

/** A node below the world's owner, with its own scheduler and the machines that it sees. */
class Middle {
  readonly name: string
  readonly machines: Machine[]
  readonly #world: World
  readonly #scheduler: Scheduler
  #seq = 0
  #toldSeq = 0

  constructor(world: World, name: string, machines: Readonly<Record<string, number>>) {
    this.#world = world
    this.name = name
    this.#scheduler = new Scheduler({
      selfId: peerOf(name),
      providersOf: () => [],
      hasParents: true,
    })
    this.#take(this.#scheduler.recover(world.moment))
    this.machines = Object.entries(machines).map(([machine, cpus]) => ({
      name: machine,
      cpus,
      running: new Map<string, number>(),
      seq: 0,
      ackSeq: 0,
    }))
    for (const machine of this.machines) this.#apply(upOf(machine.name))
    this.#apply({ type: 'uplink-up', peerId: peerOf('root') })
    world.apply(upOf(name))
    this.turn()
  }

  #apply(event: Event): void {
    this.#take(this.#scheduler.apply(event, this.#world.moment))
  }

  /** Facts are as good as synced, and the look-ups of its own requests are none of these tests'. */
  #take(effects: readonly Effect[]): void {
    assert(effects.every(({ type }) => type !== 'lookup'))
  }

  /** Everybody says what is and hears what should be, from the machines up and down again. */
  turn(): void {
    this.#apply({ type: 'tick' })
    for (const machine of this.machines) this.#sync(machine)
    this.#exchange()
    for (const machine of this.machines) this.#orders(machine)
    for (const machine of this.machines) this.#sync(machine)
    this.#exchange()
    for (const machine of this.machines) this.#orders(machine)
  }

  #sync(machine: Machine): void {
    machine.seq += 1
    this.#apply({
      type: 'sync',
      peerId: peerOf(machine.name),
      message: {
        type: 'sync',
        seq: machine.seq,
        ackSeq: machine.ackSeq,
        state: 'ready',
        note: '',
        environments: [environment()],
        capacity: { cpus: machine.cpus, memoryBytes: 16 * GIB, diskBytes: 100 * GIB },
        running: [...machine.running].map(([attempt, cpus]) => ({
          attempt,
          phase: 'building',
          phases: {},
          held: { cpus, memoryBytes: 0, diskBytes: 0 },
        })),
        finished: [],
      },
      results: new Map(),
    })
  }

  #orders(machine: Machine): void {
    const desired = this.#desiredOf(machine)
    if (desired === undefined) return
    for (const { attempt, cpus } of desired.allotments)
      if (machine.running.has(attempt)) machine.running.set(attempt, cpus)
    for (const { attempt, cpus } of desired.relayed)
      if (!machine.running.has(attempt)) machine.running.set(attempt, cpus)
    const cpus = [...machine.running.values()].reduce((sum, each) => sum + each, 0)
    assert(cpus <= machine.cpus, `${machine.name} uses ${cpus} of ${machine.cpus} processors`)
  }

  #desiredOf(machine: Machine): Desired | undefined {
    const { factSeq } = this.#scheduler.state
    const desired = this.#scheduler.desiredOf(peerOf(machine.name), factSeq, machine.ackSeq + 1)
    if (desired !== undefined) machine.ackSeq += 1
    return desired
  }

  #exchange(): void {
    this.#seq += 1
    const message = this.#scheduler.syncUp(this.#seq)
    assert(message !== undefined)
    const peerId = peerOf(this.name)
    this.#world.apply({ type: 'sync', peerId, message, results: new Map() })
    const { scheduler, syncedSeq } = this.#world
    const desired = scheduler.desiredOf(peerId, syncedSeq, this.#toldSeq + 1)
    if (desired === undefined) return
    this.#toldSeq += 1
    this.#apply({
      type: 'orders',
      peerId: peerOf('root'),
      sentAtMs: this.#world.nowMs,
      message: desiredMessage(
        desired,
        this.#toldSeq,
        { peerId: peerOf('root'), name: 'root' },
        () => ({ hints: [], peers: [] }),
      ),
    })
  }

  pass(ms: number): void {
    for (let left = ms; left > 0; left -= 250) {
      this.#world.nowMs += 250
      this.#world.apply({ type: 'tick' })
      this.turn()
    }
  }

  get cpus(): number[] {
    return this.machines.flatMap(({ running }) => [...running.values()])
  }
}

function upOf(name: string): Event {
  return {
    type: 'node-up',
    record: { peerId: peerOf(name), name, roles: ['worker'], addresses: [], http: null },
    version: { mesh: '0', protocols: [], features: [FEATURE_TREE] },
    boot: '1',
  }
}

const wide = (name: string) => derivation(name, { cpus: 1, cpusMax: 8 })

test('allotments: one machine with a daemon of its own is told by its parent', () => {
  const world = new World()
  // The daemon's own worker: its parent sees it as it is.
  const leaf = new Middle(world, 'leaf', { leaf: 8 })
  world.submit('r', [wide('wide')])
  leaf.pass(2_000)
  assert.deepEqual(leaf.cpus, [8])
  world.submit('s', [derivation('narrow', { cpus: 3 })])
  leaf.pass(2_000)
  assert.deepEqual(new Set(leaf.cpus), new Set([3, 5]))
  assert.equal(liveOf(world.step('r', 'wide'))[0]?.allotted, 5)
})

test('allotments: the middle of a tree makes room for what waits above it', () => {
  const world = new World()
  const middle = new Middle(world, 'middle', { a: 4, b: 4 })
  world.submit('r', [wide('one'), wide('two')])
  middle.pass(3_000)
  assert.equal(middle.cpus.length, 2)
  // What has just waited above is named for another minute; room is made for more of it, and taken back.
  middle.pass(70_000)
  assert.deepEqual(middle.cpus, [4, 4], 'each has all of its machine')
  world.submit('s', [derivation('narrow', { cpus: 2 })])
  middle.pass(4_000)
  assert.equal(middle.cpus.length, 3)
  middle.pass(70_000)
  assert.equal(
    middle.cpus.reduce((sum, cpus) => sum + cpus),
    8,
  )
  const held = ['one', 'two'].map((name) => liveOf(world.step('r', name))[0]?.allotted)
  assert.deepEqual(new Set(held), new Set([2, 4]), 'the owner hears of it')
})
