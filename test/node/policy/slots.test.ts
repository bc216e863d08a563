/** One machine between the builds of the mesh, those beside it, and its owner. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { PolicyWire } from '../../../src/wire/policy.ts'
import type { Decision } from '../../../src/node/policy/policy.ts'
import type { Offer } from '../../../src/node/offer.ts'
import { Slots } from '../../../src/node/policy/slots.ts'

class Machine {
  decision: Decision = {
    policy: 'when-idle',
    cpus: 8,
    memoryBytes: 1024,
    cause: 'all',
    reason: 'nobody is there',
  }
  readonly offer: Pick<Offer, 'capacity' | 'limit'> = {
    capacity: { cpus: 8, memoryBytes: 1024, diskBytes: 1024 },
    limit: undefined,
  }
  /** As the worker was told last. */
  told: number | undefined
  buildCount = 0
  changes = 0
  readonly slots: Slots

  constructor() {
    this.slots = new Slots({
      keeper: this,
      offer: this.offer,
      worker: this,
      onChange: () => (this.changes += 1),
    })
  }

  get note(): PolicyWire {
    const { policy: name, cpus, reason } = this.decision
    return { name, cpus, of: 8, wholeMemoryBytes: 1024, reason }
  }

  setSlots(slots: number | undefined): void {
    this.told = slots
  }

  decide(more: Partial<Decision>): void {
    this.decision = { ...this.decision, ...more }
    this.slots.refresh()
  }
}

test('slots: where all is for builds, the scheduler divides it', () => {
  const machine = new Machine()
  assert.deepEqual([machine.offer.limit?.cpus, machine.told], [8, undefined])
})

test('slots: what a policy leaves is offered, and the worker holds its builds to it', () => {
  const machine = new Machine()
  machine.decide({ cpus: 2, memoryBytes: 512, cause: 'owner' })
  assert.deepEqual(machine.offer.limit, { cpus: 2, memoryBytes: 512 })
  assert.deepEqual([machine.told, machine.changes], [2, 2])
  machine.slots.refresh()
  assert.equal(machine.changes, 2, 'nothing changed')
  machine.decide({ cpus: 8, cause: 'all' })
  assert.equal(machine.told, undefined)
})

test('slots: a build beside the mesh takes its processors from both the offer and what runs', () => {
  const machine = new Machine()
  machine.buildCount = 2
  machine.slots.refresh()
  using taking = machine.slots.takers.take({ cpus: 8, pid: 77 })
  assert.equal(taking.cpus, 6, 'each build of the mesh keeps one')
  assert.deepEqual([machine.offer.limit?.cpus, machine.told], [2, 2])
  assert.deepEqual(machine.slots.pids, [77])
  assert.deepEqual(
    [machine.slots.note.cpus, machine.slots.note.reason],
    [2, 'nobody is there; builds beside the mesh have 6'],
  )
})

test('slots: a policy keeps the machine for its owner, whose own builds it does not limit', () => {
  const machine = new Machine()
  machine.decide({ cpus: 1, cause: 'owner' })
  machine.buildCount = 3
  machine.slots.refresh()
  using taking = machine.slots.takers.take({ cpus: 16 })
  assert.equal(taking.cpus, 7)
  assert.deepEqual([machine.offer.limit?.cpus, machine.told], [1, 1])
})

test('slots: what a person sets is for both', () => {
  const machine = new Machine()
  using taking = machine.slots.takers.take({ cpus: 16 })
  assert.equal(taking.cpus, 8)
  assert.equal(machine.offer.limit?.cpus, 0)
  machine.decide({ cpus: 3, cause: 'person' })
  assert.equal(taking.cpus, 3)
  machine.decide({ cpus: 0, cause: 'person' })
  assert.deepEqual([taking.cpus, machine.offer.limit?.cpus], [1, 0], 'it runs all the same')
})
