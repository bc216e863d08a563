/** The parts of `mesh why` that need no scheduler: kinds of nodes, expected starts, answers of subtrees. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { Verdict, WhyNode } from '../../src/wire/api.ts'
import { expectedStart, type EtaNode } from '../../src/scheduler/explain/eta.ts'
import { groupsOf, mergeGroups } from '../../src/scheduler/explain/groups.ts'
import { about, progressText } from '../../src/scheduler/explain/words.ts'
import { GIB } from './samples.ts'

const NEED = { cpus: 1, memoryBytes: 0, diskBytes: 0 }

function etaNode(ends: readonly (number | undefined)[], cpus = ends.length, speed = 1): EtaNode {
  const room = { memoryBytes: 16 * GIB, diskBytes: 100 * GIB }
  return {
    speed,
    capacity: { cpus, ...room },
    free: { cpus: cpus - ends.length, ...room },
    running: ends.map((endsInMs) => ({ cpus: 1, memoryBytes: 0, diskBytes: 0, endsInMs })),
  }
}
const jobs = (count: number, durationMs: number | undefined, share = 1) =>
  Array.from({ length: count }, () => ({ durationMs, share }))

test('eta: the first one starts when the first attempt ends', () => {
  const nodes = [etaNode([5_000, 3_000]), etaNode([4_000])]
  assert.equal(expectedStart({ need: NEED, nodes, ahead: [] }), 3_000)
})

test('eta: those ahead take the places as they come, each for as long as it takes at the speed of its node', () => {
  const nodes = [etaNode([3_000], 1, 2), etaNode([4_000], 1, 1)]
  assert.equal(expectedStart({ need: NEED, nodes, ahead: jobs(1, 10_000) }), 4_000)
  assert.equal(expectedStart({ need: NEED, nodes, ahead: jobs(2, 10_000) }), 8_000)
  assert.equal(expectedStart({ need: NEED, nodes, ahead: jobs(2, 10_000, 0.5) }), 5_500)
})

test('eta: a job that needs more has to wait until so much is free at once', () => {
  const nodes = [etaNode([1_000, 2_000, 9_000])]
  assert.equal(expectedStart({ need: { ...NEED, cpus: 3 }, nodes, ahead: [] }), 9_000)
  const memory = { ...NEED, memoryBytes: 16 * GIB }
  const [node] = nodes
  assert.ok(node !== undefined)
  const full = {
    ...node,
    free: { ...node.free, cpus: 3, memoryBytes: GIB },
    running: [{ cpus: 0, memoryBytes: 15 * GIB, diskBytes: 0, endsInMs: 7_000 }],
  }
  assert.equal(expectedStart({ need: memory, nodes: [full], ahead: [] }), 7_000)
})

test('eta: without measured durations it is not known', () => {
  assert.equal(expectedStart({ need: NEED, nodes: [etaNode([undefined])], ahead: [] }), undefined)
  assert.equal(
    expectedStart({ need: NEED, nodes: [etaNode([1_000])], ahead: jobs(2, undefined) }),
    undefined,
  )
  assert.equal(
    expectedStart({ need: { ...NEED, cpus: 9 }, nodes: [etaNode([1_000])], ahead: [] }),
    undefined,
  )
  assert.equal(expectedStart({ need: NEED, nodes: [], ahead: [] }), undefined)
})

test('eta: more work ahead never makes it earlier, and it is never before now', () => {
  fc.assert(
    fc.property(
      fc.array(fc.array(fc.integer({ min: 0, max: 100_000 }), { minLength: 1, maxLength: 8 }), {
        minLength: 1,
        maxLength: 6,
      }),
      fc.array(fc.integer({ min: 1, max: 50_000 }), { maxLength: 40 }),
      (ends, durations) => {
        const nodes = ends.map((times, at) => etaNode(times, times.length, 1 + at))
        const ahead = durations.map((durationMs) => ({ durationMs, share: 1 }))
        let before = 0
        for (let count = 0; count <= ahead.length; count++) {
          const inMs = expectedStart({ need: NEED, nodes, ahead: ahead.slice(0, count) })
          assert.ok(inMs !== undefined && inMs >= before, `${inMs} after ${before}`)
          before = inMs
        }
      },
    ),
    { numRuns: 60 },
  )
})

test('words: estimates are coarse, and what was not learnt is not claimed', () => {
  assert.deepEqual(
    [100, 42_000, 60_000, 355_000, 3_600_000, 7_900_000, 5 * 86_400_000].map(about),
    ['5 s', '45 s', '1 m', '6 m', '1 h', '2 h 10 m', '5 days'],
  )
  assert.equal(progressText(130_000, 299_000), '2m of ~5m')
  assert.equal(progressText(130_000, undefined), '2m')
  assert.equal(progressText(9_000, 12_000), '9s of ~12s')
})

function row(node: string, system: string, memoryGib: number, state = 'ready'): WhyNode {
  const verdict = (
    requirement: string,
    have: string,
    ok: boolean,
    rest: Partial<Verdict> = {},
  ): Verdict => ({ requirement, want: '', have, ok, permanent: requirement !== 'state', ...rest })
  const [kind = ''] = state.split(' ')
  const [busy = 0, total = 16] = [...(/(\d+)\/(\d+)/.exec(state)?.slice(1) ?? [])].map(Number)
  return {
    node,
    state: kind === 'lost' ? 'lost' : 'ready',
    cpus: { busy, total },
    verdicts: [
      verdict('system', system, system === 'x86_64-linux'),
      verdict('memory', `${memoryGib} GiB`, memoryGib >= 32, {
        brief: `${memoryGib} GiB`,
        total: memoryGib * GIB,
      }),
      verdict('state', kind, kind !== 'lost', { brief: state }),
    ],
  }
}

test('groups: nodes that are alike share a column, named by what they have in common', () => {
  const nodes = [
    ...Array.from({ length: 37 }, (_, at) =>
      row(`ci-${at}`, 'x86_64-linux', 64, `busy ${at % 17}/16`),
    ),
    row('ci-lost', 'x86_64-linux', 64, 'lost 4m'),
    row('big', 'x86_64-linux', 16),
    row('small', 'x86_64-linux', 8),
    row('alpha', 'aarch64-linux', 64),
    row('beta', 'aarch64-linux', 64),
  ]
  const groups = groupsOf(nodes)
  assert.deepEqual(
    groups.map(({ title, count }) => `${title} ${count}`),
    ['ci-* 37', 'ci-lost 1', 'x86_64 2', 'aarch64 2'],
  )
  assert.equal(
    groups.reduce((sum, { count }) => sum + count, 0),
    nodes.length,
  )
  const brief = (at: number, requirement: string) =>
    groups[at]?.verdicts.find((verdict) => verdict.requirement === requirement)?.brief
  assert.equal(
    brief(0, 'state'),
    `busy ${nodes.slice(0, 37).reduce((sum, { cpus }) => sum + (cpus?.busy ?? 0), 0)}/592`,
  )
  assert.equal(brief(2, 'memory'), '<=16 GiB')
})

test('groups: ten thousand nodes, each of another kind, make a bounded answer that counts them all', () => {
  const nodes = Array.from({ length: 10_000 }, (_, at): WhyNode => {
    const node = row(`n${at}`, 'x86_64-linux', 64)
    return {
      ...node,
      verdicts: [
        ...Array.from({ length: 14 }, (__, bit) => ({
          requirement: `feature f${bit}`,
          want: 'yes',
          have: '',
          ok: ((at >> bit) & 1) === 1,
          permanent: true,
        })),
      ],
    }
  })
  const groups = groupsOf(nodes)
  assert.equal(groups.length, 64)
  assert.equal(
    groups.reduce((sum, { count }) => sum + count, 0),
    10_000,
  )
})

test('groups: those of several answers are joined where they are alike', () => {
  const left = groupsOf([row('ci-1', 'x86_64-linux', 64), row('ci-2', 'x86_64-linux', 64)])
  const right = groupsOf([
    row('ci-3', 'x86_64-linux', 64),
    row('ci-4', 'x86_64-linux', 64),
    row('arm', 'aarch64-linux', 64),
  ])
  assert.deepEqual(
    mergeGroups([...left, ...right]).map(({ title, count }) => `${title} ${count}`),
    ['ci-* 4', 'arm 1'],
  )
})
