/** Everything that a job may wait for, each with its code, its sentence, and what can be done. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { reasonOf } from '../../src/scheduler/explain.ts'
import { requirementOf } from '../../src/scheduler/match.ts'
import { whyView } from '../../src/scheduler/views.ts'
import type { Why } from '../../src/wire/api.ts'
import type { Derivation } from '../../src/wire/derivation.ts'
import { derivation, environment, fileEntry, GIB, peerOf, requestId, sha } from './samples.ts'
import { teach } from './teach.ts'
import { broken, World, type WorldNode } from './world.ts'

const MIB = 2 ** 20

function why(world: World, name: string, request = name, node?: string): Why {
  return whyView(world.scheduler, world.step(request, name), world.moment, node)
}
const submit = (
  world: World,
  name: string,
  options: Parameters<typeof derivation>[1] = {},
  user?: string,
) => world.submit(name, [derivation(name, options)], user === undefined ? {} : { user })
const lever = (
  world: World,
  order: Parameters<World['scheduler']['apply']>[0] & { type: 'lever' },
): void => world.apply(order)

/** A node with one processor that runs `running`, which takes a minute. */
function busyWorld(): { world: World; node: WorldNode } {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  teach(world, [derivation('running')], 60_000)
  submit(world, 'running')
  node.take()
  return { world, node }
}

test('why: a busy mesh tells the place and the time, from measured durations', () => {
  const { world } = busyWorld()
  for (const name of ['a', 'b', 'c']) {
    teach(world, [derivation(name)], 120_000, { count: 4 })
    submit(world, name)
  }
  world.pass(20_000)
  const first = why(world, 'a')
  assert.equal(first.class, 'busy')
  assert.match(
    first.summary,
    /^a waits: the 1 matching node is busy: position 1 of 3 in the queue, expected start in about 40 s \(from 3 durations\)$/,
  )
  const last = why(world, 'c')
  assert.deepEqual(last.position, { n: 3, of: 3 })
  assert.equal(last.etaMs, 40_000 + 2 * 120_000)
  assert.equal(last.etaSamples, 3 + 2 * 4)
  assert.equal(Date.parse(last.eta ?? ''), world.moment.wallMs + 280_000)
  assert.match(last.summary, /expected start in about 5 m \(from 11 durations\)$/)
  assert.deepEqual(last.fixes, [`let it go before others: mesh boost ${world.step('c', 'c').id}`])
  assert.deepEqual(first.fixes, [])
})

test('why: the expected start is what happens when everything takes as long as before', () => {
  const { world, node } = busyWorld()
  for (const name of ['a', 'b', 'c']) {
    teach(world, [derivation(name)], 30_000)
    submit(world, name)
  }
  const { etaMs } = why(world, 'c')
  const begunMs = world.nowMs
  for (const forMs of [60_000, 30_000, 30_000]) {
    assert.notDeepEqual(node.names, ['c'])
    world.pass(forMs)
    node.build()
  }
  assert.deepEqual(node.names, ['c'])
  assert.ok(Math.abs(world.nowMs - begunMs - (etaMs ?? 0)) <= 3_000, `${etaMs}`)
})

test('why: with nothing measured the start is unknown, never invented', () => {
  const world = new World()
  world.node('n1', { cpus: 1 })
  submit(world, 'running')
  submit(world, 'a')
  const answer = why(world, 'a')
  assert.deepEqual([answer.class, answer.etaMs, answer.eta], ['busy', null, null])
  assert.match(answer.summary, /expected start unknown \(too few durations were measured\)$/)
})

test('why: what was never built is taken for what is usual once enough is known, and that is said', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  for (let at = 0; at < 8; at++) teach(world, [derivation(`other-${at}`)], 10_000, { count: 1 })
  submit(world, 'running')
  node.take()
  submit(world, 'a')
  assert.match(why(world, 'a').summary, /in about 10 s \(from 8 durations, also of other jobs\)$/)
})

test('why: work of other classes on the same nodes counts, on other nodes it does not', () => {
  const { world } = busyWorld()
  world.node('arm', { cpus: 1, environments: [environment({ system: 'aarch64-linux' })] })
  const armed: Derivation = derivation('armed', { system: 'aarch64-linux' })
  teach(world, [armed, derivation('other'), derivation('a')], 90_000)
  world.submit('armed', [armed])
  world.submit('armed-too', [derivation('armed-too', { system: 'aarch64-linux' })])
  submit(world, 'other', { memoryBytes: GIB })
  submit(world, 'a')
  assert.equal(why(world, 'a').etaMs, 60_000 + 90_000)
})

test('why: an input that is made tells where, for how long, and how long that takes', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  teach(world, [derivation('zlib')], 300_000)
  world.submit('r', [derivation('zlib'), derivation('app', { after: ['zlib'] })])
  node.take()
  world.pass(130_000)
  const answer = why(world, 'app', 'r')
  assert.equal(answer.class, 'inputs')
  assert.equal(
    answer.summary,
    `app waits: waiting for input zlib.out (${world.step('r', 'zlib').id}, running on n1, 2m of ~5m)`,
  )
})

test('why: what waits for inputs and could start nowhere then says so already', () => {
  const world = new World()
  world.node('n1', { cpus: 1 })
  world.submit('r', [derivation('zlib'), derivation('app', { after: ['zlib'], cpus: 64 })])
  const answer = why(world, 'app', 'r')
  assert.equal(answer.class, 'inputs')
  assert.match(answer.summary, /; after that no node matches its requirements$/)
  assert.match(answer.closest ?? '', /^n1 fails 1 of 3 \(cpus 64 asked, 1 total\)/)
  assert.ok(answer.fixes.includes('lower needs.cpus to 1 or less'))
})

test('why: what is held by hand says by whom and why, until it is released', () => {
  const world = new World()
  world.node('n1', { cpus: 1 })
  submit(world, 'running')
  submit(world, 'a')
  const target = { request: requestId('a'), derivation: undefined }
  lever(world, {
    type: 'lever',
    lever: { kind: 'hold', target, reason: 'wait for the fix' },
    by: 'ann',
  })
  const answer = why(world, 'a')
  assert.deepEqual(
    [answer.class, answer.summary],
    ['held', 'a waits: held by ann: wait for the fix'],
  )
  assert.deepEqual(answer.fixes, [`let it go on: mesh release ${requestId('a')}`])
  lever(world, { type: 'lever', lever: { kind: 'release', target }, by: 'ann' })
  assert.equal(why(world, 'a').class, 'busy')
})

test('why: whose user has had more is held by the share, with the numbers of both', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 8 })
  for (let at = 0; at < 9; at++) submit(world, `ann-${at}`, {}, 'ann')
  node.take()
  submit(world, 'bob-1', { cpus: 8 }, 'bob')
  submit(world, 'ann-last', { cpus: 8 }, 'ann')
  submit(world, 'bob-last', { cpus: 8 }, 'bob')
  const answer = why(world, 'ann-last')
  assert.equal(answer.class, 'share')
  assert.match(
    answer.summary,
    /^ann-last waits: held: your share is 8 of 8 cpus; bob uses 0: position 3 of 3 in the queue/,
  )
  assert.equal(why(world, 'bob-1').class, 'busy')
})

test('why: a job that declines a slow node says for which one', () => {
  const world = new World()
  world.node('fast', { speed: 4, cpus: 1 })
  world.node('slow', { speed: 1, cpus: 1 })
  for (const name of ['running', 'first']) teach(world, [derivation(name)], 40_000)
  submit(world, 'running')
  submit(world, 'first')
  const answer = why(world, 'first')
  assert.equal(answer.class, 'faster')
  assert.match(answer.summary, /held for fast, which is busy, has room in about 10 s/)
  assert.equal(answer.etaMs, 10_000)
})

test('why: a job that waits for the node that has its inputs says so', () => {
  const world = new World()
  world.node('holder', { cpus: 1 })
  submit(world, 'running')
  world.node('other', { cpus: 1 })
  const entry = { ...fileEntry('big'), size: 2_000 * MIB }
  world.providers.set(sha('big'), [peerOf('holder')])
  const big = { ...derivation('big'), inputs: { src: { kind: 'entry' as const, entry } } }
  teach(world, [big], 60_000)
  world.submit('big', [big])
  const answer = why(world, 'big')
  assert.equal(answer.class, 'locality')
  assert.match(answer.summary, /waits at most \d\.\d s for holder, which has its inputs already$/)
})

test('why: a drain and a quarantine tell their reason, and how to end them', () => {
  const world = new World()
  const node = world.node('n1')
  const order = { selector: 'n1', reason: 'OS update', deadlineMs: null }
  lever(world, { type: 'lever', lever: { kind: 'drain', order }, by: 'ann' })
  submit(world, 'a')
  const drained = why(world, 'a')
  assert.equal(drained.class, 'drain')
  assert.equal(
    drained.summary,
    'a waits: the 1 matching node is drained: n1: OS update (drained by ann)',
  )
  assert.deepEqual(drained.fixes, ['let n1 take jobs again: mesh undrain n1'])
  const [row] = drained.nodes
  const state = row?.verdicts.find(({ requirement }) => requirement === 'state')
  assert.deepEqual(
    [state?.brief, state?.have, state?.ok, state?.permanent],
    ['drained', 'drained: OS update (drained by ann)', false, false],
  )
  lever(world, { type: 'lever', lever: { kind: 'undrain', selector: 'n1' }, by: 'ann' })
  assert.equal(why(world, 'a').class, null)
  for (const name of ['a', 'b', 'c', 'd']) {
    if (name !== 'a') submit(world, name)
    node.take()
    for (const attempt of node.attempts) node.finish(broken, attempt)
  }
  world.pass(10_000)
  const waiting = why(world, 'd')
  assert.equal(waiting.class, 'quarantined')
  assert.match(
    waiting.summary,
    /the 1 matching node is in quarantine: n1: it failed 3 different jobs/,
  )
  assert.deepEqual(waiting.fixes, ['let n1 take jobs again: mesh undrain n1'])
})

test('why: an absent node is told with how long it has been away', () => {
  const world = new World()
  world.node('n1').down()
  submit(world, 'a')
  world.pass(240_000)
  const answer = why(world, 'a')
  assert.equal(answer.class, 'away')
  assert.equal(answer.nodes[0]?.verdicts.at(-1)?.brief, 'lost 4m')
  assert.deepEqual(answer.fixes, ['start n1'])
  assert.equal(answer.brief, '0/0 building, 1/1 away could build this')
})

test('why: the short form counts who builds, and who of those away could', () => {
  const world = new World()
  for (let at = 0; at < 5; at++) world.node(`n${at}`, { cpus: 1 })
  world.node('m1').down()
  world.node('m2', { environments: [environment({ system: 'aarch64-linux' })] }).down()
  for (let at = 0; at < 5; at++) submit(world, `running-${at}`)
  submit(world, 'a')
  assert.equal(
    reasonOf(world.scheduler, world.step('a', 'a'), world.nowMs)?.brief,
    '5/5 building, 1/2 away could build this',
  )
})

test('why: the limit is that of the request, and counts from when it began to wait', () => {
  const world = new World()
  world.node('n1')
  world.submit('a', [derivation('a', { memoryBytes: 64 * GIB })], { waitLimitMs: 3_600_000 })
  world.pass(600_000)
  const answer = why(world, 'a')
  assert.equal(answer.class, 'unsatisfiable')
  assert.equal(Date.parse(answer.failsAt ?? '') - world.moment.wallMs, 3_000_000)
  assert.equal(answer.waitLimitMs, 3_600_000)
  assert.equal(
    answer.closest,
    'n1 fails 1 of 3 (memory 64 GiB asked, 16 GiB total). This cannot change by waiting.',
  )
})

test('why: a place in the graph file is named by its line', () => {
  const world = new World()
  world.node('n1')
  world.submit('a', [
    {
      ...derivation('a', { memoryBytes: 64 * GIB, features: ['kvm'] }),
      where: 'kernel.mesh.toml:5:2',
      lines: { memory: 11 },
    },
  ])
  assert.deepEqual(why(world, 'a').advice?.slice(0, 2), [
    { text: 'do without needs.features "kvm"', how: 'kernel.mesh.toml:5' },
    { text: 'lower needs.memory to 16 GiB or less', how: 'kernel.mesh.toml:11' },
  ])
})

test('why: another architecture of the same platform would do with a cross build, which a note says', () => {
  const world = new World()
  world.node('arm', { memoryBytes: GIB, environments: [environment({ system: 'aarch64-linux' })] })
  world.node('ci')
  world.node('mac', { environments: [environment({ system: 'aarch64-darwin' })] })
  submit(world, 'a', { system: 'aarch64-linux', memoryBytes: 8 * GIB })
  const answer = why(world, 'a')
  const cross = Object.fromEntries(
    answer.nodes.map(({ node, verdicts }) => [
      node,
      verdicts.map((one) => one.cross ?? '').join(''),
    ]),
  )
  assert.deepEqual(cross, { arm: '', ci: 'x86_64-linux', mac: '' })
  assert.deepEqual(answer.notes, [
    'would match with a cross build: this derivation has no when.host = "x86_64-linux"',
  ])
  assert.deepEqual(
    answer.advice?.map(({ text }) => text),
    [
      'lower needs.memory to 1 GiB or less',
      'add a cross toolchain for x86_64 hosts',
      'add a machine:',
    ],
  )
})

test('why: one node is asked about by name or by the beginning of its peer id', () => {
  const world = new World()
  for (const name of ['n1', 'n2']) world.node(name)
  submit(world, 'a', { cpus: 64 })
  assert.deepEqual(
    [
      why(world, 'a', 'a', 'n2'),
      why(world, 'a', 'a', peerOf('n2').slice(0, 20)),
      why(world, 'a', 'a', 'n3'),
    ].map(({ nodes }) => nodes.map(({ node }) => node)),
    [['n2'], ['n2'], []],
  )
})

test('why: a list of ten thousand waiting jobs judges each class once, and counts on after a change', () => {
  const world = new World()
  for (let at = 0; at < 200; at++)
    world.node(`n${at}`, { environments: [environment({ system: 'aarch64-linux' })] })
  world.submit(
    'many',
    Array.from({ length: 3_000 }, (_, at) =>
      derivation(`d${at}`, { system: at % 2 === 0 ? 'x86_64-linux' : 'riscv64-linux' }),
    ),
  )
  const { explainer } = world.scheduler
  const before = explainer.judgedCount
  const classes = new Set<string | undefined>()
  for (const step of world.request('many').steps.values())
    classes.add(reasonOf(world.scheduler, step, world.nowMs)?.class)
  assert.deepEqual([...classes], ['unsatisfiable'])
  assert.ok(explainer.judgedCount - before <= 2, `${explainer.judgedCount - before}`)
  world.node('riscv', { cpus: 1, environments: [environment({ system: 'riscv64-linux' })] }).take()
  assert.equal(
    reasonOf(world.scheduler, world.step('many', 'd0'), world.nowMs)?.class,
    'unsatisfiable',
  )
  assert.equal(reasonOf(world.scheduler, world.step('many', 'd2999'), world.nowMs)?.class, 'busy')
})

test('why: what a subtree answers is put in, and what does not answer is named, not guessed', () => {
  const owner = new World()
  owner.node('n1')
  submit(owner, 'a', { memoryBytes: 64 * GIB })
  const step = owner.step('a', 'a')
  const own = why(owner, 'a')
  const middle = new World()
  middle.node('big', { memoryBytes: 128 * GIB })
  middle.node('small', { memoryBytes: 2 * GIB })
  const part = middle.scheduler.explainer.partOf(requirementOf([step]), 'lab', middle.moment)
  assert.equal(part.count, 2)
  const { explainer } = owner.scheduler
  const merged = explainer.merge(own, step, { parts: [part], unknown: [] })
  assert.deepEqual([merged.class, merged.nodeCount], ['busy', 3])
  assert.deepEqual(
    merged.nodes.map(({ node, by }) => [node, by]),
    [
      ['big', 'lab'],
      ['n1', undefined],
      ['small', 'lab'],
    ],
  )
  assert.match(merged.summary, /the nodes that match are below lab$/)
  const silent = explainer.merge(own, step, { parts: [], unknown: ['lab'] })
  assert.deepEqual([silent.class, silent.unknown], ['subtree', ['lab']])
  assert.match(silent.summary, /what those below lab have is not known$/)
  const small = new World()
  small.node('tiny', { memoryBytes: 32 * GIB })
  const other = small.scheduler.explainer.partOf(requirementOf([step]), 'lab', small.moment)
  const still = explainer.merge(own, step, { parts: [other], unknown: [] })
  assert.equal(still.class, 'unsatisfiable')
  assert.equal(still.fixes[0], 'lower needs.memory to 32 GiB or less')
  assert.match(still.closest ?? '', /^n1 fails|^tiny fails/)
  assert.deepEqual(still.parts, [{ by: 'lab', asOf: part.asOf, count: 1 }])
})

test('why: a job for which a node is kept says so, and so do those that stand back for it', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 4 })
  teach(
    world,
    Array.from({ length: 200 }, (_, at) => derivation(`small${at}`)),
    20_000,
  )
  world.submit(
    'small',
    Array.from({ length: 200 }, (_, at) => derivation(`small${at}`)),
  )
  submit(world, 'big', { cpus: 4 })
  for (let seconds = 0; why(world, 'big').class === 'busy'; seconds++) {
    assert.ok(seconds < 120, 'it is passed over for ever')
    world.pass(1_000)
    node.take()
    const [first] = node.attempts
    if (first !== undefined && seconds % 5 === 0) node.build(first)
  }
  const answer = why(world, 'big')
  assert.equal(answer.class, 'reserved')
  assert.match(
    answer.summary,
    /^big waits: n1 is kept free for it, and expected to have room in about /,
  )
  const behind = [...world.request('small').steps.values()].find(
    (step) => step.job?.phase === 'waiting',
  )
  assert.ok(behind !== undefined)
  const reason = reasonOf(world.scheduler, behind, world.nowMs)
  assert.match(reason?.class ?? '', /^(?:reserved|busy|share)$/)
})

test('why: a node that sleeps is waited for, which is no failure', () => {
  const world = new World()
  const node = world.node('gpu-1')
  node.entry.state = 'sleeping'
  submit(world, 'a')
  assert.equal(reasonOf(world.scheduler, world.step('a', 'a'), world.nowMs)?.class, 'power')
  assert.equal(why(world, 'a').nodes[0]?.verdicts.at(-1)?.brief, 'off')
  assert.deepEqual(why(world, 'a').fixes, ['start gpu-1'])
})
