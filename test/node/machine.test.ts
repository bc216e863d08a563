/** What a node offers follows its machine while it runs. */
import assert from 'node:assert/strict'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import pino from 'pino'
import { probed } from '../../src/build/probe/known.ts'
import type { OfferFacts } from '../../src/build/probe/machine-facts.ts'
import { FactsTeller } from '../../src/node/facts-teller.ts'
import { findChanges } from '../../src/node/machine-changes.ts'
import { Machine, type MachineOptions } from '../../src/node/machine.ts'
import { sha256 } from '../../src/wire/digest.ts'
import { Fact, FACTS_MAX } from '../../src/wire/machine-fact.ts'
import { Builds } from '../build/builds.ts'
import { FACTS as SAMPLE } from '../build/probe/sample-facts.ts'
import { ManualClock } from './manual-clock.ts'

const FACTS: OfferFacts = {
  ...SAMPLE,
  systems: [{ system: 'x86_64-linux', how: 'native', why: 'a program of it ran' }],
  otherSystems: [],
  kvm: { host: { ok: false, why: 'no' }, sandbox: { ok: false, why: 'no' } },
}

let builds: Builds
before(async () => {
  builds = await Builds.open(['helper', 'bwrap', 'unshare'])
})
after(() => builds[Symbol.asyncDispose]())

/** A node whose machine the test sets. */
async function open(options: Partial<MachineOptions> = {}) {
  const data = await mkdtemp(join(tmpdir(), 'mesh-machine-'))
  const clock = new ManualClock()
  const logs: Record<string, unknown>[] = []
  let facts = FACTS
  let probes = 0
  let gate: Promise<void> = Promise.resolve()
  let error: Error | undefined
  const machine = await Machine.open(
    {
      clock,
      log: pino({}, { write: (line: string) => void logs.push(JSON.parse(line)) }),
      executor: builds.executor,
    },
    { data, declared: { features: [] }, factPaths: [], ...options },
    async () => {
      probes += 1
      await gate
      if (error !== undefined) throw error
      return facts
    },
  )
  let changes = 0
  machine.onChange = () => {
    changes += 1
  }
  return {
    machine,
    clock,
    logs,
    data,
    count: () => ({ probes, changes }),
    become: (next: Partial<OfferFacts>) => {
      facts = { ...facts, ...next }
    },
    hold: (promise: Promise<void>) => {
      gate = promise
    },
    fail: (next: Error | undefined) => {
      error = next
    },
    async [Symbol.asyncDispose]() {
      machine[Symbol.dispose]()
      await rm(data, { recursive: true })
    },
  }
}

const said = (logs: readonly Record<string, unknown>[], message: string): unknown[] =>
  logs.filter(({ msg }) => msg === message)

test('machine: every ten minutes it is looked at, and what is new is told and logged', async () => {
  await using node = await open()
  assert.deepEqual(node.clock.pendingMs(), [600_000])
  const { host } = FACTS.kvm
  node.become({ cpus: probed(4, 'quota'), kvm: { host: { ...host, ok: true }, sandbox: host } })
  const changed = Promise.withResolvers<void>()
  node.machine.onChange = () => changed.resolve()
  node.clock.step(600_000)
  await changed.promise
  assert.equal(node.machine.offered.cpus.value, 4)
  assert.deepEqual(node.machine.environments[0]?.features, ['kvm', 'native'])
  const [log] = node.logs.filter(({ msg }) => msg === 'the machine offers something else')
  assert.deepEqual(log?.['changes'], ['cpus: 8 before, 4 now', 'x86_64-linux host: with kvm'])
  await node.machine.look()
  assert.equal(said(node.logs, 'the machine offers something else').length, 1)
  assert.deepEqual(node.clock.pendingMs(), [600_000])
})

test('machine: asked often while it looks, it looks once more', async () => {
  await using node = await open()
  const gate = Promise.withResolvers<void>()
  node.hold(gate.promise)
  const first = node.machine.look()
  const others = [node.machine.look(), node.machine.look(), node.machine.look()]
  gate.resolve()
  await Promise.all([first, ...others])
  assert.deepEqual(node.count(), { probes: 3, changes: 2 })
})

test('machine: what cannot be found out now is offered as before', async () => {
  await using node = await open()
  node.fail(new Error('out of processes'))
  await node.machine.look()
  assert.equal(node.machine.offered.cpus.value, 8)
  assert.equal(said(node.logs, 'the machine could not be looked at').length, 1)
  assert.deepEqual(node.clock.pendingMs(), [600_000])
  node.fail(undefined)
  node.become({ memoryBytes: probed(5, 'x') })
  await node.machine.look()
  assert.equal(node.machine.offered.memoryBytes.value, 5)
})

test('machine: another configuration counts at once; what does not fit is told once', async () => {
  await using node = await open({ declared: { cpus: 99, features: [] } })
  const notice = 'the configuration of this worker does not fit its machine'
  assert.equal(said(node.logs, notice).length, 1)
  await node.machine.look()
  assert.equal(said(node.logs, notice).length, 1)
  const script = join(node.data, 'facts.sh')
  await writeFile(script, '#!/bin/sh\necho gpu=none; echo feature vcs\n')
  await chmod(script, 0o755)
  await node.machine.declare({ declared: { cpus: 2, features: ['-native'] }, factPaths: [script] })
  assert.equal(node.machine.offered.cpus.value, 2)
  assert.deepEqual(node.machine.environments[0]?.features, ['gpu-none', 'vcs'])
  const { facts } = node.machine
  assert.deepEqual(
    facts.find(({ name }) => name === 'gpu'),
    { name: 'gpu', value: 'none', source: 'declared', how: script },
  )
  for (const fact of facts) assert.deepEqual(Fact.parse(fact), fact)
  assert(facts.length <= FACTS_MAX)
})

test('machine: after its end nobody looks any more', async () => {
  await using node = await open()
  node.machine[Symbol.dispose]()
  await node.machine.look()
  assert.deepEqual(node.clock.pendingMs(), [])
  assert.deepEqual(node.count(), { probes: 1, changes: 0 })
})

test('machine-changes: environments that come, go, or have other tools', async () => {
  await using node = await open()
  const was = node.machine.offered
  const [host] = was.environments
  assert(host !== undefined)
  const upgraded = { ...host, base: sha256('another compiler'), label: 'debian-13' }
  const changes = findChanges(was, {
    ...was,
    environments: [upgraded, { ...host, isolation: 'image' }],
  })
  assert.deepEqual(changes, [
    'x86_64-linux host: its compilers, C library or release were changed (debian-13)',
    'x86_64-linux image: new',
  ])
  assert.deepEqual(findChanges({ ...was, environments: [] }, was), ['x86_64-linux host: new'])
  assert.deepEqual(findChanges(was, { ...was, environments: [] }), ['x86_64-linux host: gone'])
})

test('facts-teller: told until they are heard, and again when they change', () => {
  const facts = (value: string): Fact[] => [{ name: 'cpus', value, source: 'probed', how: 'x' }]
  const teller = new FactsTeller()
  assert.equal(teller.next(undefined, 1), undefined)
  teller.heard(1)
  assert.deepEqual(teller.next(facts('1'), 2), facts('1'))
  assert.deepEqual(teller.next(facts('1'), 3), facts('1'))
  teller.heard(1)
  assert.deepEqual(teller.next(facts('1'), 4), facts('1'))
  teller.heard(3)
  assert.equal(teller.next(facts('1'), 5), undefined)
  assert.deepEqual(teller.next(facts('2'), 6), facts('2'))
  teller.heard(5)
  assert.deepEqual(teller.next(facts('2'), 7), facts('2'))
  teller.heard(7)
  assert.equal(teller.next(facts('2'), 8), undefined)
})
