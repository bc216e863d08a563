/** Why something waits: the one reason, and the matrix of nodes and requirements. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ERRORS } from '../../src/base/errors.ts'
import { reasonOf } from '../../src/scheduler/explain.ts'
import { whyView } from '../../src/scheduler/views.ts'
import type { Why } from '../../src/wire/api.ts'
import { derivation, environment, GIB } from './samples.ts'
import { broken, World } from './world.ts'

function why(world: World, request: string, name: string) {
  return reasonOf(world.scheduler, world.step(request, name), world.nowMs)
}

function explain(world: World, request: string, name: string, node?: string): Why {
  return whyView(world.scheduler, world.step(request, name), world.moment, node)
}

test('scheduler: without workers the reason says that none has joined', () => {
  const world = new World()
  world.submit('r', [derivation('a')])
  assert.deepEqual(why(world, 'r', 'a')?.class, 'unsatisfiable')
  assert.match(why(world, 'r', 'a')?.text ?? '', /no worker has joined/)
})

test('scheduler: what no node has is named, with the closest node', () => {
  const world = new World()
  world.node('small', { memoryBytes: 2 * GIB })
  world.node('arm', { environments: [environment({ system: 'aarch64-linux' })] })
  world.submit('r', [derivation('a', { memoryBytes: 32 * GIB })])
  const reason = why(world, 'r', 'a')
  assert.equal(reason?.class, 'unsatisfiable')
  assert.equal(
    reason?.text,
    'no node matches; closest is small: memory >= 32 GiB asked, 2 GiB in all',
  )
  const explained = explain(world, 'r', 'a')
  assert.match(explained.summary, /^a waits: no node matches/)
  assert.equal(explained.fixes[0], 'lower needs.memory to 2 GiB or less')
  const matrix = Object.fromEntries(
    explained.nodes.map(({ node, verdicts }) => [
      node,
      verdicts.filter(({ ok }) => !ok).map((verdict) => verdict.requirement),
    ]),
  )
  assert.deepEqual(matrix, { small: ['memory'], arm: ['system', 'memory'] })
})

test('scheduler: a matching node that is away is a temporary reason', () => {
  const world = new World()
  world.node('n1').down()
  world.submit('r', [derivation('a')])
  assert.equal(why(world, 'r', 'a')?.class, 'away')
  assert.match(why(world, 'r', 'a')?.text ?? '', /n1 \(lost\)/)
})

test('scheduler: a busy mesh tells the place in the queue', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  world.submit(
    'r',
    ['a', 'b', 'c'].map((name) => derivation(name)),
  )
  node.take()
  const texts = ['a', 'b', 'c'].flatMap((name) => why(world, 'r', name)?.text ?? [])
  assert.deepEqual(texts, [
    'the 1 matching node is busy: position 1 of 2 in the queue',
    'the 1 matching node is busy: position 2 of 2 in the queue',
  ])
})

test('scheduler: a step that waits for inputs names them and where they are', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  world.submit('r', [derivation('a'), derivation('b'), derivation('c', { after: ['a', 'b'] })])
  node.take()
  const reason = why(world, 'r', 'c')
  assert.equal(reason?.class, 'inputs')
  assert.match(
    reason?.text ?? '',
    /^waiting for 2 inputs a\.out \(j-\w+, running on n1, 0s\), b\.out \(j-\w+, waiting\)$/,
  )
})

test('scheduler: a job that is tried again tells when and why', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')])
  node.take()
  node.finish(broken)
  const reason = why(world, 'r', 'a')
  assert.equal(reason?.class, 'retry')
  assert.equal(reason?.text, 'tried again in 1 s: MESH0505: it broke')
})

test('scheduler: while the mesh recovers nothing is called unsatisfiable', () => {
  const world = new World()
  world.submit('r', [derivation('a')])
  world.restart()
  world.apply({ type: 'looked-up', job: world.step('r', 'a').job?.id ?? '', results: [] })
  assert.equal(why(world, 'r', 'a')?.class, 'recovery')
})

test('scheduler: what is done, failed or runs has no reason to wait', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a'), derivation('b', { after: ['a'] })])
  node.take()
  assert.equal(why(world, 'r', 'a'), undefined)
  assert.match(explain(world, 'r', 'a').summary, /building on n1|leased on n1/)
  node.build()
  assert.match(explain(world, 'r', 'a').summary, /it is done/)
  node.fail()
  assert.match(explain(world, 'r', 'b').summary, /failed: exit code 1/)
})

test('scheduler: a node that matches in every requirement is granted to, one that does not is not', () => {
  const variants = [
    { needs: {}, environments: [environment()], ok: true },
    { needs: { cpus: 8 }, environments: [environment()], ok: false },
    { needs: { features: ['kvm'] }, environments: [environment()], ok: false },
    {
      needs: { features: ['kvm'] },
      environments: [environment({ features: ['kvm', 'big'] })],
      ok: true,
    },
    { needs: {}, environments: [environment({ isolation: 'host' })], ok: false },
    { needs: { sealed: false }, environments: [environment({ isolation: 'host' })], ok: true },
    { needs: { system: 'aarch64-linux' }, environments: [environment()], ok: false },
    { needs: { system: 'any' }, environments: [environment()], ok: true },
    { needs: { tools: ['bison'] }, environments: [environment()], ok: false },
    {
      needs: { tools: ['bison'] },
      environments: [environment({ tools: { bison: null } })],
      ok: true,
    },
  ]
  for (const { needs, environments, ok } of variants) {
    const world = new World()
    const node = world.node('n1', { environments })
    world.submit('r', [derivation('a', needs)])
    node.take()
    assert.equal(node.names.length === 1, ok, JSON.stringify(needs))
    const [row] = explain(world, 'r', 'a').nodes
    const failing = row?.verdicts.filter((verdict) => !verdict.ok) ?? []
    assert.equal(failing.length === 0, ok, JSON.stringify(failing))
  }
})

test('scheduler: every code that it fails with is in the table', () => {
  for (const code of [
    'MESH0301',
    'MESH0302',
    'MESH0501',
    'MESH0504',
    'MESH0505',
    'MESH0506',
  ] as const)
    assert(ERRORS[code] !== undefined)
})
