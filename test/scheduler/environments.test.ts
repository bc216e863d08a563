/** Several environments on one node: which of them a job runs in, and how it is made for that. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { requirementOf } from '../../src/scheduler/match.ts'
import {
  classOf,
  requirementFromWire,
  requirementToWire,
} from '../../src/scheduler/requirement-wire.ts'
import type { Environment } from '../../src/wire/environment.ts'
import { RequirementWire } from '../../src/wire/work-messages.ts'
import { derivation, environment, LINUX } from './samples.ts'
import { teach } from './teach.ts'
import { TreeWorld } from './tree-world.ts'
import { liveOf, World, type WorldNode } from './world.ts'

const ARM = 'aarch64-linux'
const I686 = 'i686-linux'

const host = environment()
const images = environment({ isolation: 'image' })
const emulated = environment({ system: ARM, isolation: 'image', machine: LINUX })
const arm = environment({ system: ARM })
const armImages = environment({ system: ARM, isolation: 'image' })

/** What runs there, by name, with where. */
function places(node: WorldNode): Record<string, string> {
  return Object.fromEntries(
    [...node.running.values()].map(({ name, attempt: { system, isolation, machine } }) => [
      name,
      `${system} ${isolation}${machine === undefined ? '' : ` on ${machine}`}`,
    ]),
  )
}

function reason(world: World, name: string): string {
  const step = world.step('r', name)
  return world.scheduler.explainer.reasonOf(step, world.nowMs)?.text ?? ''
}

test('environments: of those of one node a job takes the one that serves it, with its image or without', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 8, environments: [images, host, emulated] })
  world.submit('r', [
    derivation('plain'),
    derivation('boxed', { image: ['debian'] }),
    derivation('foreign', { system: ARM, image: ['arm debian'] }),
  ])
  node.take()
  assert.deepEqual(places(node), {
    plain: 'x86_64-linux namespace',
    boxed: 'x86_64-linux image',
    foreign: 'aarch64-linux image on x86_64-linux',
  })
  assert.deepEqual(node.grantOf('boxed').action.image?.length, 1)
  assert.equal(node.grantOf('boxed').attempt.userland, null)
  assert.equal(node.grantOf('plain').action.image, undefined)
  assert.notEqual(node.grantOf('plain').attempt.userland, null)
})

test('environments: a job with an image waits for a node that takes images, and says so; one without never goes there', () => {
  const world = new World()
  const plain = world.node('n1', { environments: [host] })
  const boxes = world.node('n2', {
    environments: [environment({ system: ARM, isolation: 'image' })],
  })
  world.submit('r', [
    derivation('boxed', { image: ['debian'], tools: ['gfortran'] }),
    derivation('arm', { system: ARM }),
  ])
  plain.take()
  boxes.take()
  assert.deepEqual([plain.names, boxes.names], [[], []])
  assert.match(reason(world, 'boxed'), /n1: isolation image asked, namespace/)
  const [, row] = world.scheduler.explainer.why(
    world.step('r', 'arm'),
    'waiting',
    world.moment,
    undefined,
  ).nodes
  const walls = row?.verdicts.find(({ requirement }) => requirement === 'isolation')
  assert.deepEqual([row?.node, walls?.want, walls?.have], ['n2', 'namespace', 'image'])
  const late = world.node('n3', { environments: [images] })
  assert.deepEqual(late.names, ['boxed'])
})

test('environments: what is built in an image binds its request to no userland, and asks the host for no program', () => {
  const world = new World()
  const node = world.node('n1', { environments: [images, host] })
  const request = world.submit('r', [derivation('boxed', { image: ['a'], tools: ['gfortran'] })])
  const asked = node.receive()
  assert.deepEqual(asked?.tools, [])
  node.take()
  assert.equal(request.bindings.size, 0)
})

test('environments: native before emulated, and a feature or "native" may say otherwise', () => {
  const world = new World()
  const fast = environment({ system: I686, isolation: 'image', features: ['sse2'] })
  const slow = environment({ system: I686, isolation: 'image', machine: ARM, features: ['gpu'] })
  const node = world.node('n1', { cpus: 8, environments: [slow, fast] })
  const boxed = (name: string, features: string[]) =>
    derivation(name, { system: I686, image: ['i'], features })
  world.submit('r', [
    boxed('any', []),
    boxed('native', ['native']),
    boxed('gpu', ['gpu']),
    boxed('both', ['gpu', 'native']),
  ])
  node.take()
  assert.deepEqual(places(node), {
    any: 'i686-linux image',
    native: 'i686-linux image',
    gpu: 'i686-linux image on aarch64-linux',
  })
  assert.match(reason(world, 'both'), /feature gpu yes asked, no|feature native yes asked, no/)
})

test('environments: the strongest that serves an unsealed job, and none without walls for a sealed one', () => {
  const world = new World()
  const bare = environment({ isolation: 'host' })
  const node = world.node('n1', { cpus: 8, environments: [bare, host] })
  const poor = world.node('n2', { cpus: 8, environments: [bare] })
  world.submit('r', [derivation('open', { sealed: false }), derivation('closed')])
  node.take()
  poor.take()
  assert.equal(poor.names.includes('closed'), false)
  assert.deepEqual(
    { ...places(poor), ...places(node) },
    {
      open: poor.names.includes('open') ? 'x86_64-linux host' : 'x86_64-linux namespace',
      closed: 'x86_64-linux namespace',
    },
  )
})

test('environments: two systems of hosts take two variants of one derivation, and both attempts are recorded', () => {
  const world = new World()
  const variants = [
    { host: LINUX, args: ['--cross'] },
    { host: ARM, args: ['--native'], image: ['arm'] },
  ]
  const first = world.node('n1', { environments: [host] })
  world.submit('r', [derivation('d', { system: ARM, hosts: [LINUX, ARM], variants })])
  first.take()
  assert.deepEqual(first.grantOf('d').action.argv.slice(-1), ['--cross'])
  assert.equal(first.grantOf('d').action.image, undefined)
  const second = world.node('n2', { environments: [armImages] })
  first.down()
  world.pass(30_000)
  second.take()
  const { action } = second.grantOf('d')
  assert.deepEqual(action.argv.slice(-1), ['--native'])
  assert.equal(action.image?.length, 1)
  const attempts = world.step('r', 'd').job?.attempts ?? []
  assert.deepEqual(
    attempts.map(({ system, isolation }) => [system, isolation]),
    [
      [LINUX, 'namespace'],
      [ARM, 'image'],
    ],
  )
  assert.notEqual(attempts[0]?.action, attempts[1]?.action)
})

test('environments: a variant for the machine that emulates, as for a native tool inside of a foreign userland', () => {
  const world = new World()
  const variants = [{ host: ARM, machine: LINUX, args: ['--with-native-tools'] }]
  const boxed = (name: string) => derivation(name, { system: ARM, image: ['arm'], variants })
  const emulating = world.node('n1', { environments: [host, emulated] })
  world.submit('r', [boxed('one')])
  emulating.take()
  assert.deepEqual(emulating.grantOf('one').action.argv.slice(-1), ['--with-native-tools'])
  const native = world.node('n2', { environments: [armImages] })
  world.submit('s', [derivation('two', { system: ARM, image: ['arm'], variants })])
  native.take()
  assert.deepEqual(native.grantOf('two').action.argv.slice(-1), ['two'])
})

test('environments: an image for one machine and the host’s tools for the next', () => {
  const world = new World()
  const variants = [{ host: ARM, machine: ARM, image: [] }]
  const d = derivation('d', { system: ARM, image: ['arm'], variants })
  const native = world.node('n1', { environments: [arm] })
  world.submit('r', [d])
  native.take()
  assert.equal(native.grantOf('d').action.image, undefined)
  const emulating = world.node('n2', { environments: [emulated] })
  native.down()
  world.pass(30_000)
  emulating.take()
  assert.equal(emulating.grantOf('d').action.image?.length, 1)
})

const boxedArm = (name: string) => derivation(name, { system: ARM, image: ['arm'] })

test('environments: a native node is preferred to one that emulates, and waited for while that is sooner', () => {
  const world = new World()
  teach(world, [boxedArm('short')], 10_000)
  teach(world, [boxedArm('next')], 10_000)
  const native = world.node('n1', { cpus: 1, environments: [armImages] })
  const emulating = world.node('n2', { cpus: 8, environments: [emulated] })
  world.submit('r', [boxedArm('short')])
  native.take()
  assert.deepEqual([native.names, emulating.names], [['short'], []])
  world.submit('s', [boxedArm('next')])
  world.pass(1_000)
  assert.deepEqual(
    emulating.names,
    [],
    'ten seconds are waited for where it would take two hundred',
  )
  native.build()
  world.pass(1_000)
  assert.deepEqual(native.names, ['next'])
})

test('environments: emulation is used when it ends sooner all the same, or is all there is', () => {
  const world = new World()
  teach(world, [boxedArm('long')], 3_600_000)
  teach(world, [boxedArm('next')], 10_000)
  const native = world.node('n1', { cpus: 1, environments: [armImages] })
  const emulating = world.node('n2', { cpus: 8, environments: [emulated] })
  world.submit('r', [boxedArm('long')])
  native.take()
  world.submit('s', [boxedArm('next')])
  world.pass(1_000)
  assert.deepEqual([native.names, emulating.names], [['long'], ['next']])
})

test('environments: durations where it is emulated are learnt apart, and say nothing of the machine', () => {
  const world = new World()
  const { estimates } = world.scheduler.state
  const d = boxedArm('d')
  const node = world.node('n1', { environments: [emulated] })
  teach(world, [d], 10_000)
  assert.equal(estimates.of(d, true).durationMs, 200_000, 'guessed')
  world.submit('r', [d])
  node.take()
  const usage = { wallMs: 90_000, cpuMs: 90_000, maxRssBytes: 1 }
  node.build(undefined, undefined, { usage })
  assert.equal(estimates.of(d, true).durationMs, 90_000)
  assert.equal(estimates.of(d).durationMs, 10_000)
  assert.equal(node.entry.speed, 1)
  const alone = boxedArm('alone')
  world.submit('s', [alone])
  node.take()
  node.build(undefined, undefined, { usage })
  assert.equal(estimates.of(alone).durationMs, 90_000 * 0.05, 'guessed from what was seen')
  // The next owner knows both.
  world.restart()
  assert.equal(world.scheduler.state.estimates.of(d, true).durationMs, 90_000)
})

test('environments: classes of jobs without images are named as before, those with images travel whole', () => {
  const world = new World()
  const request = world.submit('r', [
    derivation('plain', { features: ['kvm'] }),
    derivation('boxed', { image: ['a'], variants: [{ host: ARM, machine: LINUX, image: [] }] }),
  ])
  const of = (name: string) => {
    const step = request.steps.get(name)
    assert(step !== undefined)
    return requirementOf([step])
  }
  const { key } = of('plain')
  assert.equal(
    key,
    '[{"hosts":["x86_64-linux"],"isFetch":false,"sealed":true,"features":["kvm"],"tools":[],"cpusMin":1,"cpusMax":1,"memoryBytes":0,"diskBytes":0},[]]',
  )
  for (const name of ['plain', 'boxed']) {
    const wire = RequirementWire.parse(requirementToWire(of(name)))
    assert.equal(classOf(requirementFromWire(wire)), classOf(of(name)), name)
  }
  assert.deepEqual(of('boxed').places, [
    { system: ARM, image: true },
    { system: ARM, machine: LINUX, image: false },
    { system: LINUX, image: true },
  ])
})

function tree(...environments: readonly Environment[]) {
  const world = new TreeWorld()
  const root = world.node('root')
  const middle = world.node('middle', { parent: root })
  const leaves = environments.map((one, at) =>
    world.node(`leaf${at}`, { parent: middle, cpus: 2, environment: one }),
  )
  world.pass(25_000)
  return { world, root, leaves }
}

test('environments: a subtree offers images and emulation for what they are, and leases go where they were meant for', () => {
  const { world, root, leaves } = tree(host, images, emulated)
  root.submit('r', [
    derivation('plain'),
    derivation('boxed', { image: ['a'] }),
    boxedArm('foreign'),
    derivation('native', { system: ARM, image: ['arm'], features: ['native'] }),
  ])
  world.pass(5_000)
  assert.deepEqual(
    leaves.map(({ names }) => names),
    [['plain'], ['boxed'], ['foreign']],
  )
  const [attempt] = liveOf(root.step('r', 'foreign'))
  assert.deepEqual([attempt?.isolation, attempt?.machine], ['image', LINUX])
  for (const leaf of leaves) leaf.finish()
  world.pass(5_000)
  assert.deepEqual(
    ['plain', 'boxed', 'foreign', 'native'].map((name) => root.step('r', name).phase),
    ['done', 'done', 'done', 'open'],
  )
})

test('environments: builds that are compared are all made for one machine, where that makes another action', () => {
  const world = new World()
  const variants = [{ host: ARM, machine: LINUX, args: ['--with-native-tools'] }]
  const options = { system: ARM, image: ['arm'], variants, run: { verify: 2 } }
  const first = world.node('n1', { cpus: 1, environments: [emulated] })
  world.submit('r', [derivation('d', options)])
  first.take()
  const native = world.node('n2', { environments: [armImages] })
  world.pass(3_000)
  assert.deepEqual(native.names, [])
  const other = world.node('n3', { environments: [emulated] })
  world.pass(3_000)
  assert.deepEqual(other.names, ['d'])
  first.build(undefined, 'same')
  other.build(undefined, 'same')
  world.pass(1_000)
  assert.equal(world.step('r', 'd').phase, 'done')
})
