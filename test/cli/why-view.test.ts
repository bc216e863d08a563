/** `mesh why` as people see it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Why, type Verdict, type WhyNode } from '../../src/wire/api.ts'
import { displayWidth } from '../../src/cli/text/style.ts'
import { whyLines } from '../../src/cli/why-view.ts'

const PLAIN = { colour: false, unicode: true }

function verdict(requirement: string, want: string, rest: Partial<Verdict> = {}): Verdict {
  return { requirement, want, have: '', ok: true, permanent: false, ...rest }
}
const system = (have: string, rest: Partial<Verdict> = {}): Verdict =>
  verdict('system', 'aarch64-linux', {
    have,
    ok: have === 'aarch64-linux',
    permanent: true,
    ...rest,
  })
const memory = (gib: number): Verdict =>
  verdict('memory', '>= 32 GiB', {
    req: 'memory >= 32 GiB',
    have: `${gib} GiB in all`,
    brief: `${gib} GiB`,
    ok: gib >= 32,
    permanent: gib < 32,
  })
const kvm = (ok: boolean): Verdict =>
  verdict('feature kvm', 'yes', {
    req: 'feature kvm',
    have: ok ? 'yes' : 'no',
    ok,
    permanent: true,
  })
const state = (brief: string, ok = false): Verdict =>
  verdict('state', 'ready', { req: 'state', have: ok ? 'ready' : brief, brief, ok })
const node = (name: string, ...verdicts: Verdict[]): WhyNode => ({
  node: name,
  state: 'ready',
  verdicts,
})

const WHY: Why = {
  v: 1,
  job: 'j-4fz8',
  name: 'kernel-arm',
  request: 'r-92a',
  state: 'waiting',
  class: 'unsatisfiable',
  summary:
    'kernel-arm waits: no node matches; closest is arm-1: memory >= 32 GiB asked, 16 GiB in all',
  waitedMs: 192_000,
  nodes: [
    node('arm-1', system('aarch64-linux'), memory(16), kvm(true), state('ready', true)),
    node('arm-2', system('aarch64-linux'), memory(16), kvm(true), state('lost 4m')),
    node(
      'mac-1',
      system('aarch64-darwin', { brief: 'darwin' }),
      memory(64),
      kvm(false),
      state('draining'),
    ),
    node(
      'ci-a',
      system('x86_64-linux', { cross: 'x86_64-linux' }),
      memory(64),
      kvm(true),
      state('busy 12/16', true),
    ),
    node(
      'gpu-1',
      system('x86_64-linux', { cross: 'x86_64-linux' }),
      memory(64),
      kvm(true),
      state('off'),
    ),
  ],
  rows: ['system', 'memory', 'feature kvm', 'state'],
  notes: ['would match with a cross build: this derivation has no when.host = "x86_64-linux"'],
  closest: 'arm-1 fails 1 of 4 (memory 32 GiB asked, 16 GiB total). This cannot change by waiting.',
  position: null,
  etaMs: null,
  eta: null,
  failsAt: '2026-11-23T11:12:00.000Z',
  waitLimitMs: 24 * 3_600_000,
  fixes: [],
  advice: [
    { text: 'lower needs.memory to 16 GiB or less', how: 'kernel-arm.mesh.toml:11' },
    { text: 'add a cross toolchain for x86_64 hosts', how: 'mesh explain cross' },
    { text: 'add a machine:', how: 'mesh-node --role worker --parent MULTIADDR' },
  ],
  asOf: '2026-11-22T11:15:12.000Z',
  unknown: [],
}

test('why: what no node can build: the matrix, the closest node, what to do, and when it ends', () => {
  assert.equal(
    whyLines(WHY, { style: PLAIN }).join('\n'),
    `kernel-arm (j-4fz8) has waited 3m 12s: no node matches its requirements.

  requirement           arm-1  arm-2    mac-1      ci-a        gpu-1
  system aarch64-linux  yes    yes      NO darwin  no*         no*
  memory >= 32 GiB      NO 16  NO 16    yes        yes         yes
  feature kvm           yes    yes      NO         yes         yes
  state                 ready  lost 4m  draining   busy 12/16  off

  * would match with a cross build: this derivation has no when.host = "x86_64-linux"
closest: arm-1 fails 1 of 4 (memory 32 GiB asked, 16 GiB total). This cannot change by waiting.
You can:
  - lower needs.memory to 16 GiB or less       kernel-arm.mesh.toml:11
  - add a cross toolchain for x86_64 hosts     mesh explain cross
  - add a machine:                             mesh-node --role worker --parent MULTIADDR
It fails by itself on Mon 11:12 UTC (wait limit 24h). To fail at once next time: mesh submit --no-wait`,
  )
})

test('why: a narrow terminal gets the columns in blocks and whole words', () => {
  for (const width of [40, 60, 80] as const) {
    const lines = whyLines(WHY, { style: PLAIN, width })
    for (const line of lines) assert.ok(displayWidth(line) <= Math.max(width, 48), line)
    const text = lines.join('\n').replaceAll(/\s+/g, ' ')
    for (const { node: name } of WHY.nodes) assert.match(text, new RegExp(`\\b${name}\\b`))
    assert.equal(text.match(/memory >= 32 GiB/g)?.length, { 40: 4, 60: 2, 80: 1 }[width])
    assert.match(text, /To fail at once next time: mesh submit --no-wait$/)
  }
})

test('why: colours only where they are wanted', () => {
  assert.ok(!whyLines(WHY, { style: PLAIN }).join('').includes('\x1b'))
  const painted = whyLines(WHY, { style: { colour: true, unicode: true } }).join('\n')
  assert.ok(painted.includes('\x1b[31mNO 16\x1b[39m'), painted)
  // oxlint-disable-next-line no-control-regex
  assert.equal(painted.replaceAll(/\x1b\[\d+m/g, ''), whyLines(WHY, { style: PLAIN }).join('\n'))
})

test('why: what only waits for its turn tells its place and the time, and no limit', () => {
  const text =
    'all 3 matching nodes are busy: position 14 of 40 in the queue, expected start in about 6 m (from 212 durations)'
  const lines = whyLines(
    {
      ...WHY,
      class: 'busy',
      summary: `kernel-arm waits: ${text}`,
      closest: null,
      notes: [],
      advice: [{ text: 'let it go before others', how: 'mesh boost j-4fz8' }],
    },
    { style: PLAIN },
  )
  assert.equal(lines[0], `kernel-arm (j-4fz8) has waited 3m 12s: ${text}.`)
  assert.ok(lines.some((line) => line.includes('busy 12/16')))
  assert.ok(!lines.some((line) => line.includes('It fails by itself')))
  assert.equal(lines.at(-1), '  - let it go before others     mesh boost j-4fz8')
})

test('why: what waits for inputs needs no matrix', () => {
  const lines = whyLines(
    {
      ...WHY,
      class: 'inputs',
      summary: 'kernel-arm waits: waiting for input zlib.out (j-17qa, running on ci-a, 2m of ~5m)',
      closest: null,
      notes: [],
      advice: [],
    },
    { style: PLAIN },
  )
  assert.deepEqual(lines, [
    'kernel-arm (j-4fz8) has waited 3m 12s: waiting for input zlib.out (j-17qa, running on ci-a, 2m of ~5m).',
  ])
})

test('why: one node is shown with every requirement and value', () => {
  const [, , , ci] = WHY.nodes
  assert.ok(ci !== undefined)
  const lines = whyLines({ ...WHY, nodes: [ci], advice: [] }, { style: PLAIN, onlyNode: 'ci-a' })
  assert.equal(
    lines.slice(2, -1).join('\n'),
    `  requirement  asked          ci-a has
  system       aarch64-linux  x86_64-linux       no*
  memory       >= 32 GiB      64 GiB in all      yes
  feature kvm  yes            yes                yes
  state        ready          ready, busy 12/16  yes
ci-a fails 1 of 4 (system aarch64-linux). This cannot change by waiting.`,
  )
})

test('why: many nodes are shown by kind, and a part of the mesh that is silent is named', () => {
  const lines = whyLines(
    {
      ...WHY,
      nodeCount: 39,
      groups: [
        {
          title: 'x86_64',
          count: 37,
          nodes: ['a', 'b'],
          verdicts: [system('x86_64-linux'), memory(64), kvm(true), state('busy 180/592', true)],
        },
        {
          title: 'arm-1',
          count: 1,
          nodes: ['arm-1'],
          verdicts: [system('aarch64-linux'), memory(16), kvm(true), state('ready', true)],
        },
      ],
      unknown: ['lab-2'],
    },
    { style: PLAIN },
  )
  assert.ok(
    lines.some((line) => line.includes('x86_64 (37 nodes)')),
    lines.join('\n'),
  )
  assert.ok(
    lines.some((line) =>
      line.startsWith('not known: what the nodes below lab-2 could do; it has not answered (as of'),
    ),
  )
})

test('why: the answer of an older daemon is shown as well', () => {
  const {
    rows: _rows,
    notes: _notes,
    closest: _closest,
    advice: _advice,
    failsAt: _at,
    ...old
  } = WHY
  const lines = whyLines(
    { ...old, fixes: ['lower needs.memory to 16 GiB or less'] },
    { style: PLAIN },
  )
  assert.ok(lines.some((line) => line.startsWith('  memory >= 32 GiB')))
  assert.equal(lines.at(-1), '  - lower needs.memory to 16 GiB or less')
})

test('why: a reason that only a newer daemon knows is shown by its text', () => {
  const parsed = Why.parse({
    ...WHY,
    class: 'of a newer version',
    summary: 'kernel-arm waits: for the moon',
    closest: null,
  })
  assert.equal(parsed.class, 'other')
  assert.match(whyLines(parsed, { style: PLAIN })[0] ?? '', /: for the moon\.$/)
})
