/** What is proposed for machines of many kinds, and that the configuration takes all of it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { parseSize } from '../../../src/base/units.ts'
import { POLICIES } from '../../../src/node/policy/policy.ts'
import { settingsToml } from '../../../src/node/setup/init/settings-toml.ts'
import { resolveText } from '../../../src/node/setup/init/draft.ts'
import { JOB_KIND_NAMES, JOB_KINDS } from '../../../src/node/setup/job-kinds.ts'
import type { Answers, Machine, Measured } from '../../../src/node/setup/machine.ts'
import { isForJobs } from '../../../src/node/setup/proposals/proposal.ts'
import { propose } from '../../../src/node/setup/proposals/propose.ts'
import { GIB, machine, measured } from './machines.ts'

const ID = '12D3KooWGatU38nUxa2UFZ9hKsn9ZEjVQZbXrBVcqZMfXhvBVrBe'
const ALONE: Answers = { place: { kind: 'alone' }, jobs: 'mixed' }
const PARENT = `/ip4/10.0.0.7/tcp/7421/p2p/${ID}`
const JOIN: Answers = { ...ALONE, place: { kind: 'join', parents: [PARENT] } }
const LAPTOP: Partial<Machine> = {
  ownerSigns: ['a desktop starts at boot (gdm.service)', 'it has a battery (BAT0)'],
  hasBattery: true,
  memoryBytes: 16 * GIB,
  disk: { directory: '/ann/m', totalBytes: 480 * GIB, freeBytes: 200 * GIB, isOwn: false },
}

interface Row {
  readonly name: string
  readonly machine: Machine
  readonly measured?: Measured
  readonly answers?: Answers
  /** Values by setting; undefined: not proposed at all. */
  readonly values: Readonly<Record<string, unknown>>
  readonly reasons?: Readonly<Record<string, RegExp>>
}

const ROWS: readonly Row[] = [
  {
    name: 'a virtual machine with 1 processor and 1 GiB',
    machine: machine({
      cpus: 1,
      memoryBytes: GIB,
      disk: { directory: '/d', totalBytes: 20 * GIB, freeBytes: 12 * GIB, isOwn: false },
    }),
    measured: measured(1),
    values: {
      'node.roles': ['root', 'worker', 'store'],
      'worker.cpus': 1,
      'worker.memory': '768 MiB',
      'worker.policy': 'dedicated',
      'store.quota': '5.6 GiB',
      'store.free': 'auto',
      'needs.cpus': 1,
      'needs.memory': '768 MiB',
      'worker.owner.cpus': undefined,
    },
    reasons: { 'worker.cpus': /^all that there is$/, 'store.free': /^5 GiB of this disk/ },
  },
  {
    name: '64 processors and 32 GiB, for large C++',
    machine: machine({ cpus: 64 }),
    measured: measured(64),
    answers: { ...ALONE, jobs: 'large-c' },
    values: {
      'worker.cpus': 15,
      'worker.memory': '30 GiB',
      'store.quota': 'none',
      'needs.cpus': 8,
      'needs.memory': '16 GiB',
    },
    reasons: { 'worker.cpus': /of 64 processors: with 2 GiB each, 30\.1 GiB feed no more/ },
  },
  {
    name: 'the same for C',
    machine: machine({ cpus: 64 }),
    measured: measured(64),
    answers: { ...ALONE, jobs: 'c' },
    values: { 'worker.cpus': 60, 'needs.cpus': 2, 'needs.memory': '1 GiB' },
    reasons: { 'needs.cpus': /30 such jobs at once/ },
  },
  {
    name: 'a laptop that joins',
    machine: machine(LAPTOP),
    measured: measured(8),
    answers: JOIN,
    values: {
      'node.roles': ['worker'],
      'node.parents': [PARENT],
      'node.listen': ['none'],
      'node.allow': [ID],
      'worker.policy': 'when-idle',
      'worker.owner.cpus': 2,
      'worker.memory': '12 GiB',
      'store.quota': '60 GiB',
      'store.free': '48 GiB',
      'http.listen': '0.0.0.0:7420',
    },
    reasons: { 'worker.policy': /desktop/, 'node.roles': /battery/ },
  },
  {
    name: 'a container with 2 of 64 processors',
    machine: machine({
      cpus: 2,
      cpuLimit: 'of 64, as /sys/fs/cgroup/cpu.max says',
      memoryBytes: 4 * GIB,
      memoryLimit: 'as /sys/fs/cgroup/memory.max says',
    }),
    measured: measured(2),
    values: { 'worker.cpus': 2, 'worker.memory': '3.7 GiB', 'worker.policy': 'dedicated' },
    reasons: {
      'worker.cpus': /of 64, as \/sys\/fs\/cgroup\/cpu\.max says/,
      'worker.memory': /memory\.max/,
      'worker.policy': /limited already/,
    },
  },
  {
    name: 'processors that are not really there',
    machine: machine({ cpus: 16, memoryBytes: 64 * GIB }),
    measured: measured(16, {
      scaling: [
        { threads: 1, times: 1 },
        { threads: 16, times: 4.2 },
      ],
    }),
    values: { 'worker.cpus': 5 },
    reasons: { 'worker.cpus': /the work of only 4\.2/ },
  },
  {
    name: 'processors that others have at the moment',
    machine: machine({ cpus: 16, memoryBytes: 64 * GIB }),
    measured: measured(16, {
      scaling: [
        { threads: 1, times: 1 },
        { threads: 16, times: 4.2 },
      ],
      busyCpus: 11,
    }),
    values: { 'worker.cpus': 16, 'worker.policy': 'proportional' },
    reasons: { 'worker.cpus': /^all that there are$/ },
  },
  {
    name: 'a tiny disk that joins',
    machine: machine({
      disk: { directory: '/d', totalBytes: 8 * GIB, freeBytes: 3 * GIB, isOwn: false },
    }),
    answers: JOIN,
    values: { 'node.roles': ['worker'], 'store.quota': '1216 MiB', 'store.free': '1.5 GiB' },
    reasons: { 'store.free': /with the usual 2 GiB/, 'node.roles': /too little room/ },
  },
  {
    name: 'no namespaces',
    machine: machine({ walls: { method: 'none', reasons: ['helper: EPERM', 'unshare: EPERM'] } }),
    values: { 'worker.isolation': 'auto' },
    reasons: { 'worker.isolation': /only unsealed builds.*unshare: EPERM/ },
  },
  {
    name: 'a server that does other things',
    machine: machine(),
    measured: measured(8, { busyCpus: 3 }),
    values: { 'worker.policy': 'proportional' },
    reasons: { 'worker.policy': /others used 3 of 8 processors/ },
  },
  {
    name: 'no worker',
    machine: machine(),
    answers: { ...ALONE, roles: ['root', 'store'] },
    values: {
      'node.roles': undefined,
      'worker.cpus': undefined,
      'worker.policy': undefined,
      'needs.memory': undefined,
      'store.quota': 'none',
    },
  },
  {
    name: 'the first of a mesh',
    machine: machine(),
    answers: { ...ALONE, place: { kind: 'new' } },
    values: { 'node.listen': ['/ip4/0.0.0.0/tcp/7421'], 'node.allow': [] },
  },
  {
    name: 'a second node on one machine',
    machine: machine(),
    answers: { ...ALONE, place: { kind: 'join', parents: [`/ip4/127.0.0.1/tcp/7421/p2p/${ID}`] } },
    values: { 'node.listen': ['none'], 'node.allow': undefined, 'http.listen': undefined },
  },
]

for (const row of ROWS)
  test(`propose: ${row.name}`, () => {
    const proposals = propose(row.machine, row.measured, row.answers ?? ALONE)
    const bySetting = new Map(proposals.map((proposal) => [proposal.setting, proposal]))
    const values = Object.fromEntries(
      Object.keys(row.values).map((setting) => [setting, bySetting.get(setting)?.value]),
    )
    assert.deepEqual(values, row.values)
    for (const [setting, reason] of Object.entries(row.reasons ?? {}))
      assert.match(bySetting.get(setting)?.reason ?? '', reason, setting)
  })

const size = fc.integer({ min: 0, max: 2 ** 44 })
const anyMachine: fc.Arbitrary<Machine> = fc.record({
  cpus: fc.integer({ min: 1, max: 1024 }),
  memoryBytes: fc.integer({ min: 64 * 1024 ** 2, max: 2 ** 43 }),
  disk: fc
    .record({
      directory: fc.constant('/d'),
      totalBytes: size,
      freeBytes: size,
      isOwn: fc.boolean(),
    })
    .map((disk) => ({ ...disk, freeBytes: Math.min(disk.freeBytes, disk.totalBytes) })),
  walls: fc.constantFrom({ method: 'helper', reasons: [] }, { method: 'none', reasons: ['no'] }),
  ownerSigns: fc.constantFrom([], ['it has a battery (BAT0)']),
  hasBattery: fc.boolean(),
  systems: fc.constant(['x86_64-linux']),
})
const anyAnswers: fc.Arbitrary<Answers> = fc.record(
  {
    place: fc.constantFrom<Answers['place']>(
      { kind: 'alone' },
      { kind: 'new' },
      { kind: 'join', parents: [PARENT] },
      { kind: 'join', parents: ['/dns4/root.example/tcp/7421'] },
    ),
    jobs: fc.constantFrom(...JOB_KIND_NAMES),
    policy: fc.constantFrom(...POLICIES),
    cpus: fc.integer({ min: 1, max: 64 }),
  },
  { requiredKeys: ['place', 'jobs'] },
)
const io = {
  cwd: '/',
  hostname: 'a',
  home: '/ann',
  isRoot: false,
  isTty: false,
  readFile: () => undefined,
}

test('propose: the configuration takes all of it, and it never exceeds the machine', () => {
  fc.assert(
    fc.property(
      anyMachine,
      fc.double({ min: 0.1, max: 1024, noNaN: true }),
      anyAnswers,
      (m, real, answers) => {
        const scaling = [
          { threads: 1, times: 1 },
          { threads: m.cpus, times: Math.min(m.cpus, real) },
        ]
        const proposals = propose(m, measured(m.cpus, { scaling, busyCpus: real % 3 }), answers)
        const settings = proposals.map(({ setting }) => setting)
        assert.equal(new Set(settings).size, settings.length, 'each setting once')
        const said = Object.keys(answers).map((key) => `worker.${key}`)
        assert(!settings.some((setting) => said.includes(setting)), 'what was said is not proposed')
        assert(
          proposals.every(
            ({ reason }) =>
              reason !== '' && !reason.includes('undefined') && !reason.includes('NaN'),
          ),
        )

        const toml = settingsToml(
          proposals.filter((proposal) => !isForJobs(proposal)),
          'test',
        )
        const { config, problems } = resolveText(toml, '/mesh.toml', io)
        assert.deepEqual(problems, [], toml)
        assert(config !== undefined)
        if (answers.cpus === undefined)
          assert((config.cpus ?? 1) <= m.cpus && (config.cpus ?? 1) >= 1)
        assert((config.memoryBytes ?? 0) <= m.memoryBytes)
        assert((config.quotaBytes ?? 0) <= Math.max(m.disk.freeBytes, 1024 ** 2))
        assert((config.floorBytes ?? 0) <= Math.max(m.disk.freeBytes, 1024 ** 2))
        assert(config.policy.owner.cpus <= Math.max(1, m.cpus))
      },
    ),
    { numRuns: 500 },
  )
})

test('propose: more memory never means fewer processors, nor does a lighter kind of jobs', () => {
  fc.assert(
    fc.property(anyMachine, fc.constantFrom(...JOB_KIND_NAMES), (m, jobs) => {
      const cpusOf = (memoryBytes: number, kind: Answers['jobs']): number =>
        Number(
          propose({ ...m, memoryBytes }, undefined, { ...ALONE, jobs: kind }).find(
            ({ setting }) => setting === 'worker.cpus',
          )?.value,
        )
      assert(cpusOf(m.memoryBytes * 2, jobs) >= cpusOf(m.memoryBytes, jobs))
      for (const kind of JOB_KIND_NAMES)
        if (JOB_KINDS[kind].memoryPerCpuBytes <= JOB_KINDS[jobs].memoryPerCpuBytes)
          assert(cpusOf(m.memoryBytes, kind) >= cpusOf(m.memoryBytes, jobs))
    }),
  )
})

test('propose: a job that derivations are told to ask for fits into the machine', () => {
  fc.assert(
    fc.property(anyMachine, fc.constantFrom(...JOB_KIND_NAMES), (m, jobs) => {
      const valueOf = new Map(
        propose(m, undefined, { ...ALONE, jobs }).map(({ setting, value }) => [setting, value]),
      )
      assert(Number(valueOf.get('needs.cpus')) <= Number(valueOf.get('worker.cpus')))
      assert(
        (parseSize(String(valueOf.get('needs.memory'))) ?? Infinity) <=
          (parseSize(String(valueOf.get('worker.memory'))) ?? 0),
      )
    }),
  )
})
