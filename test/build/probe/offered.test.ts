/** What is offered of what was found: the configuration may restrict, and cannot claim (R10, T34, T37). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { imageEnvironments } from '../../../src/build/image-root.ts'
import { NO_CUSTOM_FACTS, parseFacts } from '../../../src/build/probe/custom-facts.ts'
import type { OfferFacts } from '../../../src/build/probe/machine-facts.ts'
import { offeredOf, type Declared, type Offered } from '../../../src/build/probe/offered.ts'
import { EMPTY_DIGEST } from '../../../src/wire/digest.ts'
import { EnvironmentJson, type Environment, type Isolation } from '../../../src/wire/environment.ts'
import { FACTS } from './sample-facts.ts'

const own = (system: string, isolation: Isolation): Environment => ({
  system,
  isolation,
  label: 'debian-12',
  base: EMPTY_DIGEST,
  tools: {},
  features: [],
})

function offer(
  declared: Partial<Declared> = {},
  { facts = FACTS, custom = NO_CUSTOM_FACTS, isSecure = true } = {},
): Offered {
  const { system } = facts.userland
  return offeredOf({
    facts,
    declared: { features: [], ...declared },
    custom,
    environments: [
      own(system, 'host'),
      own(system, 'namespace'),
      ...imageEnvironments(facts.systems),
    ],
    isSecure,
  })
}

const features = ({ environments }: Offered): Record<string, string> =>
  Object.fromEntries(
    environments.map((environment) => [
      `${environment.system} ${environment.isolation}`,
      environment.features.join(' '),
    ]),
  )

test('offered: what was found, where nothing is declared', () => {
  const found = offer()
  assert.deepEqual(found.cpus, FACTS.cpus)
  assert.deepEqual(found.memoryBytes, FACTS.memoryBytes)
  assert.equal(found.diskBytes, 300)
  assert.deepEqual(found.notices, [])
  assert.deepEqual(features(found), {
    'x86_64-linux host': 'kvm native',
    'x86_64-linux namespace': 'native secure',
    'x86_64-linux image': 'native secure',
    'i686-linux image': 'native secure',
    'aarch64-linux image': 'secure',
  })
  for (const environment of found.environments)
    assert.deepEqual(EnvironmentJson.parse(environment), environment)
})

test('offered: less may be declared, and more is capped and told (T34)', () => {
  const less = offer({ cpus: 2, memoryBytes: 2 ** 30 })
  assert.deepEqual(less.cpus, {
    value: 2,
    source: 'declared',
    how: 'worker.cpus, of 8: /sys/fs/cgroup/cpu.max',
  })
  assert.equal(less.memoryBytes.value, 2 ** 30)
  assert.deepEqual(less.notices, [])
  const more = offer({ cpus: 64, memoryBytes: 2 ** 40 })
  assert.equal(more.cpus.value, 8)
  assert.equal(more.memoryBytes.value, 2 ** 34)
  assert.deepEqual(more.notices, [
    'worker.cpus is 64, but there are only 8 (/sys/fs/cgroup/cpu.max): no more is offered',
    'worker.memory is 1 TiB, but there are only 16 GiB (memory of the machine): no more is offered',
  ])
})

test('offered: systems may be left out, and none can be added', () => {
  const found = offer({ systems: ['x86_64-linux', 's390x-linux', 'vax-linux'] })
  assert.deepEqual(Object.keys(features(found)), [
    'x86_64-linux host',
    'x86_64-linux namespace',
    'x86_64-linux image',
  ])
  assert.deepEqual(
    found.systems.map(({ system }) => system),
    ['x86_64-linux'],
  )
  assert.deepEqual(found.notices, [
    'worker.systems has s390x-linux, whose programs do not run here: qemu-user-static is not installed',
    'worker.systems has vax-linux, whose programs do not run here: no probe knows them',
  ])
})

test('offered: names of its own everywhere; names of the probes only where they hold', () => {
  const withKvm = offer({ features: ['big', '-native', 'kvm'] })
  assert.deepEqual(features(withKvm), {
    'x86_64-linux host': 'big kvm',
    'x86_64-linux namespace': 'big secure',
    'x86_64-linux image': 'big secure',
    'i686-linux image': 'big secure',
    'aarch64-linux image': 'big secure',
  })
  assert.deepEqual(withKvm.notices, [])
  const why = '/dev/kvm: KVM_CREATE_VM: No such device'
  const kvm = { host: { ok: false, why }, sandbox: { ok: false, why } }
  const without = offer(
    { features: ['kvm', 'secure'] },
    { facts: { ...FACTS, kvm }, isSecure: false },
  )
  assert.equal(features(without)['x86_64-linux host'], 'native')
  assert.equal(features(without)['x86_64-linux namespace'], 'native')
  assert.deepEqual(without.notices, [
    `worker.features has kvm, which does not work here: ${why}`,
    'worker.features has secure, which does not work here: the sandbox here lacks some of the walls',
  ])
})

test('offered: a 32-bit userland under a 64-bit kernel has jobs for 32 bits alone, images aside (T37)', () => {
  const facts = { ...FACTS, userland: { ...FACTS.userland, system: 'i686-linux' } }
  assert.deepEqual(features(offer({ systems: ['i686-linux'] }, { facts })), {
    'i686-linux host': 'kvm native',
    'i686-linux namespace': 'native secure',
    'i686-linux image': 'native secure',
  })
  assert.equal(offer({}, { facts }).environments[0]?.system, 'i686-linux')
})

test('offered: a userland that is itself emulated is not native', () => {
  const facts: OfferFacts = {
    ...FACTS,
    userland: { ...FACTS.userland, system: 'aarch64-linux' },
  }
  assert.equal(features(offer({}, { facts }))['aarch64-linux host'], '')
})

test('offered: facts of programs are features, and their mistakes are told', () => {
  const custom = parseFacts('/etc/mesh/gpu', 'gpu=RTX4090\nfeature vcs\nnonsense\n')
  const found = offer({ features: ['-vcs'] }, { custom })
  assert.equal(features(found)['aarch64-linux image'], 'gpu-rtx4090 secure')
  assert.deepEqual(found.notices, [
    'facts /etc/mesh/gpu: line 3: "nonsense" is neither NAME=VALUE nor "feature NAME"',
  ])
})
